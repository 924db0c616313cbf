r"""Cross-entropy of a linear head, without ever holding all logits.

    z_n = cap(W h_n + bias)      loss_b = sum over the row's scored n of  lse(z_n) - z_n[target_n]
                                 z_b    = z_loss * the same sum of        lse(z_n)^2            (z-loss: PaLM, arXiv:2204.02311, section 5)

Positions whose target is -100 are not scored and are left out before the first matmul. Logits are formed for a part of the scored
positions at a time; the gradients of h, W and bias are taken from them at once, so the backward pass only scales: per row for h,
and by one number for W and bias where every scored row has the same upstream gradient. Where rows differ, or the two losses
differ, what that touches is computed again from the definition.

Matmuls run in h's dtype; logits are widened to fp32 (fp64 for fp64) for the softmax, and W's gradient adds up in fp32 over parts.

Shapes: B rows, T positions, N scored positions, D width, V vocabulary.   Cost: 2 N D V forward, 4 N D V for both gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
PART_BYTES = {"cpu": 32 * 2**20, "other": 512 * 2**20}  # logits of one part, in h's dtype
STRIP_BYTES = {"cpu": 4 * 2**20, "other": 512 * 2**20}  # widened logits at a time: they should stay in the last-level cache
RARE = 1e-30  # below this probability, -log p is taken from the logits instead


def linear_cross_entropy(
    h_BTD: Tensor,
    weight_VD: Tensor,
    targets_BT: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(loss_B, z_B) in nats, fp32 (fp64 for fp64 input): each row's sum over its targets that are not -100.

    Give the weight as it is stored; it is cast to h's dtype once, and its gradient comes back in its own. softcap: c in
    c tanh(z / c). z_B is zero unless z_loss is set.
    """
    training = torch.is_grad_enabled()
    want_h = training and h_BTD.requires_grad
    want_w = training and (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
    found = torch.ops.ingot.linear_cross_entropy(h_BTD, weight_VD, targets_BT, bias_V, softcap or 0.0, z_loss, want_h, want_w)
    return found[0], found[1]


@torch.no_grad()
def token_nll(
    h_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, *, bias_V: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """Loss of each position, (B, T), 0 where not scored; without gradient."""
    return _Head(h_BTD, weight_VD, targets_BT, bias_V, softcap or 0.0, 0.0).run(False, False).nll_BT


def linear_cross_entropy_reference(
    h_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, *, bias_V: Tensor | None = None, softcap: float | None = None, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The definition: all logits at once, plain autograd."""
    work = _work(h_BTD)
    z_BTV = F.linear(h_BTD, weight_VD.to(h_BTD.dtype)).to(work)
    if bias_V is not None:
        z_BTV = z_BTV + bias_V.to(work)
    if softcap:
        z_BTV = softcap * torch.tanh(z_BTV / softcap)
    scored_BT = targets_BT != IGNORED
    lse_BT = z_BTV.logsumexp(-1)
    nll_BT = lse_BT - z_BTV.gather(-1, targets_BT.clamp(min=0)[..., None])[..., 0]
    return nll_BT.masked_fill(~scored_BT, 0).sum(1), z_loss * lse_BT.square().masked_fill(~scored_BT, 0).sum(1)


def _work(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32


class _Result(NamedTuple):
    nll_BT: Tensor
    lse_BT: Tensor
    dh_BTD: Tensor
    dw_VD: Tensor
    db_V: Tensor


class _Head:
    """One call's operands, with the scored positions gathered."""

    def __init__(self, h: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float, z_loss: float):
        self.h_BTD, self.weight, self.targets_BT, self.softcap, self.z_loss = h, weight, targets, softcap, z_loss
        self.work, self.width = _work(h), h.shape[-1]
        self.w_VD = weight.detach().to(h.dtype)
        self.bias_V = None if bias is None else bias.detach().to(self.work)
        flat_h, flat_t = h.detach().reshape(-1, self.width), targets.reshape(-1)
        self.where_N = (flat_t != IGNORED).nonzero()[:, 0]
        self.whole = len(self.where_N) == len(flat_t)
        self.h_ND = flat_h if self.whole else flat_h[self.where_N]
        self.t_N = flat_t if self.whole else flat_t[self.where_N]
        kind = "cpu" if h.device.type == "cpu" else "other"
        vocabulary = weight.shape[0]
        self.part = max(64, PART_BYTES[kind] // (vocabulary * h.element_size()))
        self.strip = max(16, STRIP_BYTES[kind] // (vocabulary * self.work.itemsize))

    def run(self, want_h: bool, want_w: bool, nll_B: Tensor | None = None, z_B: Tensor | None = None) -> _Result:
        """Losses, and the gradients of  sum_b nll_B loss_b + z_B z_b  (1 where not given)."""
        n, vocabulary = len(self.t_N), self.weight.shape[0]
        nll_N, lse_N = (self.h_ND.new_empty(n, dtype=self.work) for _ in range(2))
        dh_ND = self.h_ND.new_empty(n if want_h else 0, self.width)
        dw_VD = self.h_ND.new_zeros((vocabulary, self.width) if want_w else 0, dtype=self.work)
        db_V = self.h_ND.new_zeros(vocabulary if want_w and self.bias_V is not None else 0, dtype=self.work)
        weights = [None if w is None else w.to(self.work).repeat_interleave(self.targets_BT.shape[1])[self.where_N] for w in (nll_B, z_B)]
        z_PV = self.h_ND.new_empty(min(n, self.part), vocabulary)
        for start in range(0, n, self.part):
            rows = slice(start, min(start + self.part, n))
            logits = torch.mm(self.h_ND[rows], self.w_VD.t(), out=z_PV[: rows.stop - start])
            for at in range(start, rows.stop, self.strip):
                strip = slice(at, min(at + self.strip, rows.stop))
                self.differentiate(logits[at - start : strip.stop - start], strip, nll_N, lse_N, weights, want_h or want_w, db_V)
            if want_h:
                torch.mm(logits, self.w_VD, out=dh_ND[rows])
            if want_w and dw_VD.dtype == logits.dtype:
                dw_VD.addmm_(logits.t(), self.h_ND[rows])
            elif want_w:
                dw_VD.add_(logits.t() @ self.h_ND[rows])
        return _Result(self.spread(nll_N), self.spread(lse_N), self.spread_gradient(dh_ND, want_h), dw_VD, db_V)

    def differentiate(
        self, logits: Tensor, strip: slice, nll_N: Tensor, lse_N: Tensor, weights: list[Tensor | None], gradient: bool, db_V: Tensor
    ) -> None:
        """Losses of a strip from its logits, which are overwritten by their gradient where one is wanted."""
        z = logits if logits.dtype == self.work else logits.to(self.work)
        if self.bias_V is not None:
            z.add_(self.bias_V)
        tanh = torch.tanh(z.mul_(1 / self.softcap)) if self.softcap else None
        if tanh is not None:
            torch.mul(tanh, self.softcap, out=z)
        t_S1 = self.t_N[strip, None]
        p = torch.softmax(z, 1)
        target_S, p_target_S = z.gather(1, t_S1)[:, 0], p.gather(1, t_S1)[:, 0]
        nll_S = -p_target_S.log()
        lse_S = target_S + nll_S
        rare_S = p_target_S < RARE
        if rare_S.any():
            lse_S[rare_S] = z[rare_S].logsumexp(1)
            nll_S[rare_S] = lse_S[rare_S] - target_S[rare_S]
        nll_N[strip], lse_N[strip] = nll_S, lse_S
        if not gradient:
            return
        nll_w, z_w = (None if w is None else w[strip, None] for w in weights)
        hot = torch.full_like(t_S1, -1, dtype=self.work) if nll_w is None else -nll_w
        if self.z_loss:
            z_term = 2 * self.z_loss * lse_S[:, None]
            p.mul_((1 if nll_w is None else nll_w) + (z_term if z_w is None else z_term * z_w))
        elif nll_w is not None:
            p.mul_(nll_w)
        p.scatter_add_(1, t_S1, hot)
        if tanh is not None:
            p.mul_(1 - tanh.square_())
        if db_V.numel():
            db_V.add_(p.sum(0))
        logits.copy_(p)

    def spread(self, x_N: Tensor) -> Tensor:
        """Values of scored positions back in place, (B, T), zero elsewhere."""
        return x_N.new_zeros(self.targets_BT.numel()).index_copy_(0, self.where_N, x_N).view(self.targets_BT.shape)

    def spread_gradient(self, dh_ND: Tensor, wanted: bool) -> Tensor:
        if not wanted or self.whole:
            return dh_ND.view(self.h_BTD.shape) if wanted else dh_ND
        return dh_ND.new_zeros(self.targets_BT.numel(), self.width).index_copy_(0, self.where_N, dh_ND).view(self.h_BTD.shape)


# ---- the operator: what the compiler, the meter and autograd see -------------------------------------------------------------

_library = torch.library.Library("ingot", "FRAGMENT")
_library.define(
    "linear_cross_entropy(Tensor h, Tensor weight, Tensor targets, Tensor? bias, float softcap, float z_loss, bool want_h, bool want_w)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "linear_cross_entropy_backward(Tensor gradient, Tensor z_gradient, Tensor h, Tensor weight, Tensor targets, Tensor? bias,"
    " Tensor dh, Tensor dw, Tensor db, float softcap, float z_loss) -> (Tensor, Tensor, Tensor)"
)


def _forward(
    h: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float, z_loss: float, want_h: bool, want_w: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    found = _Head(h, weight, targets, bias, softcap, z_loss).run(want_h, want_w)
    loss_B = found.nll_BT.sum(1)
    z_B = z_loss * found.lse_BT.square().sum(1) if z_loss else torch.zeros_like(loss_B)
    return loss_B, z_B, found.dh_BTD, found.dw_VD, found.db_V


def _backward(
    gradient: Tensor,
    z_gradient: Tensor,
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    dh: Tensor,
    dw: Tensor,
    db: Tensor,
    softcap: float,
    z_loss: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h, W and bias, from those of the plain sum where that is exact and anew where it is not."""
    want_h, want_w = dh.numel() > 0, dw.numel() > 0
    scored_B = (targets != IGNORED).any(1)
    g_R = gradient[scored_B]
    joined = not z_loss or torch.equal(g_R, z_gradient[scored_B])
    uniform = joined and bool((g_R == g_R[:1]).all())
    redo_h, redo_w = want_h and not joined, want_w and not uniform
    if redo_h or redo_w:
        again = _Head(h, weight, targets, bias, softcap, z_loss).run(redo_h, redo_w, gradient, z_gradient)
    # One number multiplies in fp32 before rounding, where a bf16 tensor of it would be rounded itself.
    factor = float(g_R[0]) if uniform and len(g_R) else 0.0
    if redo_h:
        dh = again.dh_BTD
    elif want_h:
        dh = dh * factor if uniform else (dh * gradient[:, None, None]).to(dh.dtype)
    if redo_w:
        dw, db = again.dw_VD, again.db_V
    elif want_w:
        dw, db = dw * factor, db * factor
    # Outputs of an operator must not be its inputs: what was not wanted is empty and stays so.
    dh, dw = dh if want_h else dh.clone(), (dw if want_w else dw.clone()).to(weight.dtype)
    return dh, dw, db.clone() if bias is None or not want_w else db.to(bias.dtype)


def _forward_shapes(
    h: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float, z_loss: float, want_h: bool, want_w: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    work = _work(h)
    per_row = [h.new_empty(targets.shape[0], dtype=work) for _ in range(2)]
    dw = h.new_empty(weight.shape if want_w else (0,), dtype=work)
    db = h.new_empty(weight.shape[0] if want_w and bias is not None else 0, dtype=work)
    return per_row[0], per_row[1], h.new_empty(h.shape if want_h else (0, h.shape[-1])), dw, db


def _backward_shapes(
    gradient: Tensor,
    z_gradient: Tensor,
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    dh: Tensor,
    dw: Tensor,
    db: Tensor,
    softcap: float,
    z_loss: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        dh.new_empty(dh.shape),
        dw.new_empty(dw.shape, dtype=weight.dtype),
        db.new_empty(db.shape, dtype=db.dtype if bias is None else bias.dtype),
    )


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    h, weight, targets, bias, ctx.softcap, ctx.z_loss, _, _ = inputs
    ctx.save_for_backward(h, weight, targets, bias, *output[2:])
    ctx.mark_non_differentiable(*output[2:])


def _derive(ctx, gradient, z_gradient, *_):  # type: ignore[no-untyped-def]
    h, weight, targets, bias, dh, dw, db = ctx.saved_tensors
    need_h, need_w, _, need_b, *_ = ctx.needs_input_grad
    if torch.is_grad_enabled():  # create_graph: a gradient that can be differentiated again
        losses = linear_cross_entropy_reference(h, weight, targets, bias_V=bias, softcap=ctx.softcap, z_loss=ctx.z_loss)
        wanted = [t for t, needed in zip((h, weight, bias), (need_h, need_w, need_b)) if needed]
        found = iter(torch.autograd.grad(losses, wanted, (gradient, z_gradient), create_graph=True))
        dh, dw, db = (next(found) if needed else None for needed in (need_h, need_w, need_b))
    else:
        dh, dw, db = torch.ops.ingot.linear_cross_entropy_backward(
            gradient, z_gradient, h, weight, targets, bias, dh, dw, db, ctx.softcap, ctx.z_loss
        )
    return dh if need_h else None, dw if need_w else None, None, db if need_b else None, None, None, None, None


_library.impl("linear_cross_entropy", _forward, "CompositeExplicitAutograd")
_library.impl("linear_cross_entropy_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ingot::linear_cross_entropy", _forward_shapes)
torch.library.register_fake("ingot::linear_cross_entropy_backward", _backward_shapes)
torch.library.register_autograd("ingot::linear_cross_entropy", _derive, setup_context=_save)
