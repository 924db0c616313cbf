"""TREAD: what passes by is untouched, what goes through is computed among itself, rows decide for themselves, and the span costs its share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ingot
from ingot.build.check import check
from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.ledger.flops import FlopCount
from ingot.nn.context import Context
from ingot.nn.dropout import name_layers
from ingot.nn.subset import draw
from ingot.ops.flops import register

DEPTH, WIDTH, LENGTH = 4, 16, 20
LAYER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}


def build(**knobs: Any) -> Any:
    torch.manual_seed(0)
    found = (
        spec("model.encoder", "tread", depth=DEPTH, mixer={"name": "attention", "heads": 2}, **({"start": 1, "end": 3} | knobs))
        .build(width=WIDTH, sequence=LENGTH)
        .double()
    )
    name_layers(torch.nn.ModuleDict({"encoder": found}))
    return found


def context(rows: list[int], causal: bool = True) -> Context:
    return Context(
        torch.arange(LENGTH).expand(len(rows), -1),
        torch.ones(len(rows), LENGTH, dtype=torch.int32),
        causal,
        torch.tensor(rows),
        torch.tensor(9),
    )


def values(rows: int = 3) -> Tensor:
    return torch.randn(rows, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_is_the_blocks_on_a_subset_put_back_in_place() -> None:
    encoder, x, surroundings = build(share=0.4), values(), context([4, 5, 6])
    kept = draw(LENGTH, 12, surroundings.rows_B, surroundings.key, encoder.salt)
    before = encoder.blocks[0](x, surroundings)
    expected = before.clone()
    for row in range(3):  # by hand, row by row, with the positions' own numbers
        few = Context(kept[row : row + 1], None, True, surroundings.rows_B[row : row + 1], surroundings.key)
        y = before[row : row + 1, kept[row]]
        for block in encoder.blocks[1:3]:
            y = block(y, few)
        expected[row, kept[row]] = y[0]
    expected = encoder.norm(encoder.blocks[3](expected, surroundings))
    torch.testing.assert_close(encoder(x, surroundings), expected, rtol=1e-12, atol=1e-12)
    by = torch.ones(LENGTH, dtype=torch.bool)
    by[kept[0]] = False
    assert int(by.sum()) == 8 and torch.equal(kept, kept.sort(1).values)


def test_evaluation_takes_every_token_through_every_block() -> None:
    routed, plain = (
        build(share=0.5).eval(),
        spec("model.encoder", "transformer", depth=DEPTH, mixer={"name": "attention", "heads": 2})
        .build(width=WIDTH, sequence=LENGTH)
        .double()
        .eval(),
    )
    plain.load_state_dict(routed.state_dict())  # the same names
    assert torch.equal(routed(values(), context([0, 1, 2])), plain(values(), context([0, 1, 2])))
    routed.train()
    assert not torch.equal(routed(values(), context([0, 1, 2])), plain(values(), context([0, 1, 2])))


def test_a_row_draws_for_itself() -> None:
    encoder, x = build(share=0.5), values()
    whole = encoder(x, context([3, 4, 5]))
    torch.testing.assert_close(encoder(x[1:2], context([4])), whole[1:2], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(encoder(x[1:2], context([7])), whole[1:2])
    draws = draw(LENGTH, 10, torch.arange(2000), torch.tensor(1), torch.tensor(2))
    often = torch.zeros(LENGTH).index_add_(0, draws.flatten(), torch.ones(draws.numel())) / 2000
    assert float((often - 0.5).abs().max()) < 0.05


@pytest.mark.parametrize("position", [0, 7, 19])
def test_stays_causal(position: int) -> None:
    encoder, x = build(share=0.5), values()
    other = x.clone()
    other[:, position] += 1
    changed = (encoder(x, context([3, 4, 5])) - encoder(other, context([3, 4, 5]))).abs().amax((0, 2)) > 1e-12
    assert not changed[:position].any() and changed[position]


def test_the_span_costs_its_share() -> None:
    register()

    def flops(share: float) -> int:
        encoder = build(share=share)
        with FlopCount(encoder) as count:
            encoder(values(), context([0, 1, 2])).sum()
        return count.total

    per_token = 2 * (4 * WIDTH * WIDTH + 8 * WIDTH * WIDTH)  # projections and feed-forward of a block
    whole, half = flops(0.0), flops(0.5)
    pairs = 4 * WIDTH * 3 * (LENGTH * (LENGTH + 1) // 2 - LENGTH // 2 * (LENGTH // 2 + 1) // 2) * 2  # causal pairs that are gone
    assert whole - half == pytest.approx(2 * 3 * LENGTH / 2 * per_token + pairs, rel=0.05)


def encoder(**knobs: Any) -> dict[str, Any]:
    return {"model": {"encoder": {"name": "tread", "depth": 4, "mixer": {"name": "attention", "heads": 2}} | knobs}}


def test_refusals(tiny_recipe: Any) -> None:
    with pytest.raises(UserError, match="passes by nothing, or leads out of the 4 blocks"):
        ingot.build(tiny_recipe(encoder(start=2, end=6)))
    with pytest.raises(UserError, match="splits the blocks at 2, inside of the route from 1 to 3"):
        ingot.build(tiny_recipe(encoder(), {"model": {"objective": {"name": "masked_lm", "mask": 3, "late": 2}}}))
    ingot.build(tiny_recipe(encoder(), {"model": {"objective": {"name": "masked_lm", "mask": 3, "late": 1}}}))


@pytest.mark.parametrize(
    ("end", "objective", "split"),
    [
        (4, {"name": "multi_token", "heads": 2, "layer": LAYER}, 3),
        (3, {"name": "multi_token", "heads": 2, "layer": LAYER}, None),
        (3, {"name": "nested", "depths": [2]}, 2),
        (3, {"name": "nested", "depths": [1, 3]}, None),
        (3, {"name": "weighted", "objectives": {"a": {"name": "masked_lm", "late": 2}}}, 2),
    ],
)
def test_no_objective_splits_the_route(tiny_recipe: Any, end: int, objective: dict[str, Any], split: int | None) -> None:
    found = [problem.message for problem in check(tiny_recipe(encoder(start=1, end=end), {"model": {"objective": objective}}))[1]]
    assert len(found) == (split is not None) and all(f"splits the blocks at {split}" in message for message in found)


def test_positions_that_count_places_are_refused(tiny_recipe: Any) -> None:
    mixer = {"name": "attention", "heads": 2, "position": "relative"}
    with pytest.raises(UserError, match="count places"):
        ingot.build(tiny_recipe(encoder(mixer=mixer)))


def test_accumulation_changes_nothing_but_rounding(tiny_recipe: Any) -> None:
    found = []
    for micro in (8, 3):
        run = ingot.build(
            tiny_recipe(encoder(), {"precision": "fp64", "micro_rows": micro, "stages": {0: {"budget": "4 steps"}}}, name=f"m{micro}")
        )
        run.train()
        found.append({name: value.clone() for name, value in run.model.state_dict().items()})
    assert all(float((found[1][name] - value).norm() / value.norm()) < 1e-9 for name, value in found[0].items())
