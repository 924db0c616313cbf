r"""Multi-head attention, with grouped keys and values.   Vaswani et al. 2017, arXiv:1706.03762, section 3.2.

    y = W_output concat_h softmax(scale q_h k_g^T + mask) v_g        g = h * kv_heads / heads

Grouped queries: Ainslie et al. 2023, arXiv:2305.13245.  Window: Beltagy et al. 2020, arXiv:2004.05150.  Norms on queries and keys:
Henry et al. 2020, arXiv:2010.04245.  Softcap, tanh(s / c) c on the scores: Gemma 2, arXiv:2408.00118.

    x_BTD   q_BHTd   k, v (B, kv_heads, T, d)

Cost: 2 D d (2 H + 2 H_kv) operations per position, and 4 H d per pair that is attended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...core.parts import Positive, Slot, Spec, part
from ...ops.attention import attention
from ..context import Context


@part
class Attention(nn.Module):
    """heads: H. kv_heads: heads of keys and values, H when not given. head_dim: d, width / H when not given.

    window: how many positions, itself included, a position sees on its left (and right, when not causal). position: what turns
    queries and keys, or biases their scores; none for additive positions. qk_norm: norm on each head's query and key. bias: on query, key
    and value; output_bias: on the output, as bias when not given. scale: on the scores, d^-1/2 when not given. softcap: bound on the
    scores. caches: past keys and values may be kept in ``context.cache``.
    """

    caches = True

    def __init__(
        self,
        width: int,
        linear: Spec,
        layer: int = 0,
        *,
        heads: Positive[int],
        kv_heads: Positive[int] | None = None,
        head_dim: Positive[int] | None = None,
        window: Positive[int] | None = None,
        position: Slot["nn.position"] | None = "rotary",
        qk_norm: Slot["nn.norm"] | None = None,
        bias: bool = False,
        output_bias: bool | None = None,
        scale: Positive[float] | None = None,
        softcap: Positive[float] | None = None,
    ):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads or heads, head_dim or width // heads
        self.window, self.scale, self.softcap = window, scale, softcap
        self.name = str(layer)

        def projection(inputs: int, outputs: int, with_bias: bool, axes: tuple[str, str]) -> nn.Module:
            return linear.build(inputs=inputs, outputs=outputs, bias=with_bias, axes=axes, role="matrix")

        self.query = projection(width, heads * self.head_dim, bias, ("heads", "width"))
        self.key = projection(width, self.kv_heads * self.head_dim, bias, ("kv_heads", "width"))
        self.value = projection(width, self.kv_heads * self.head_dim, bias, ("kv_heads", "width"))
        self.output = projection(heads * self.head_dim, width, bias if output_bias is None else output_bias, ("width", "heads"))
        self.query_norm = qk_norm.build(width=self.head_dim, axis="head_dim") if qk_norm else None
        self.key_norm = qk_norm.build(width=self.head_dim, axis="head_dim") if qk_norm else None
        self.position = position.build(head_dim=self.head_dim, heads=heads, layer=layer) if position else None
        self.biased = bool(getattr(self.position, "biases", False))

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        heads, kv_heads, width = knobs["heads"], knobs["kv_heads"], context.get("width")
        if knobs["head_dim"] is None and width is not None and width % heads:
            yield f"{heads} heads do not divide the model width {width}; choose another number or set head_dim"
        if kv_heads is not None and heads % kv_heads:
            yield f"{kv_heads} kv_heads do not divide {heads} heads"
        position = knobs["position"]
        if position is None:
            return
        if not getattr(position.target, "rotates", False) and not getattr(position.target, "biases", False):
            yield f"position {position.name!r} is added to the embedding; set embedding.position to it and the mixer's position to null"
        head_dim = knobs["head_dim"] or (width // heads if width is not None else None)
        if getattr(position.target, "rotates", False) and head_dim is not None and head_dim % 2:
            yield f"{position.name} positions turn pairs of features, but a head has {head_dim}: wants an even number"

    def share(self, context: Context, dtype: torch.dtype) -> None:
        """Compute what all layers of this kind have in common, once per forward."""
        if self.biased:
            if self.position.shared:  # type: ignore[union-attr]
                self.position.bias(context, dtype)  # type: ignore[union-attr, operator]
        elif self.position is not None and self.position.name not in context.shared:
            context.shared[self.position.name] = self.position.angles(context.positions_BT, dtype)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        B, T, _ = x_BTD.shape
        q = self.query(x_BTD).view(B, T, self.heads, self.head_dim)
        k = self.key(x_BTD).view(B, T, self.kv_heads, self.head_dim)
        v = self.value(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)  # type: ignore[misc]
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        if self.position is not None and not self.biased:
            angles = context.shared.get(self.position.name) or self.position.angles(context.positions_BT, x_BTD.dtype)
            q, k = self.position(q, angles), self.position(k, angles)
        if context.cache is not None:
            k, v = context.cache.extend(self.name, k, v)
        segments_BT = context.segments_BT
        if context.even and context.cache is None and not self.biased:  # documents of equal length are rows of their own to the kernel
            q, k, v = (z.unflatten(2, (context.even, -1)).transpose(1, 2).flatten(0, 1) for z in (q, k, v))
            segments_BT = None
        y = attention(
            q,
            k,
            v,
            causal=context.causal,
            segments_BT=segments_BT,
            window=self.window,
            scale=self.scale,
            softcap=self.softcap,
            bias_HTS=self.position.bias(context, x_BTD.dtype) if self.biased else None,  # type: ignore[union-attr, operator]
        )
        return self.output(y.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, window={self.window}"
