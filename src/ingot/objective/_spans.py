"""Spans of a row that are hidden, and rows put together anew from pieces: what denoising objectives share.

B rows   T positions   Everything is drawn from (key, row) and works on whole batches; no row knows of another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.random import hash_uniform, salt_of

Piece = tuple[Tensor, Tensor]


def span_mask(lengths_B: Tensor, length: int, rate_B: Tensor, mean_B: Tensor, rows_B: Tensor, key: Tensor, name: str) -> Tensor:
    """(B, T) bool: round(rate n) of the first n = lengths positions, in round(rate n / mean) spans, at least one, after a visible start.

    Hidden and visible parts are random compositions of their totals, by turns (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4).
    """
    hidden_B = (lengths_B * rate_B).round().long().clamp(min=1).minimum(lengths_B - 1).clamp(min=0)
    seen_B = lengths_B - hidden_B
    parts_B = (hidden_B / mean_B).round().long().clamp(min=1).minimum(hidden_B).minimum(seen_B)
    hidden_BT = composition(hidden_B, parts_B, length, rows_B, key, f"{name}/hidden")
    seen_BT = composition(seen_B, parts_B, length, rows_B, key, f"{name}/visible")
    place_T = torch.arange(length, device=lengths_B.device)
    sizes_BT = torch.zeros_like(seen_BT).scatter_add_(1, seen_BT, (place_T < seen_B[:, None]).long())
    where_BT = place_T + sizes_BT.cumsum(1).gather(1, hidden_BT)
    taken = place_T < hidden_B[:, None]
    mask = torch.zeros(len(lengths_B), length + 1, dtype=torch.bool, device=lengths_B.device)
    return mask.scatter_(1, torch.where(taken, where_BT, length), taken)[:, :length]


def composition(total_B: Tensor, parts_B: Tensor, length: int, rows_B: Tensor, key: Tensor, name: str) -> Tensor:
    """(B, T) int64: the part, from 0, that each of `total` items falls into; every composition into so many parts is as likely."""
    place_T = torch.arange(length, device=total_B.device)
    draw_BT = hash_uniform(rows_B, length, key, salt_of(name)).to(total_B.device)
    inner_BT = (place_T >= 1) & (place_T < total_B[:, None])
    rank_BT = draw_BT.masked_fill(~inner_BT, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (inner_BT & (rank_BT < parts_B[:, None] - 1)).long().cumsum(1)


def borders(segments_BT: Tensor) -> Tensor:
    """(B, T) bool: first position of a document or of padding."""
    first = torch.ones_like(segments_BT, dtype=torch.bool)
    first[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return first


def count_within(events_BT: Tensor, first_BT: Tensor) -> Tensor:
    """(B, T) int64: events up to and including each position, counted anew from every first position."""
    total = events_BT.long().cumsum(1)
    return total - torch.where(first_BT, total - events_BT.long(), 0).cummax(dim=1).values


def positions_in(segments_BT: Tensor) -> Tensor:
    """(B, T) int64: position within the document."""
    return count_within(torch.ones_like(segments_BT), borders(segments_BT)) - 1


def assemble(pieces: Sequence[Piece], segments_BT: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Ids and documents (B, length) of a new row: at every old position the pieces (whether, id) that are there, in order; cut at
    length, padded with document 0."""
    there = torch.stack([whether.expand_as(segments_BT) for whether, _ in pieces], dim=2).flatten(1)
    ids = (
        torch.stack([torch.as_tensor(value, device=segments_BT.device).expand_as(segments_BT) for _, value in pieces], dim=2)
        .flatten(1)
        .long()
    )
    documents = segments_BT.repeat_interleave(len(pieces), dim=1)
    there = there & (documents > 0)
    place = there.long().cumsum(1) - 1
    place = torch.where(there & (place < length), place, length)

    def placed(values: Tensor) -> Tensor:
        return values.new_zeros(len(values), length + 1).scatter_(1, place, values)[:, :length]

    return placed(ids), placed(documents)


def shifted(ids_BT: Tensor, segments_BT: Tensor, start: int) -> Tensor:
    """What a decoder reads: the id before each, ``start`` at the beginning of a document."""
    before = ids_BT.roll(1, dims=1)
    return torch.where(borders(segments_BT), start, before)


def by_document(ids: Sequence[Tensor], segments: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of several sequences put one after another within each document: ids, documents, and the sequence each came from."""
    ids_BN, segments_BN = torch.cat(list(ids), dim=1), torch.cat(list(segments), dim=1)
    origin_BN = torch.cat([torch.full_like(item, index) for index, item in enumerate(ids)], dim=1)
    order = torch.where(segments_BN > 0, segments_BN.long(), 1 << 40).argsort(dim=1, stable=True)
    return ids_BN.gather(1, order), segments_BN.gather(1, order), origin_BN.gather(1, order)
