"""FLOP formulas for what torch's counter does not know, or counts by another convention.

A multiply-add is 2, pairs that the mask removes are not counted, recomputation is not counted, so attention costs
2 pairs (d_qk + d_v) per head forward and twice that backward, whichever kernel runs. The counter itself knows CPU attention as
zero, and counts the full square and recomputation for CUDA attention.

Decompositions, which some optimizers make, count by Golub & Van Loan, Matrix Computations, 4th edition, of m rows and n <= m columns:
the thin SVD 6 m n^2 + 20 n^3 (figure 8.6.1, R-SVD), the thin QR by Householder 4 m n^2 - 4 n^3 / 3 (sections 5.2.2, 5.1.6).

Formulas see the actual tensors: pairs across segments and targets that are not scored are left out, from the batch at hand; on
meta or fake tensors segments are ignored and every target counts as scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from .attention import MASKED, attended_pairs
from .cross_entropy import IGNORED
from .grouped import flops_of_matmul, flops_of_outer

_ATEN = torch.ops.aten
_FUSED = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


def register() -> None:
    """Make torch.utils.flop_counter.FlopCounterMode count as above, for the whole process; call again at will."""
    for name in _FUSED:
        for suffix, factor in (("", 1), ("_backward", 2)):
            packet = getattr(_ATEN, name + suffix, None)
            if packet is not None:
                flop_registry[packet] = _fused(packet.default, factor)
    own = torch.ops.ingot
    flop_registry[own.blocked_attention] = _blocked(own.blocked_attention.default, 1)
    flop_registry[own.blocked_attention_backward] = _blocked(own.blocked_attention_backward.default, 2)
    flop_registry[own.linear_cross_entropy] = _cross_entropy
    flop_registry[own.linear_cross_entropy_backward] = _nothing
    flop_registry[own.grouped_matmul] = flops_of_matmul
    flop_registry[own.grouped_outer] = flops_of_outer
    flop_registry[_ATEN._linalg_svd] = _svd
    flop_registry[_ATEN.linalg_qr] = _qr


def _bound(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults included."""
    bound = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
    return bound | dict(zip((a.name for a in op._schema.arguments), args)) | kwargs


def _real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.device.type != "meta" and not isinstance(x, torch._subclasses.FakeTensor)


def _matmuls(q: Tensor, v: Tensor, pairs: int) -> int:
    """Both matmuls of a forward pass, for pairs summed over rows and heads."""
    return 2 * pairs * (q.shape[-1] + v.shape[-1])


def _blocked(op: Any, factor: int) -> Callable[..., int]:
    def formula(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        a = _bound(op, args, kwargs)
        (rows, heads, queries, _), keys = a["q"].shape, a["k"].shape[2]
        segments, key_segments = (a[name] if _real(a[name]) else None for name in ("segments", "key_segments"))
        pairs = attended_pairs(queries, a["causal"], a["window"] or None, segments, keys=keys, key_segments_BS=key_segments)
        return factor * _matmuls(a["q"], a["v"], pairs * heads * (rows if segments is None else 1))

    return formula


def _fused(op: Any, factor: int) -> Callable[..., int]:
    def formula(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        a = _bound(op, args, kwargs)
        q, k, v = (a.get(name, a.get(name[0])) for name in ("query", "key", "value"))
        (rows, heads, queries, _), keys = q.shape, k.shape[2]
        mask = a.get("attn_mask", a.get("attn_bias"))
        if _real(mask):
            allowed = mask if mask.dtype == torch.bool else mask > MASKED / 2
            pairs = int(allowed.sum()) * (rows * heads * queries * keys // math.prod(allowed.shape))
        else:
            pairs = rows * heads * attended_pairs(queries, a["is_causal"], keys=keys)
        return factor * _matmuls(q, v, pairs)

    return formula


def _cross_entropy(
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    softcap: float,
    z_loss: float,
    want_h: bool,
    want_w: bool,
    out_val: Any = None,
) -> int:
    """The gradients' matmuls are counted here, where they run."""
    scored = int((targets != IGNORED).sum()) if _real(targets) else targets.numel()
    return 2 * scored * weight.numel() * (1 + want_h + want_w)


def _nothing(*args: Any, **kwargs: Any) -> int:
    """What the backward pass of cross-entropy may compute again is recomputation."""
    return 0


def _sides(matrix: Tensor) -> tuple[int, int, int]:
    """How many matrices, their longer and their shorter side."""
    return math.prod(matrix.shape[:-2]), max(matrix.shape[-2:]), min(matrix.shape[-2:])


def _svd(matrix: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    count, m, n = _sides(matrix)
    return count * (6 * m * n**2 + 20 * n**3)


def _qr(matrix: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    count, m, n = _sides(matrix)
    return count * (4 * m * n**2 - 4 * n**3 // 3)
