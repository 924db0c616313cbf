"""Spans: their number and share, and that what is read and what is asked together give the row back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.objective._spans import composition

SPECIALS = {"end": 0, "pad": 1} | {f"sentinel_{index}": 400 + index for index in range(60)}
SENTINELS = set(range(400, 460))


def build(**knobs: Any) -> Any:
    return spec("objective", "span_corruption", **knobs).build(width=8, vocabulary=500, specials=SPECIALS)


def batch(rows: int = 64, length: int = 256, documents: bool = False) -> dict[str, Tensor]:
    tokens = torch.randint(2, 400, (rows, length), generator=torch.Generator().manual_seed(0))
    segments = torch.ones(rows, length, dtype=torch.int32)
    if documents:
        segments[:, 90:], segments[:, 201:], segments[1::2, 240:] = 2, 3, 0
        tokens[:, 89], tokens[:, 200] = 0, 0
    return {"tokens": tokens * (segments > 0), "segments": segments, "rows": torch.arange(rows), "key": torch.tensor(11)}


def restored(read: list[int], asked: list[int]) -> list[int]:
    """The text: every sentinel that is read, replaced by what follows it where it is asked."""
    spans: dict[int, list[int]] = {}
    for token in asked:
        if token in SENTINELS:
            spans[token] = found = []
        else:
            found.append(token)
    assert [token for token in read if token in SENTINELS] == list(spans)
    return [item for token in read for item in (spans[token] if token in SENTINELS else [token])]


@pytest.mark.parametrize("documents", [False, True])
def test_read_and_asked_give_every_document_back(documents: bool) -> None:
    given = batch(documents=documents)
    prepared = build().prepare(given)
    assert torch.equal(prepared["spent"], (given["segments"] > 0).sum(1)) and torch.equal(
        prepared["units"], (prepared["targets"] >= 0).sum(1)
    )
    for row in range(64):
        for document in range(1, 4 if documents else 2):
            read = prepared["tokens"][row][prepared["segments"][row] == document].tolist()
            asked = prepared["targets"][row][prepared["decoder_segments"][row] == document].tolist()
            before = prepared["decoder_tokens"][row][prepared["decoder_segments"][row] == document].tolist()
            text = given["tokens"][row][given["segments"][row] == document].tolist()
            assert not asked or (asked[-1] == 0 and before == [1, *asked[:-1]])
            assert restored(read, asked[:-1]) == text
            assert (prepared["positions"][row][prepared["segments"][row] == document] == torch.arange(len(read))).all()


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 8.0), (0.3, 1.0)])
def test_share_and_length_are_exact(rate: float, mean: float) -> None:
    prepared = build(rate=rate, mean=mean, sentinels=list(range(400, 500))).prepare(batch())
    hidden, spans = round(256 * rate), max(1, round(round(256 * rate) / mean))
    sentinels = (prepared["tokens"] >= 400).sum(1)
    assert (sentinels == spans).all() and (prepared["units"] == hidden + spans + 1).all()
    assert ((prepared["segments"] > 0).sum(1) == 256 - hidden + spans).all()


def test_every_place_but_the_ends_is_hidden_as_often() -> None:
    given = batch(rows=4000, length=64)
    prepared = build(rate=0.25, mean=2.0)
    from ingot.objective._spans import span_mask

    lengths = torch.full((4000,), 64)
    mask = span_mask(lengths, 64, torch.full((4000,), 0.25), torch.full((4000,), 2.0), given["rows"], given["key"], "x")
    share = mask.float().mean(0)
    assert prepared.rate == 0.25 and abs(float(mask.float().mean()) - 0.25) < 1e-6
    assert float((share[8:-8] - 0.25).abs().max()) < 0.06 and not mask[:, 0].any() and mask[:, -1].all()


def test_compositions_are_uniform() -> None:
    """Six items in three parts: each of the ten compositions as often."""
    rows = torch.arange(8000)
    parts = composition(torch.full((8000,), 6), torch.full((8000,), 3), 6, rows, torch.tensor(3), "x")
    kinds, counts = parts.unique(dim=0, return_counts=True)
    assert len(kinds) == 10 and (counts - 800).abs().max() < 120 and (kinds.max(dim=1).values == 2).all()


def test_one_stack_reads_first_and_writes_then() -> None:
    given = batch(rows=8, documents=True)
    both, one = build().prepare(given), build(form="causal").prepare(given)
    assert "decoder_tokens" not in one
    for row in range(8):
        for document in range(1, 4):
            here = one["segments"][row] == document
            read = both["tokens"][row][both["segments"][row] == document].tolist()
            asked = both["targets"][row][both["decoder_segments"][row] == document].tolist()
            assert one["tokens"][row][here].tolist() == read + asked
            assert one["targets"][row][here].tolist() == [-100] * (len(read) - 1) + asked + [-100] * bool(asked or read) * (
                1 if asked or read else 0
            )


def test_draws_depend_on_key_and_row_alone() -> None:
    objective, given = build(), batch()
    whole = objective.prepare(given)["tokens"]
    part = {name: value if value.dim() == 0 else value[20:30] for name, value in given.items()}
    assert torch.equal(objective.prepare(part)["tokens"], whole[20:30])
    assert not torch.equal(objective.prepare(given | {"key": torch.tensor(12)})["tokens"], whole)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"data\.tokenizer\.sentinels"):
        spec("objective", "span_corruption").build(width=8, vocabulary=20, specials={"end": 0})
