"""EMA: the recurrence written out, the swap and its way back, resuming."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ingot.build.check import check
from ingot.build.run import open_run
from ingot.core.errors import RunError, UserError
from ingot.core.resolve import spec
from ingot.hook.ema import EMA
from ingot.ledger.ledger import read


def run(hook: EMA, model: nn.Module, steps: int, seed: int = 0) -> list[torch.Tensor]:
    """Steps of a random walk under the hook; the weight after each."""
    generator, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        with torch.no_grad():
            model.weight.add_(torch.randn(model.weight.shape, generator=generator))
        hook.stepped(SimpleNamespace(model=model), {})
        seen.append(model.weight.detach().clone())
    return seen


@pytest.mark.parametrize("warmup", [True, False])
def test_is_the_recurrence(warmup: bool) -> None:
    hook, model = spec("hook", "ema", decay=0.8, warmup=warmup).build(), nn.Linear(3, 2, bias=False)
    seen = run(hook, model, 60)
    average = seen[0]
    for t, weight in enumerate(seen[1:], start=1):
        decay = min(0.8, (1 + t) / (10 + t)) if warmup else 0.8
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(hook.average["weight"], average, rtol=1e-5, atol=1e-5)


def test_a_step_whose_update_was_held_back_is_no_step() -> None:
    hook, model = spec("hook", "ema").build(), nn.Linear(3, 2, bias=False)
    run(hook, model, 5)
    average, updates = hook.average["weight"].clone(), hook.updates
    hook.stepped(SimpleNamespace(model=model), {"skipped": True})
    assert torch.equal(hook.average["weight"], average) and hook.updates == updates


def test_swap_is_undone_to_the_bit_even_after_an_error() -> None:
    hook, model = spec("hook", "ema").build(), nn.Linear(3, 2, bias=False)
    run(hook, model, 5)
    own, average = model.weight.detach().clone(), hook.average["weight"].clone()
    assert not torch.equal(own, average)
    with pytest.raises(ZeroDivisionError), hook.averaged(model):
        assert torch.equal(model.weight, average)
        raise ZeroDivisionError
    assert torch.equal(model.weight, own)
    with hook.averaged():
        assert torch.equal(model.weight, average)
    assert torch.equal(model.weight, own) and torch.equal(hook.average["weight"], average)


def test_before_the_first_step_the_weights_are_their_own_average() -> None:
    hook, model = spec("hook", "ema").build(), nn.Linear(3, 2)
    own = model.weight.detach().clone()
    with hook.averaged(model):
        assert torch.equal(model.weight, own)


def test_resumes_to_the_bit() -> None:
    hook, model = spec("hook", "ema", decay=0.7).build(), nn.Linear(3, 2, bias=False)
    run(hook, model, 4)
    saved, weights = copy.deepcopy(hook.state_dict()), copy.deepcopy(model.state_dict())
    run(hook, model, 4, seed=1)
    other, twin = spec("hook", "ema", decay=0.7).build(), nn.Linear(3, 2, bias=False)
    other.load_state_dict(saved)
    twin.load_state_dict(weights)
    run(other, twin, 4, seed=1)
    assert torch.equal(hook.average["weight"], other.average["weight"])
    assert other.updates == hook.updates == 7 and saved["updates"] == 3


def test_a_model_that_has_grown_is_refused() -> None:
    hook = spec("hook", "ema").build()
    run(hook, nn.Linear(3, 2, bias=False), 2)
    with pytest.raises(RunError, match="has changed"):
        run(hook, nn.Linear(4, 2, bias=False), 1)


def walk(hook: EMA, weights: list[float], rows: int) -> torch.Tensor:
    model = nn.Linear(1, 1, bias=False)
    for weight in weights:
        with torch.no_grad():
            model.weight.fill_(weight)
        hook.stepped(SimpleNamespace(model=model), {"batch_rows": rows})
    return hook.average["weight"]


def test_a_batch_three_times_as_large_forgets_as_three_steps_do() -> None:
    """The scaling rule: decay^k over one step is decay over k steps while the weights stand still."""
    many, few = (spec("hook", "ema", decay=0.9, warmup=False).build(batch_rows=8) for _ in range(2))
    slow = walk(many, [1.0, *([5.0] * 6)], 8)
    fast = walk(few, [1.0, *([5.0] * 2)], 24)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)
    assert float(slow) == pytest.approx(5 - 4 * 0.9**6, rel=1e-6)
    unscaled = walk(spec("hook", "ema", decay=0.9, warmup=False).build(), [1.0, *([5.0] * 2)], 24)
    assert float(unscaled) == pytest.approx(5 - 4 * 0.9**2, rel=1e-6)


@pytest.mark.parametrize(("batch", "sequence"), [("16 rows", 4), ("64 tokens", 4)])
def test_the_batch_that_decay_was_chosen_for_may_be_another(batch: str, sequence: int) -> None:
    hook = spec("hook", "ema", decay=0.81, warmup=False, batch=batch).build(batch_rows=8, sequence=sequence)
    assert float(walk(hook, [0.0, 1.0], 8)) == pytest.approx(1 - 0.9, rel=1e-6)  # half the batch, half the exponent


@pytest.mark.parametrize("batch", ["64 s audio", "0 rows", "0 tokens"])
def test_a_batch_that_is_no_number_of_rows_is_refused(tiny_recipe: Any, batch: str) -> None:
    _, problems = check(tiny_recipe({"stages": {0: {"hooks": [{"name": "ema", "batch": batch}]}}}))
    assert ["rows or tokens that decay was chosen for" in str(problem) for problem in problems] == [True]
    with pytest.raises(UserError, match="rows or tokens that decay was chosen for"):
        spec("hook", "ema", batch=batch).build(batch_rows=8)


def test_restarts_of_factors_are_refused(tiny_recipe: Any) -> None:
    """W + B A is averaged by its three matrices, of which a restart changes what each is."""
    factors = {"model": {"encoder": {"linear": {"name": "relora", "rank": 4}}}}
    restarts = {"name": "relora", "every": 2}
    first = {"budget": "4 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}, "hooks": [restarts]}
    for hooks, refused in (([restarts, "ema"], True), (["ema"], False)):
        _, problems = check(tiny_recipe(factors, {"stages": [first, first | {"hooks": hooks}]}))
        assert ["leave one out of stage 1" in str(problem) for problem in problems] == [True] * refused


def test_follows_a_scheduled_batch(tiny_recipe: Any, runs: Any) -> None:
    stage = {
        "budget": "6 steps",
        "hooks": [{"name": "ema", "decay": 0.5, "warmup": False}],
        "schedule": {"batch": {"name": "constant", "warmup": "90%"}},
    }
    run = runs.trained(tiny_recipe({"stages": {0: stage}}))
    rows = [line["batch_rows"] for line in runs.lines(run)]
    assert rows[0] < 8 == rows[-1] and run.program.run is run


def test_what_is_opened_again_is_what_the_run_evaluated(tiny_recipe: Any, runs: Any) -> None:
    """The average, for evaluation, sampling and export; training goes on with the weights themselves."""
    stage = {"budget": "12 steps", "hooks": [{"name": "ema", "decay": 0.9, "warmup": False}]}
    run = runs.trained(tiny_recipe({"stages": {0: stage}}))
    weights = {name: value.clone() for name, value in run.model.named_parameters()}
    last = [line for line in read(run.folder) if line["kind"] == "evaluation"][-1]["results"]
    again = open_run(run.folder)
    assert not all(torch.equal(value, weights[name]) for name, value in again.model.named_parameters())
    found = again.evaluate(rows=8)
    assert {name: result["loss"] for name, result in found.items()} == pytest.approx(
        {name: result["loss"] for name, result in last.items()}
    )
    assert "the average of the weights that 'ema' keeps" in again.messages[-1]
    state = again.state(again.checkpoints.latest())
    assert all(torch.equal(value, weights[name]) for name, value in state.model.named_parameters())


def test_an_average_from_a_checkpoint_goes_to_the_weights_device() -> None:
    """Checkpoints are read to the CPU; the device here is made up."""
    with FakeTensorMode():
        model = nn.Module()
        model.weight = nn.Parameter(torch.empty(4, 3, device="cuda"))
        hook = spec("hook", "ema").build()
        hook.load_state_dict({"updates": 2, "average.weight": torch.empty(4, 3)})
        hook.stepped(SimpleNamespace(model=model))
        assert hook.average["weight"].device.type == "cuda" and hook.updates == 3
