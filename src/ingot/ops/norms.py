r"""Normalization with fp32 statistics, in the fewest eager passes that torch's own kernels allow on CPU.

    rms_norm    y = x / sqrt(mean(x^2) + eps) * w                  Zhang and Sennrich 2019, arXiv:1910.07467, equation 4
    layer_norm  y = (x - mean) / sqrt(var + eps) * w + b           Ba et al. 2016, arXiv:1607.06450

torch has a CPU kernel for layer_norm but composes rms_norm of many passes. Here its forward pass is the kernel of batch_norm with
given statistics, one "channel" per vector; its backward pass is layer_norm's kernel, told that the mean is zero, and one
correction: that kernel also subtracts the mean over features of g w, which is added back.

Shapes: x (..., D); w, b (D,) in any floating type; the result has x's type.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight_D: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x over its root mean square along the last axis, times weight."""
    if x.device.type == "cpu":
        # A compiler fuses the definition into fewer passes than there are kernels to call.
        return rms_norm_reference(x, weight_D, eps) if torch.compiler.is_compiling() else _RMS.apply(x, weight_D, eps)
    return F.rms_norm(x, x.shape[-1:], None if weight_D is None else weight_D.to(x.dtype), eps)


def layer_norm(x: Tensor, weight_D: Tensor | None = None, bias_D: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """x with mean 0 and variance 1 along the last axis, times weight, plus bias."""
    if x.device.type != "cpu":
        weight_D, bias_D = (None if t is None else t.to(x.dtype) for t in (weight_D, bias_D))
    elif bias_D is not None and weight_D is None:
        weight_D = torch.ones_like(bias_D)
    return F.layer_norm(x, x.shape[-1:], weight_D, bias_D, eps)


def rms_norm_reference(x: Tensor, weight_D: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """The definition in fp32 (fp64 for fp64)."""
    wide = x.to(_work(x))
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if weight_D is None else y * weight_D.to(y.dtype)).to(x.dtype)


def layer_norm_reference(x: Tensor, weight_D: Tensor | None = None, bias_D: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """The definition in fp32 (fp64 for fp64)."""
    wide = x.to(_work(x))
    centered = wide - wide.mean(-1, keepdim=True)
    y = centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)
    y = y if weight_D is None else y * weight_D.to(y.dtype)
    return (y if bias_D is None else y + bias_D.to(y.dtype)).to(x.dtype)


def _work(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _RMS(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_D, eps):  # type: ignore[no-untyped-def]
        x_ND = x.reshape(-1, x.shape[-1])
        square_N = torch.linalg.vector_norm(x_ND.to(_work(x)), dim=-1).square_().div_(x.shape[-1])
        y_ND = F.batch_norm(x_ND[None], torch.zeros_like(square_N), square_N, eps=eps)[0] if len(x_ND) else x_ND.clone()
        ctx.save_for_backward(x, weight_D, square_N)
        ctx.eps = eps
        return (y_ND if weight_D is None else y_ND.mul_(weight_D.to(x.dtype))).view(x.shape)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        x, weight_D, square_N = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: a gradient that can be differentiated again
            wanted = [t for t, needed in zip((x, weight_D), ctx.needs_input_grad) if needed]
            found = iter(torch.autograd.grad(rms_norm_reference(x, weight_D, ctx.eps), wanted, g, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), None
        width = x.shape[-1]
        x_ND, g_ND = x.reshape(-1, width), g.reshape(-1, width)
        rstd_N1 = torch.rsqrt(square_N + ctx.eps)[:, None]
        # Given even where there is none: the kernel takes fp32 statistics of bf16 input only beside an fp32 weight.
        wide_weight_D = rstd_N1.new_ones(width) if weight_D is None else weight_D.to(rstd_N1.dtype)
        dx_ND, dw_D, _ = torch.ops.aten.native_layer_norm_backward(
            g_ND, x_ND, (width,), torch.zeros_like(rstd_N1), rstd_N1, wide_weight_D, None, [True, ctx.needs_input_grad[1], False]
        )
        removed_N = g_ND.sum(-1) if weight_D is None else g_ND @ weight_D.to(g.dtype)
        dx_ND.add_((removed_N[:, None] * (rstd_N1 / width)).to(g.dtype))
        return dx_ND.view(x.shape), None if not ctx.needs_input_grad[1] else dw_D.to(weight_D.dtype), None
