r"""Every channel of every row to mean 0, variance 1 over the row's real positions: group norm with a group a channel.

    y_t = (x_t - mean) / sqrt(var + eps) * w + b        mean, var: over t < length        y_t = 0 for t >= length

Wu and He 2018, arXiv:1803.08494; what wav2vec 2.0 has after its first convolution, save that padding is left out.
On a CPU each row is handed to torch's kernel of batch norm, whose statistics of one row laid out channels last are these; elsewhere,
and for a compiler, which fuses passes, the definition is used.

Shapes: x (B, T, C), length (B,), w, b (C,); the result has x's type, statistics are fp32 at least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def norm_over_time(x_BTC: Tensor, length_B: Tensor | None, weight_C: Tensor, bias_C: Tensor, eps: float = 1e-5) -> Tensor:
    """As above. length_B: None for rows without padding."""
    wide = torch.promote_types(x_BTC.dtype, torch.float32)
    weight_C, bias_C = weight_C.to(wide), bias_C.to(wide)
    if length_B is None:
        length_B = torch.full(x_BTC.shape[:1], x_BTC.shape[1], device=x_BTC.device)
    if x_BTC.device.type != "cpu" or torch.compiler.is_compiling():
        return norm_over_time_reference(x_BTC, length_B, weight_C, bias_C, eps)
    found: Tensor = torch.ops.ingot.norm_over_time(x_BTC, length_B, weight_C, bias_C, eps)[0]
    return found


def norm_over_time_reference(x_BTC: Tensor, length_B: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    """The definition, in the type of weight and bias."""
    wide_BTC = x_BTC.to(weight_C.dtype)
    real_BT1 = (torch.arange(x_BTC.shape[1], device=x_BTC.device) < length_B[:, None])[:, :, None].to(weight_C.dtype)
    count_B11 = real_BT1.sum(dim=1, keepdim=True).clamp(min=1)
    mean_B1C = (wide_BTC * real_BT1).sum(dim=1, keepdim=True) / count_B11
    variance_B1C = ((wide_BTC - mean_B1C).square() * real_BT1).sum(dim=1, keepdim=True) / count_B11
    return (((wide_BTC - mean_B1C) * (variance_B1C + eps).rsqrt() * weight_C + bias_C) * real_BT1).to(x_BTC.dtype)


def _row(x_TC: Tensor) -> Tensor:
    """As a batch of one picture, (1, C, 1, T), channels last."""
    return x_TC.t()[None, :, None]


def _forward(x_BTC: Tensor, length_B: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    B, _, C = x_BTC.shape
    x_BTC = x_BTC.contiguous()
    y_BTC, mean_BC, rstd_BC = torch.empty_like(x_BTC), weight_C.new_zeros(B, C), weight_C.new_zeros(B, C)
    for row, T in enumerate(length_B.clamp(min=0).tolist()):
        y_BTC[row, T:] = 0
        if T > 0:
            found = _row(y_BTC[row, :T]), mean_BC[row], rstd_BC[row]
            torch.native_batch_norm(_row(x_BTC[row, :T]), weight_C, bias_C, None, None, True, 0.0, eps, out=found)
    return y_BTC, mean_BC, rstd_BC


def _backward(
    g_BTC: Tensor, x_BTC: Tensor, length_B: Tensor, weight_C: Tensor, mean_BC: Tensor, rstd_BC: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    g_BTC, x_BTC = g_BTC.contiguous(), x_BTC.contiguous()
    dx_BTC, dweight_C, dbias_C = torch.empty_like(x_BTC), torch.zeros_like(weight_C), torch.zeros_like(weight_C)
    for row, T in enumerate(length_B.clamp(min=0).tolist()):
        dx_BTC[row, T:] = 0
        if T > 0:
            dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
                _row(g_BTC[row, :T]), _row(x_BTC[row, :T]), weight_C, None, None, mean_BC[row], rstd_BC[row], True, eps, [True, True, True]
            )
            dx_BTC[row, :T] = dx[0, :, 0].t()
            dweight_C += dweight
            dbias_C += dbias
    return dx_BTC, dweight_C, dbias_C


def _derive(ctx: Any, g_BTC: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x_BTC, length_B, weight_C, bias_C, mean_BC, rstd_BC = ctx.saved_tensors
    if not torch.is_grad_enabled():
        dx_BTC, dweight_C, dbias_C = torch.ops.ingot.norm_over_time_backward(g_BTC, x_BTC, length_B, weight_C, mean_BC, rstd_BC, ctx.eps)
        return dx_BTC, None, dweight_C, dbias_C, None
    # create_graph: a gradient that can be differentiated again
    needed = [ctx.needs_input_grad[at] for at in (0, 2, 3)]
    wanted = [t for t, asked in zip((x_BTC, weight_C, bias_C), needed, strict=True) if asked]
    y_BTC = norm_over_time_reference(x_BTC, length_B, weight_C, bias_C, ctx.eps)
    found = iter(torch.autograd.grad(y_BTC, wanted, g_BTC, create_graph=True))
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
    "norm_over_time_backward(Tensor g, Tensor x, Tensor length, Tensor weight, Tensor mean, Tensor rstd, float eps)"
    " -> (Tensor, Tensor, Tensor)"
)
_library.impl("norm_over_time", _forward, "CPU")
_library.impl("norm_over_time_backward", _backward, "CPU")
torch.library.register_fake(
    "ingot::norm_over_time",
    lambda x, length, weight, bias, eps: (torch.empty_like(x), *(weight.new_empty(x.shape[0], x.shape[2]) for _ in range(2))),
)
torch.library.register_fake(
    "ingot::norm_over_time_backward",
    lambda g, x, length, weight, mean, rstd, eps: (torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)),
)
torch.library.register_autograd("ingot::norm_over_time", _derive, setup_context=_save)
