r"""Attention over heads, without computing or storing pairs that the mask removes.

    o_i = sum_j p_ij v_j        p_ij = softmax_j(cap(scale q_i . k_j) + bias_ij) over the pairs that the mask allows

Query i (at position T_k - T_q + i of the keys: with a cache, queries are the last positions) may attend to key j when

    causal       j <= position of i                  window w   fewer than w positions apart, itself included
    segments     both in the same segment; segment 0 is padding, whose queries give zeros

`attention_reference` is the definition. The blocked kernel, used on CPU, takes queries in blocks, multiplies each block with only
the range of keys it may see, and keeps the probabilities for the backward pass in the input's dtype where they are small, else
recomputes them; scores are rounded to the input's dtype between matmul and softmax. Elsewhere torch's fused attention is called.
The blocked kernel is one operator to the compiler, the meter and autograd (torch.ops.ingot.blocked_attention); a second
derivative goes through the reference.

Shapes: B batch, H heads, K key-value heads (H a multiple of K: grouped queries), G = H / K, T queries, S keys, d features of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128  # query rows; of 32, 64, 128, 256 the fastest or within 3 % of it at T = 256, 512 and 1024
KEEP = 1024  # keys up to which probabilities are kept for the backward pass
MASKED = -1e30  # finite, so that a row without any pair gives numbers, then zeroed, and never NaN


def attention(
    q_BHTd: Tensor,
    k_BKSd: Tensor,
    v_BKSd: Tensor,
    *,
    causal: bool,
    segments_BT: Tensor | None = None,
    key_segments_BS: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias_HTS: Tensor | None = None,
) -> Tensor:
    """Attention output (B, H, T, d), laid out so that ``.transpose(1, 2).reshape(B, T, H * d)`` copies nothing on CPU.

    key_segments_BS: the keys' segments where keys are not the queries' own positions. scale: default 1/sqrt(d). softcap: c in
    c tanh(score / c), Gemma 2 (arXiv:2408.00118). bias_HTS: added to scores, differentiable (relative positions).
    """
    scale = q_BHTd.shape[-1] ** -0.5 if scale is None else scale
    if segments_BT is not None and key_segments_BS is None:
        key_segments_BS = segments_BT
    if causal and q_BHTd.shape[2] > k_BKSd.shape[2]:
        raise ValueError(
            f"causal attention of {q_BHTd.shape[2]} queries over {k_BKSd.shape[2]} keys: queries are the last positions of the keys"
        )
    if q_BHTd.device.type == "cpu":
        keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q_BHTd, k_BKSd, v_BKSd, bias_HTS))
        if keep:  # once, for both passes; compiled, no pass at all. Decoding would copy its whole cache for every token
            q_BHTd, k_BKSd, v_BKSd = (t.contiguous() for t in (q_BHTd, k_BKSd, v_BKSd))
        return torch.ops.ingot.blocked_attention(
            q_BHTd, k_BKSd, v_BKSd, segments_BT, key_segments_BS, bias_HTS, causal, window or 0, scale, softcap or 0.0, keep
        )[0]
    if softcap:
        return attention_reference(
            q_BHTd,
            k_BKSd,
            v_BKSd,
            causal=causal,
            segments_BT=segments_BT,
            key_segments_BS=key_segments_BS,
            window=window,
            scale=scale,
            softcap=softcap,
            bias_HTS=bias_HTS,
        )
    return _fused(q_BHTd, k_BKSd, v_BKSd, causal, segments_BT, key_segments_BS, window, scale, bias_HTS)


def allowed_pairs(
    queries: int,
    keys: int,
    *,
    causal: bool,
    window: int | None,
    segments_BT: Tensor | None,
    key_segments_BS: Tensor | None,
    device: torch.device,
) -> Tensor:
    """The mask, (1 or B, T, S) bool: which pairs may attend. Padding queries see padding keys; their output is zeroed afterwards."""
    i_T1 = torch.arange(queries, device=device)[:, None] + (keys - queries)
    j_1S = torch.arange(keys, device=device)[None]
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if causal:
        allowed &= j_1S <= i_T1
    if window:
        allowed &= (i_T1 - j_1S).abs() < window
    allowed_BTS = allowed[None]
    if segments_BT is not None and key_segments_BS is not None:
        allowed_BTS = allowed_BTS & (segments_BT[:, :, None] == key_segments_BS[:, None, :])
    return allowed_BTS


def attention_reference(
    q_BHTd: Tensor,
    k_BKSd: Tensor,
    v_BKSd: Tensor,
    *,
    causal: bool,
    segments_BT: Tensor | None = None,
    key_segments_BS: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias_HTS: Tensor | None = None,
) -> Tensor:
    """The definition: every score in fp32 (fp64 for fp64 input), an explicit mask, plain autograd. Memory grows with H T S."""
    work = torch.float64 if q_BHTd.dtype == torch.float64 else torch.float32
    groups = q_BHTd.shape[1] // k_BKSd.shape[1]
    q, k, v = q_BHTd.to(work), k_BKSd.to(work).repeat_interleave(groups, 1), v_BKSd.to(work).repeat_interleave(groups, 1)
    score_BHTS = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        score_BHTS = softcap * torch.tanh(score_BHTS / softcap)
    if bias_HTS is not None:
        score_BHTS = score_BHTS + bias_HTS.to(work)
    if segments_BT is not None and key_segments_BS is None:
        key_segments_BS = segments_BT
    allowed_BTS = allowed_pairs(
        q.shape[2], k.shape[2], causal=causal, window=window, segments_BT=segments_BT, key_segments_BS=key_segments_BS, device=q.device
    )
    out = torch.softmax(score_BHTS.masked_fill(~allowed_BTS[:, None], MASKED), -1) @ v
    sees_BT = allowed_BTS.any(-1)
    if segments_BT is not None:
        sees_BT = sees_BT & (segments_BT != 0)
    return out.masked_fill(~sees_BT[:, None, :, None], 0).to(q_BHTd.dtype)


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    segments_BT: Tensor | None,
    key_segments_BS: Tensor | None,
    window: int | None,
    scale: float,
    bias_HTS: Tensor | None,
) -> Tensor:
    """torch's fused attention: without a mask tensor where the mask is plain, else with one."""
    grouped = q.shape[1] != k.shape[1]
    square, queries, keys = q.shape[2] == k.shape[2], q.shape[2], k.shape[2]
    if segments_BT is None and not window and bias_HTS is None and (square or not causal):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)
    allowed_BTS = allowed_pairs(
        queries, keys, causal=causal, window=window, segments_BT=segments_BT, key_segments_BS=key_segments_BS, device=q.device
    )
    mask = allowed_BTS[:, None]
    if bias_HTS is not None:
        mask = bias_HTS.to(q.dtype)[None].masked_fill(~mask, MASKED)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    if segments_BT is None:
        return out
    return out.masked_fill(~((segments_BT != 0) & allowed_BTS.any(-1))[:, None, :, None], 0)


# ---- which pairs -------------------------------------------------------------------------------------------------------------


def attended_pairs(
    queries: int,
    causal: bool,
    window: int | None = None,
    segments_BT: Tensor | None = None,
    *,
    keys: int | None = None,
    key_segments_BS: Tensor | None = None,
) -> int:
    """Pairs that the mask allows: of one row, or summed over the rows of segments_BT. Pairs with padding do not count."""
    keys = queries if keys is None else keys
    if segments_BT is None:
        return sum(max(0, high - low) for low, high in (_span(i, i + 1, queries, keys, causal, window) for i in range(queries)))
    key_segments_BS = segments_BT if key_segments_BS is None else key_segments_BS
    total = 0
    for start in range(0, queries, 1024):
        end = min(start + 1024, queries)
        low, high = _span(start, end, queries, keys, causal, window)
        mask = _disallowed(start, end, low, high, keys - queries, causal, window, segments_BT.device)
        same = (segments_BT[:, start:end, None] == key_segments_BS[:, None, low:high]) & (segments_BT[:, start:end, None] != 0)
        total += int((same if mask is None else same & ~mask).sum())
    return total


def _span(start: int, end: int, queries: int, keys: int, causal: bool, window: int | None) -> tuple[int, int]:
    """The range of keys that queries start .. end may see at all."""
    first, last = start + keys - queries, end - 1 + keys - queries
    low = max(0, first - window + 1) if window else 0
    high = last + 1 if causal else min(keys, last + window) if window else keys
    return low, max(low, high)


def _disallowed(
    start: int, end: int, low: int, high: int, offset: int, causal: bool, window: int | None, device: torch.device
) -> Tensor | None:
    """(queries, keys) bool within a block, True where causality or the window forbids the pair; None where nothing is forbidden."""
    if not causal and not window:
        return None
    i_T1 = torch.arange(start + offset, end + offset, device=device)[:, None]
    j_1S = torch.arange(low, high, device=device)[None]
    mask = j_1S > i_T1 if causal else torch.zeros(end - start, high - low, dtype=torch.bool, device=device)
    return mask | ((i_T1 - j_1S).abs() >= window) if window else mask


# ---- the blocked kernel ------------------------------------------------------------------------------------------------------


class _Blocks:
    """One call's geometry and operands; both passes walk the same blocks of queries."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor | None,
        key_segments: Tensor | None,
        bias: Tensor | None,
        causal: bool,
        window: int,
        scale: float,
        softcap: float,
    ):
        self.q, self.segments, self.key_segments, self.bias = q, segments, key_segments, bias
        self.causal, self.window, self.scale, self.softcap = causal, window, scale, softcap
        (self.B, self.H, self.T, self.d), (self.K, self.S) = q.shape, k.shape[1:3]
        self.k_NSd, self.v_NSd = k.reshape(self.B * self.K, self.S, self.d), v.reshape(self.B * self.K, self.S, v.shape[3])
        self.blank_BT = _blank(segments, key_segments)
        if self.blank_BT is None and _same(segments, key_segments) and bool((segments == segments[:, :1]).all()):  # type: ignore[union-attr,index]
            self.segments = None  # one document per row: no mask to build

    def spans(self) -> list[tuple[int, int, int, int]]:
        """(first query, end, first key, end) per block."""
        starts = range(0, self.T, BLOCK)
        return [(s, e := min(s + BLOCK, self.T), *_span(s, e, self.T, self.S, self.causal, self.window)) for s in starts]

    def kept(self) -> int:
        """Elements of probabilities (and of tanh values under a soft cap) kept for the backward pass."""
        pairs = sum((e - s) * (high - low) for s, e, low, high in self.spans())
        return pairs * self.B * self.H * (2 if self.softcap else 1)

    def fold(self, x_BHTd: Tensor, start: int, end: int) -> Tensor:
        """Rows start .. end as (B K, G rows, d), contiguous: queries that share keys become rows of one matrix."""
        return x_BHTd[:, :, start:end].reshape(self.B * self.K, -1, x_BHTd.shape[3])

    def unfold(self, x_Nrd: Tensor, rows: int) -> Tensor:
        """(B K, G rows, d) -> (B, rows, H, d)."""
        return x_Nrd.view(self.B, self.H, rows, -1).transpose(1, 2)

    def heads(self, x_Nrs: Tensor, rows: int) -> Tensor:
        return x_Nrs.view(self.B, self.H, rows, x_Nrs.shape[-1])

    def probabilities(
        self, span: tuple[int, int, int, int], q_Nrd: Tensor, p: Tensor | None, tanh: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Softmax of one block's scores (written into p and tanh where given) from its scaled queries."""
        start, end, low, high = span
        score = torch.bmm(q_Nrd, self.k_NSd[:, low:high].mT)
        if self.softcap:
            tanh = torch.tanh(score.mul_(1 / self.softcap), out=tanh) if tanh is not None else torch.tanh(score.mul_(1 / self.softcap))
            torch.mul(tanh, self.softcap, out=score)
        self.mask(self.heads(score, end - start), span)
        return torch.softmax(score, -1) if p is None else torch.softmax(score, -1, out=p), tanh

    def mask(self, score_BHrs: Tensor, span: tuple[int, int, int, int]) -> None:
        """Adds bias and a large negative number where the mask forbids; one pass, over the diagonal part only where that is all."""
        start, end, low, high = span
        forbidden = _disallowed(start, end, low, high, self.S - self.T, self.causal, self.window, score_BHrs.device)
        if self.bias is not None:
            score_BHrs.add_(self.bias[:, start:end, low:high])
        if self.segments is not None and self.key_segments is not None:
            differ = self.segments[:, start:end, None] != self.key_segments[:, None, low:high]
            forbidden = differ if forbidden is None else differ | forbidden
            score_BHrs.add_(torch.zeros(forbidden.shape, dtype=score_BHrs.dtype).masked_fill_(forbidden, MASKED)[:, None])
        elif forbidden is not None:
            first = 0 if self.window else max(0, start + self.S - self.T - low)
            forbidden = forbidden[:, first:]
            score_BHrs[..., first:].add_(torch.zeros(forbidden.shape, dtype=score_BHrs.dtype).masked_fill_(forbidden, MASKED))


def _same(segments: Tensor | None, key_segments: Tensor | None) -> bool:
    """Whether the keys' segments are the queries' own, not another tensor that may be equal."""
    return (
        segments is not None
        and key_segments is not None
        and segments.data_ptr() == key_segments.data_ptr()
        and segments.shape == key_segments.shape
    )


def _blank(segments: Tensor | None, key_segments: Tensor | None) -> Tensor | None:
    """(B, T) bool, queries whose output is zero: padding, and those of a segment that has no keys; None where there are none."""
    if segments is None or key_segments is None:
        return None
    blank = segments == 0
    if not _same(segments, key_segments):
        blank = blank | ~(segments[:, :, None] == key_segments[:, None, :]).any(-1)
    return blank if bool(blank.any()) else None


_ARGUMENTS = "Tensor q, Tensor k, Tensor v, Tensor? segments, Tensor? key_segments, Tensor? bias, bool causal, int window, float scale, float softcap, bool keep"
_library = torch.library.Library("ingot", "FRAGMENT")
_library.define(f"blocked_attention({_ARGUMENTS}) -> (Tensor, Tensor)")
_library.define(f"blocked_attention_backward(Tensor gradient, Tensor kept, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Tensor | None,
    key_segments: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    softcap: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Output and the kept probabilities, flat, block after block (empty where they are recomputed)."""
    b = _Blocks(q, k, v, segments, key_segments, bias, causal, window, scale, softcap)
    out_BTHd = q.new_empty(b.B, b.T, b.H, v.shape[3])
    kept = q.new_empty(b.kept() if keep and k.shape[2] <= KEEP else 0)
    at = 0
    for span in b.spans():
        start, end, low, high = span
        p, tanh, at = _slots(b, kept, span, at)
        p, _ = b.probabilities(span, b.fold(q, start, end) * scale, p, tanh)
        out_BTHd[:, start:end] = b.unfold(torch.bmm(p, b.v_NSd[:, low:high]), end - start)
    if b.blank_BT is not None:
        out_BTHd.masked_fill_(b.blank_BT[:, :, None, None], 0)
    return out_BTHd.transpose(1, 2), kept


def _slots(b: _Blocks, kept: Tensor, span: tuple[int, int, int, int], at: int) -> tuple[Tensor | None, Tensor | None, int]:
    """Views of one block's probabilities and tanh values in `kept`, and where the next block's begin; None, None when not kept."""
    if not kept.numel():
        return None, None, at
    start, end, low, high = span
    shape = (b.B * b.K, b.H // b.K * (end - start), high - low)
    size = math.prod(shape)
    p = kept[at : at + size].view(shape)
    if not b.softcap:
        return p, None, at + size
    return p, kept[at + size : at + 2 * size].view(shape), at + 2 * size


def _backward(
    gradient: Tensor,
    kept: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Tensor | None,
    key_segments: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    softcap: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and bias (empty without bias)."""
    b = _Blocks(q, k, v, segments, key_segments, bias, causal, window, scale, softcap)
    if b.blank_BT is not None:  # a zero gradient makes every term of a blank query zero
        gradient = gradient.masked_fill(b.blank_BT[:, None, :, None], 0)
    spans, at = b.spans(), 0
    whole = bool(spans) and spans[-1][2:] == (0, b.S)  # the last block sees every key: its products are written, the others added
    make = torch.empty_like if whole else torch.zeros_like
    dq_BTHd, dk, dv = q.new_empty(b.B, b.T, b.H, b.d), make(b.k_NSd), make(b.v_NSd)
    dbias = torch.zeros_like(bias) if bias is not None else q.new_empty(0)
    slots = []
    for span in spans:
        *slot, at = _slots(b, kept, span, at)
        slots.append(slot)
    for span, (p, tanh) in zip(reversed(spans), reversed(slots), strict=True):
        start, end, low, high = span
        q_Nrd, g_Nrd = b.fold(q, start, end) * scale, b.fold(gradient, start, end)
        if p is None:
            p, tanh = b.probabilities(span, q_Nrd, None, None)
        dp = torch.bmm(g_Nrd, b.v_NSd[:, low:high].mT)
        dscore = torch._softmax_backward_data(dp, p, -1, p.dtype)
        if bias is not None:
            dbias[:, start:end, low:high] += b.heads(dscore, end - start).sum(0, dtype=bias.dtype)
        if tanh is not None:
            dscore.mul_(1 - tanh.square())
        dq_BTHd[:, start:end] = b.unfold(torch.bmm(dscore, b.k_NSd[:, low:high]).mul_(scale), end - start)
        # The matmul adds in fp32 and rounds once per block.
        for d_NSd, left_Nrs, right_Nrd in ((dk, dscore, q_Nrd), (dv, p, g_Nrd)):
            if whole and span is spans[-1]:
                torch.bmm(left_Nrs.mT, right_Nrd, out=d_NSd)
            else:
                d_NSd[:, low:high].baddbmm_(left_Nrs.mT, right_Nrd)
    return dq_BTHd.transpose(1, 2), dk.view(k.shape), dv.view(v.shape), dbias


def _forward_shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Tensor | None,
    key_segments: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    softcap: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    B, H, T, _ = q.shape
    pairs = 0
    if keep and k.shape[2] <= KEEP:
        for start in range(0, T, BLOCK):
            end = min(start + BLOCK, T)
            low, high = _span(start, end, T, k.shape[2], causal, window)
            pairs += (end - start) * (high - low)
    return q.new_empty(B, T, H, v.shape[3]).transpose(1, 2), q.new_empty(pairs * B * H * (2 if softcap else 1))


def _backward_shapes(
    gradient: Tensor,
    kept: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Tensor | None,
    key_segments: Tensor | None,
    bias: Tensor | None,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, H, T, d = q.shape
    dq = q.new_empty(B, T, H, d).transpose(1, 2)
    return dq, k.new_empty(k.shape), v.new_empty(v.shape), q.new_empty(0) if bias is None else bias.new_empty(bias.shape)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, segments, key_segments, bias, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, segments, key_segments, bias, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _derive(ctx, gradient, _):  # type: ignore[no-untyped-def]
    nothing = (None,) * 11
    if gradient is None:
        return nothing
    q, k, v, segments, key_segments, bias, kept = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph: a gradient that can be differentiated again
        causal, window, scale, softcap, _ = ctx.settings
        out = attention_reference(
            q,
            k,
            v,
            causal=causal,
            segments_BT=segments,
            key_segments_BS=key_segments,
            window=window,
            scale=scale,
            softcap=softcap,
            bias_HTS=bias,
        )
        wanted = [t for t, needed in zip((q, k, v, bias), (*ctx.needs_input_grad[:3], ctx.needs_input_grad[5])) if needed]
        found = iter(torch.autograd.grad(out, wanted, gradient, create_graph=True))
        dq, dk, dv = (next(found) if needed else None for needed in ctx.needs_input_grad[:3])
        return (dq, dk, dv, None, None, next(found, None), *nothing[:5])
    dq, dk, dv, dbias = torch.ops.ingot.blocked_attention_backward(gradient, kept, q, k, v, segments, key_segments, bias, *ctx.settings)
    return (dq, dk, dv, None, None, None if bias is None else dbias, *nothing[:5])


_library.impl("blocked_attention", _forward, "CPU")
_library.impl("blocked_attention_backward", _backward, "CPU")
torch.library.register_fake("ingot::blocked_attention", _forward_shapes)
torch.library.register_fake("ingot::blocked_attention_backward", _backward_shapes)
torch.library.register_autograd("ingot::blocked_attention", _derive, setup_context=_save)
