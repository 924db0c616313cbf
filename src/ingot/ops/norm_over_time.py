r"""Every channel of every row to mean 0, variance 1 over the row's real positions: group norm with a group a channel.

    y_t = (x_t - mean) / sqrt(var + eps) * w + b        mean, var: over t < length        y_t = 0 for t >= length

Wu and He 2018, arXiv:1803.08494; what wav2vec 2.0 has after its first convolution, save that padding is left out.
torch's kernel knows no lengths. On a CPU it is called once for every row here, which is a quarter of the passes over memory that the
definition takes; elsewhere, and for a compiler, which fuses them, the definition is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_over_time(x_BCT: Tensor, length_B: Tensor | None, weight_C: Tensor, bias_C: Tensor, eps: float = 1e-5) -> Tensor:
    """As above, in x's type, computed in fp32 at least. length_B: None for rows without padding."""
    if length_B is None:
        return F.group_norm(x_BCT, x_BCT.shape[1], weight_C.to(x_BCT.dtype), bias_C.to(x_BCT.dtype), eps)
    held, x_BCT = x_BCT.dtype, x_BCT.to(torch.promote_types(x_BCT.dtype, torch.float32))  # sums over thousands of samples
    weight_C, bias_C = weight_C.to(x_BCT.dtype), bias_C.to(x_BCT.dtype)
    if x_BCT.device.type != "cpu" or torch.compiler.is_compiling():
        return norm_over_time_reference(x_BCT, length_B, weight_C, bias_C, eps).to(held)
    found: Tensor = torch.ops.ingot.norm_over_time(x_BCT, length_B, weight_C, bias_C, eps)[0]
    return found.to(held)


def norm_over_time_reference(x_BCT: Tensor, length_B: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    """The definition."""
    real_B1T = (torch.arange(x_BCT.shape[2], device=x_BCT.device) < length_B[:, None])[:, None].to(x_BCT.dtype)
    count_B11 = real_B1T.sum(dim=2, keepdim=True).clamp(min=1)
    mean_BC1 = (x_BCT * real_B1T).sum(dim=2, keepdim=True) / count_B11
    variance_BC1 = ((x_BCT - mean_BC1).square() * real_B1T).sum(dim=2, keepdim=True) / count_B11
    return ((x_BCT - mean_BC1) * (variance_BC1 + eps).rsqrt() * weight_C[:, None] + bias_C[:, None]) * real_B1T


def _forward(x_BCT: Tensor, length_B: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    B, C, _ = x_BCT.shape
    y_BCT, mean_BC, rstd_BC = torch.zeros_like(x_BCT), x_BCT.new_zeros(B, C), x_BCT.new_zeros(B, C)
    for row, T in enumerate(length_B.tolist()):
        if T > 0:
            part_1CT = x_BCT[row : row + 1, :, :T].contiguous()
            found_1CT, mean_BC[row], rstd_BC[row] = torch.native_group_norm(part_1CT, weight_C, bias_C, 1, C, T, C, eps)
            y_BCT[row, :, :T] = found_1CT[0]
    return y_BCT, mean_BC, rstd_BC


def _backward(
    g_BCT: Tensor, x_BCT: Tensor, length_B: Tensor, weight_C: Tensor, mean_BC: Tensor, rstd_BC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    C = x_BCT.shape[1]
    dx_BCT, dweight_C, dbias_C = torch.zeros_like(x_BCT), torch.zeros_like(weight_C), torch.zeros_like(weight_C)
    for row, T in enumerate(length_B.tolist()):
        if T > 0:
            g_1CT, x_1CT = (t[row : row + 1, :, :T].contiguous() for t in (g_BCT, x_BCT))
            dx_1CT, dweight, dbias = torch.ops.aten.native_group_norm_backward(
                g_1CT, x_1CT, mean_BC[row : row + 1], rstd_BC[row : row + 1], weight_C, 1, C, T, C, [True, True, True]
            )
            dx_BCT[row, :, :T] = dx_1CT[0]
            dweight_C += dweight
            dbias_C += dbias
    return dx_BCT, dweight_C, dbias_C


def _derive(ctx: Any, g_BCT: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x_BCT, length_B, weight_C, bias_C, mean_BC, rstd_BC = ctx.saved_tensors
    if not torch.is_grad_enabled():
        dx_BCT, dweight_C, dbias_C = torch.ops.ingot.norm_over_time_backward(g_BCT, x_BCT, length_B, weight_C, mean_BC, rstd_BC)
        return dx_BCT, None, dweight_C, dbias_C, None
    # create_graph: a gradient that can be differentiated again
    needed = [ctx.needs_input_grad[at] for at in (0, 2, 3)]
    wanted = [t for t, asked in zip((x_BCT, weight_C, bias_C), needed, strict=True) if asked]
    y_BCT = norm_over_time_reference(x_BCT, length_B, weight_C, bias_C, ctx.eps)
    found = iter(torch.autograd.grad(y_BCT, wanted, g_BCT, create_graph=True))
    dx, dweight, dbias = (next(found) if asked else None for asked in needed)
    return dx, None, dweight, dbias, None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


# Operators of the library, since lengths are numbers that a forecast on tensors without values does not have.
_library = torch.library.Library("ingot", "FRAGMENT")
_library.define("norm_over_time(Tensor x, Tensor length, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)")
_library.define(
    "norm_over_time_backward(Tensor g, Tensor x, Tensor length, Tensor weight, Tensor mean, Tensor rstd) -> (Tensor, Tensor, Tensor)"
)
_library.impl("norm_over_time", _forward, "CPU")
_library.impl("norm_over_time_backward", _backward, "CPU")
torch.library.register_fake(
    "ingot::norm_over_time",
    lambda x, length, weight, bias, eps: (torch.empty_like(x), x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])),
)
torch.library.register_fake(
    "ingot::norm_over_time_backward",
    lambda g, x, length, weight, mean, rstd: (torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)),
)
torch.library.register_autograd("ingot::norm_over_time", _derive, setup_context=_save)
