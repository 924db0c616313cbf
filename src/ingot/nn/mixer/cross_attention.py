r"""Attention from a decoder's positions to the encoder's.   Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.

    y = W_output concat_h softmax(scale q_h k_g^T + mask) v_g        q from x, k and v from the memory

    x_BTD   memory_BSM   q_BHTd   k, v (B, kv_heads, S, d)

Packed rows: a position sees the memory of its own segment. Where the decoder's segments are not given, it sees all of the memory
that is not padding. Keys and values of the memory are computed once per generation.

Cost: 2 D d 2 H operations per position, 2 M d 2 H_kv per position of the memory, and 4 H d per pair.
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
class CrossAttention(nn.Module):
    """heads: H. kv_heads, head_dim, qk_norm, bias, output_bias, scale: as in ``attention``. There are no positions to turn."""

    attends = "memory"
    caches = True

    def __init__(
        self,
        width: int,
        linear: Spec,
        layer: int = 0,
        memory_width: int | None = None,
        *,
        heads: Positive[int],
        kv_heads: Positive[int] | None = None,
        head_dim: Positive[int] | None = None,
        qk_norm: Slot["nn.norm"] | None = None,
        bias: bool = False,
        output_bias: bool | None = None,
        scale: Positive[float] | None = None,
    ):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.scale = heads, kv_heads or heads, head_dim or width // heads, scale
        self.name, memory = f"cross/{layer}", memory_width or width

        def projection(inputs: int, outputs: int, with_bias: bool, axes: tuple[str, str]) -> nn.Module:
            return linear.build(inputs=inputs, outputs=outputs, bias=with_bias, axes=axes, role="matrix")

        self.query = projection(width, heads * self.head_dim, bias, ("heads", "width"))
        self.key = projection(memory, self.kv_heads * self.head_dim, bias, ("kv_heads", "width"))
        self.value = projection(memory, self.kv_heads * self.head_dim, bias, ("kv_heads", "width"))
        self.output = projection(heads * self.head_dim, width, bias if output_bias is None else output_bias, ("width", "heads"))
        self.query_norm = qk_norm.build(width=self.head_dim, axis="head_dim") if qk_norm else None
        self.key_norm = qk_norm.build(width=self.head_dim, axis="head_dim") if qk_norm else None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        heads, kv_heads = knobs["heads"], knobs["kv_heads"]
        run = context.get("run")
        decoder = None if run is None else run.model.decoder
        width = (None if decoder is None else decoder.knobs.get("inner")) or context.get("width")
        if knobs["head_dim"] is None and width is not None and width % heads:
            yield f"{heads} heads do not divide the width {width}; choose another number or set head_dim"
        if kv_heads is not None and heads % kv_heads:
            yield f"{kv_heads} kv_heads do not divide {heads} heads"

    def _memory(self, memory_BSM: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, kv_heads, S, d) each."""
        B, S, _ = memory_BSM.shape
        k = self.key(memory_BSM).view(B, S, self.kv_heads, self.head_dim)
        v = self.value(memory_BSM).view(B, S, self.kv_heads, self.head_dim)
        return (k if self.key_norm is None else self.key_norm(k)).transpose(1, 2), v.transpose(1, 2)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        memory = context.memory_BSD
        if memory is None:
            raise ValueError("cross attention needs a memory: it belongs into a decoder")
        B, T, _ = x_BTD.shape
        q = self.query(x_BTD).view(B, T, self.heads, self.head_dim)
        q = (q if self.query_norm is None else self.query_norm(q)).transpose(1, 2)
        k, v = self._memory(memory) if context.cache is None else context.cache.keep(self.name, lambda: self._memory(memory))
        segments, key_segments = context.segments_BT, context.memory_segments_BS
        if key_segments is None:
            segments = None
        elif segments is None:
            segments = torch.ones(B, T, dtype=key_segments.dtype, device=key_segments.device)
        y = attention(q, k, v, causal=False, segments_BT=segments, key_segments_BS=key_segments, scale=self.scale)
        return self.output(y.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}"
