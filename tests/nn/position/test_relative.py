"""Buckets of distances, one table for a stack, and the same bias whether a row comes at once or bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.build.check import check
from ingot.core.resolve import spec
from ingot.nn.context import Cache, Context


def test_buckets() -> None:
    part = spec("nn.position", "relative", buckets=32, longest=128).build(head_dim=8, heads=2)
    distance = torch.arange(-300, 301)
    both, past = part.bucket(distance, causal=False), part.bucket(distance, causal=True)
    assert both[300] == 0 and both[299] == 1 and both[301] == 17 and both.max() == 31 and both[0] == 15
    assert (past[300:] == 0).all() and past[299] == 1 and past[300 - 15] == 15 and past[300 - 128] == 31 and past[0] == 31
    assert (past[:301].diff() <= 0).all() and len(both.unique()) == 31 and len(past.unique()) == 32


def stack(shared: bool) -> torch.nn.Module:
    mixer = {"name": "attention", "heads": 2, "position": {"name": "relative", "buckets": 8, "longest": 16, "shared": shared}}
    wiring = {"width": 16, "sequence": 24, "linear": spec("nn.linear", "dense")}
    found = spec("model.encoder", "transformer", depth=2, mixer=mixer).build(**wiring)
    torch.manual_seed(0)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return found.eval()


def test_one_table_or_one_for_each_block() -> None:
    for shared, count in ((True, 1), (False, 2)):
        found = stack(shared)
        tables = [name for name, _ in found.named_parameters() if "position" in name]
        assert len(tables) == count and tables[0] == "blocks.0.mixer.position.weight"
        x = torch.randn(2, 9, 16)
        before = found(x, Context(causal=False, positions_BT=torch.arange(9).expand(2, -1)))
        for parameter in (dict(found.named_parameters())[name] for name in tables):
            torch.nn.init.zeros_(parameter)
        assert not torch.allclose(before, found(x, Context(causal=False, positions_BT=torch.arange(9).expand(2, -1))))


def test_bit_by_bit_is_at_once() -> None:
    found, x = stack(True), torch.randn(1, 12, 16)
    whole = found(x, Context(causal=True, positions_BT=torch.arange(12)[None]))
    cache, parts = Cache(12), []
    for start, stop in ((0, 5), (5, 6), (6, 12)):
        parts.append(found(x[:, start:stop], Context(causal=True, positions_BT=torch.arange(start, stop)[None], cache=cache)))
        cache.advance(stop - start)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_a_block_without_the_table_says_so() -> None:
    part = spec("nn.position", "relative").build(head_dim=8, heads=2, layer=1)
    with pytest.raises(ValueError, match="kept by the first block"):
        part.bias(Context(positions_BT=torch.arange(3)[None]), torch.float32)


@pytest.mark.parametrize(
    ("knobs", "objective", "words"),
    [
        ({"buckets": 1}, "causal_lm", "at least 2, got 1"),
        ({"buckets": 3}, "masked_lm", "at least 4, got 3"),
        ({"buckets": 2}, "causal_lm", ""),
        ({"buckets": 4, "longest": 2}, {"name": "weighted", "objectives": {"a": "masked_lm"}}, ""),
        ({"buckets": 32, "longest": 16}, "causal_lm", "above 16, got 16"),
        ({"buckets": 32, "longest": 16}, "masked_lm", ""),
        ({"buckets": 32, "longest": 8}, "masked_lm", "above 8, got 8"),
    ],
)
def test_what_has_no_buckets_is_refused(tiny_recipe: Any, knobs: dict[str, Any], objective: Any, words: str) -> None:
    mixer = {"name": "attention", "heads": 2, "position": {"name": "relative", **knobs}}
    found = check(tiny_recipe({"model": {"objective": objective, "encoder": {"mixer": mixer}}}))[1]
    assert words in "\n".join(problem.message for problem in found) and bool(found) == bool(words)
