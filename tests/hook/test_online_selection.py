"""Online selection: the largest losses of the whole window are trained on, whatever its cut; reading, resuming and refusing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import ingot
from ingot.build.parity import compare
from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.hook._selection import deal, select
from ingot.train.step import forward_backward

LOSSES = [1.0, 5.0, 2.0, 9.0, 4.0, 8.0, 3.0, 7.0, 6.0, 0.5]
HOOK = {"name": "online_selection", "keep": 0.5}
STAGE = {"budget": "6 steps", "hooks": [HOOK]}


@pytest.mark.parametrize("micro", [1, 3, 4, 10])
def test_keeps_the_largest_losses_in_the_order_of_the_window(micro: int, told: Any) -> None:
    model, hook = told.Told(LOSSES), spec("hook", "online_selection", keep=0.4).build()
    found = hook.select(told.state(model), told.window(list(range(10)), micro))
    assert told.kept(found) == [3, 5, 7, 8]
    assert all(batch["rows"].shape == (micro,) for batch in found) and len(found) == -(-4 // micro)
    for batch in found:
        real = batch["rows"] >= 0
        assert torch.equal(batch["tokens"][real][:, 0], batch["rows"][real] * 10) and int(batch["key"]) == 7
        assert not batch["units"][~real].any() and (batch["targets"][~real] == -100).all() and not batch["segments"][~real].any()
    assert model.graded == 0 and model.trained == 0 and model.training
    log: dict[str, Any] = {}
    hook.stepped(told.state(model), log)
    assert log["hooks"] == {
        "online_selection.threshold": 6.0,
        "online_selection.kept": 4.0,
        "online_selection.read_loss": pytest.approx(4.55),
    }


def test_equal_losses_go_by_row_number_and_what_is_not_finite_comes_last(told: Any) -> None:
    assert told.kept(select(told.window([4, 2, 9, 7], 2), torch.ones(4), 0.5, None)[0]) == [4, 2]
    assert told.kept(select(told.window([4, 2, 9, 7], 2), torch.tensor([float("nan"), 1.0, float("inf"), 0.0]), 0.5, None)[0]) == [2, 7]
    assert told.kept(select(told.window([4, 2, 9], 2), torch.tensor([1.0, 2.0, 3.0, 99.0]), 1.0, None)[0]) == [
        4,
        2,
        9,
    ]  # padding is never chosen


class Ranks:
    """Runs a function once per rank, each with a layout whose gather meets the others."""

    def __init__(self, ranks: int):
        self.ranks, self.box, self.barrier = ranks, [None] * ranks, threading.Barrier(ranks)

    def run(self, function: Any) -> list[Any]:
        results: list[Any] = [None] * self.ranks
        outer = self

        class Layout:
            def __init__(self, rank: int):
                self.rank, self.ranks = rank, outer.ranks

            def gather(self, value: Any) -> list[Any]:
                outer.box[self.rank] = value
                outer.barrier.wait()
                found = list(outer.box)
                outer.barrier.wait()
                return found

        def work(rank: int) -> None:
            results[rank] = function(rank, Layout(rank))

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.ranks)]
        [thread.start() for thread in threads]
        [thread.join(30) for thread in threads]
        return results


def test_ranks_choose_over_all_rows_and_share_them_evenly(told: Any) -> None:
    """All large losses lie on rank 1; both ranks train on as many rows and have as many micro-batches."""
    losses = torch.tensor([0.0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    one, _ = select(told.window(list(range(10)), 2), losses, 0.5, None)
    two = Ranks(2).run(
        lambda rank, layout: select(
            told.window(list(range(5 * rank, 5 * rank + 5)), 2), torch.cat([losses[5 * rank : 5 * rank + 5], torch.zeros(1)]), 0.5, layout
        )[0]
    )
    assert told.kept(one) == [5, 6, 7, 8, 9] == [row for part in two for row in told.kept(part)]
    assert [len(told.kept(part)) for part in two] == [3, 2] and [len(part) for part in two] == [2, 2]
    assert torch.equal(two[0][0]["tokens"][0], one[0]["tokens"][0])


def test_dealing_keeps_what_belongs_to_no_row(told: Any) -> None:
    (found,) = deal(told.window([1, 2, 3], 3), [0, 2], None)
    assert found["key"].dim() == 0 and found["rows"].tolist() == [1, 3, -1]


def test_a_run_reads_more_than_it_trains_on_and_accounts_for_both(tiny_recipe: Any, runs: Any) -> None:
    run, plain = (
        runs.trained(tiny_recipe({"stages": {0: STAGE}}, name="chosen")),
        runs.trained(tiny_recipe({"stages": {0: STAGE | {"hooks": []}}}, name="plain")),
    )
    found, usual = runs.lines(run), runs.lines(plain)
    assert [line["batch_rows"] for line in found] == [8] * 6 and [line["read_rows"] for line in found] == [16] * 6
    assert found[-1]["rows"] == 96 and usual[-1]["rows"] == 48 and "read_rows" not in usual[0]
    assert all(line["step_tokens"] <= 8 * 32 for line in found) and found[-1]["tokens"] > 6 * 7 * 32
    scoring = found[0]["flops_by_component"]["hooks"]
    whole = sum(value for name, value in usual[0]["flops_by_component"].items() if name != "hooks")
    assert scoring == pytest.approx(2 * whole / 3, rel=0.05)  # a forward over twice the rows
    assert all(line["loss"] > line["hooks"]["online_selection.read_loss"] for line in found)


def test_the_choice_does_not_depend_on_accumulation(tiny_recipe: Any, runs: Any) -> None:
    whole, split = (
        runs.weights(runs.trained(tiny_recipe({"stages": {0: STAGE}, "precision": "fp64", "micro_rows": micro}, name=f"micro{micro}")))
        for micro in (8, 3)
    )
    assert all(float((split[name] - value).norm() / value.norm()) < 1e-9 for name, value in whole.items())


def test_resumes_to_the_bit(tiny_recipe: Any, runs: Any) -> None:
    straight = runs.trained(tiny_recipe({"stages": {0: STAGE}}, name="straight"))
    runs.trained(tiny_recipe({"stages": {0: STAGE}}, name="broken"), stop=2)
    resumed = runs.trained(tiny_recipe({"stages": {0: STAGE}}, name="broken"))
    wanted, found = runs.weights(straight), runs.weights(resumed)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert [line["rows"] for line in runs.lines(straight)] == [line["rows"] for line in runs.lines(resumed)]


def test_two_ranks_and_sharding_give_the_same_gradient(tiny_recipe: Any, tmp_path: Path) -> None:
    run = ingot.build(tiny_recipe({"stages": {0: STAGE}, "data": {"train": {"name": "text_files", "paths": [str(tmp_path / "left")]}}}))
    cases = compare(run.resolved, tmp_path / "parity", [("single", 1), ("replicate", 2), ("fsdp", 2)], [2])
    assert [case.layout for case in cases] == ["single", "replicate", "fsdp"]
    assert all(case.equal(3e-6) for case in cases), cases


def test_refusals(tiny_recipe: Any) -> None:
    with pytest.raises(UserError, match="more than all of them"):
        ingot.build(tiny_recipe({"stages": {0: {"hooks": [HOOK | {"keep": 1.5}]}}}))


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "causal_lm"},
        {"name": "masked_diffusion", "mask": 0},
        {"name": "replaced_token", "mask": 0},
        {"name": "multi_token", "heads": 2, "layer": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}},
        {"name": "weighted", "objectives": {"next": "causal_lm", "hidden": {"name": "masked_diffusion", "mask": 0}}},
        {"name": "by_source", "objectives": {"left": "causal_lm", "right": {"name": "masked_diffusion", "mask": 0}}},
    ],
    ids=lambda value: value["name"],
)
def test_what_fills_up_a_micro_batch_leaves_no_trace(tiny_recipe: Any, objective: dict[str, Any]) -> None:
    """Four rows in micro-batches of three, two of them copies, give the gradient and the counts of the four alone."""
    run = ingot.build(tiny_recipe({"stages": {0: STAGE}, "model": {"objective": objective}, "precision": "fp64", "micro_rows": 3}))
    state = run.state()
    stage = run.program.enter(state)
    windows = stage.open(0, 7, 3)
    window = [stage.prepare(micro) for micro in next(iter(windows))]
    windows.close()
    filled = deal(window, [0, 2, 3, 5], None)
    bare = [{name: value[:rows] if value.dim() else value for name, value in micro.items()} for micro, rows in zip(filled, (3, 1))]
    assert [micro["rows"].tolist() for micro in filled] == [[0, 2, 3], [5, -1, -1]]
    found = []
    for dealt in (bare, filled):
        state.model.zero_grad(set_to_none=True)
        passed = forward_backward(state.model, dealt, run.layout, {})
        gradients = {name: weight.grad for name, weight in state.model.named_parameters() if weight.grad is not None}
        units = {name: int(torch.cat([micro[name] for micro in dealt]).sum()) for name in dealt[0] if "units" in name.split("/")}
        found.append((gradients, {name: float(share) for name, share in passed.shares.items()}, units))
    assert found[0][2] == found[1][2] and found[1][1] == pytest.approx(found[0][1], rel=1e-12)
    for name, gradient in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], gradient, rtol=1e-9, atol=1e-12)
