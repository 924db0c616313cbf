"""A device that runs out of memory inside a step: the step is taken again in smaller pieces, on the same rows, to the same end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

import ingot
from ingot.core.errors import RunError
from ingot.parallel.start import finish
from ingot.train import loop as loop_module
from ingot.train import step as step_module
from ingot.train.loop import Loop

Rows = list[list[list[int]]]


@pytest.fixture
def train(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Rows]]:
    """Trains three steps of 8 rows. fails_at: (step, micro-batch) at which memory runs out once. The rows of every step that was made."""

    def run(name: str, *, micro_rows: int, fails_at: tuple[int, int] | None = None, **knobs: Any) -> tuple[Any, Rows]:
        made: Rows = []
        forwards: list[int] = []
        failed: list[bool] = []
        collect, step = step_module.collect_side, loop_module.step

        def collected(model: Any) -> Any:
            forwards.append(1)
            if not failed and fails_at == (len(made) + 1, len(forwards)):
                failed.append(True)
                raise torch.cuda.OutOfMemoryError("pretended")
            return collect(model)

        def counted(state: Any, window: Any, *given: Any, **more: Any) -> Any:
            forwards.clear()
            outcome = step(state, window, *given, **more)
            made.append([micro["rows"].tolist() for micro in window])
            return outcome

        with monkeypatch.context() as patch:
            patch.setattr(step_module, "collect_side", collected)
            patch.setattr(loop_module, "step", counted)
            found = ingot.build(
                tiny_recipe(
                    {"micro_rows": micro_rows, "model": {"encoder": {"dropout": 0.1}}, "stages": {0: {"budget": "3 steps"}}},
                    knobs,
                    name=name,
                )
            )
            found.train()
        assert bool(failed) == (fails_at is not None)
        return found, made

    return run


def weights(run: Any) -> dict[str, torch.Tensor]:
    last = sorted((run.folder / "checkpoints").glob("step-*"))[-1]
    return {name: value for path in sorted(last.rglob("*.safetensors")) for name, value in load_file(path).items()}


def events(run: Any) -> list[dict[str, Any]]:
    lines = map(json.loads, (Path(run.folder) / "ledger.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == "event" and line["name"] == "out_of_memory"]


@pytest.mark.parametrize("micro", [1, 2], ids=["in the first piece", "with a gradient half made"])
def test_it_goes_on_with_half_the_micro_batch_to_the_same_weights(train: Any, micro: int) -> None:
    unbroken, rows = train("unbroken", micro_rows=2)
    broken, again = train("broken", micro_rows=4, fails_at=(1, micro))
    assert again == rows and [len(piece) for piece in again[0]] == [2, 2, 2, 2]
    assert weights(broken).keys() == weights(unbroken).keys()
    assert all(torch.equal(value, weights(unbroken)[name]) for name, value in weights(broken).items())
    assert [event["message"] for event in events(broken)] == ["micro-batch lowered to 2 rows"]


def test_on_the_way_the_rows_and_the_global_batch_stay(train: Any) -> None:
    unbroken, rows = train("unbroken", micro_rows=4, precision="fp64")
    broken, again = train("broken", micro_rows=4, fails_at=(2, 2), precision="fp64")
    assert [[len(piece) for piece in step] for step in again] == [[4, 4], [2, 2, 2, 2], [2, 2, 2, 2]]
    assert [[row for piece in step for row in piece] for step in again] == [[row for piece in step for row in piece] for step in rows]
    for name, value in weights(unbroken).items():
        if value.is_floating_point():
            assert (weights(broken)[name] - value).norm() <= 1e-9 * max(1e-9, float(value.norm())), name


def test_a_single_row_that_does_not_fit_is_one_line(train: Any) -> None:
    with pytest.raises(RunError, match="out of device memory with 1 row a micro-batch; set micro_rows lower") as caught:
        train("broken", micro_rows=1, fails_at=(2, 1))
    assert "\n" not in str(caught.value)


def test_over_several_ranks_it_says_that_it_cannot_go_on() -> None:
    class Two:
        ranks = 2

    class Stage:
        micro_rows = 4

    loop = Loop.__new__(Loop)
    loop.layout = Two()  # type: ignore[assignment]
    with pytest.raises(
        RunError, match="with 4 rows a micro-batch, and over several ranks it cannot be lowered on the way; set micro_rows lower"
    ):
        loop._shrink(Stage(), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [1, 3])
def test_in_the_update_it_goes_back_to_the_last_checkpoint(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Weights and momenta of some groups are new by then, so the same rows again would move them twice."""
    change = {"micro_rows": 4, "stages": {0: {"budget": "4 steps"}}, "checkpoint": {"every": "2 steps"}}
    unbroken = ingot.build(tiny_recipe(change, {"micro_rows": 2}, name="unbroken"))
    unbroken.train()
    calls: list[int] = []

    def failing(optimizer: torch.optim.Optimizer, *given: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == at:
            raise torch.cuda.OutOfMemoryError("pretended, when all is updated")

    handle = register_optimizer_step_post_hook(failing)
    try:
        broken = ingot.build(tiny_recipe(change, name="broken"))
        broken.train()
    finally:
        handle.remove()
    step = 0 if at == 1 else 2
    assert [event["message"] for event in events(broken)] == [
        f"micro-batch lowered to 2 rows, back to step {step}, for an update was half made"
    ]
    assert len(calls) == 5
    for name, value in weights(unbroken).items():
        assert torch.allclose(weights(broken)[name].double(), value.double(), rtol=1e-3, atol=1e-6), name


def test_under_fsdp_it_says_that_it_cannot_go_on(train: Any) -> None:
    """Sums of a window that was broken off stay inside of its modules, also on one rank."""
    try:
        with pytest.raises(RunError, match="with 4 rows a micro-batch, and under fsdp it cannot be lowered on the way"):
            train("broken", micro_rows=4, fails_at=(2, 2), layout="fsdp")
    finally:
        finish()


def test_a_micro_batch_that_a_scheduled_batch_makes_smaller_is_halved(train: Any) -> None:
    """Half of what ran out of memory, not of what a full batch would take."""
    stage = {"schedule": {"batch": {"name": "constant", "warmup": "100%"}}}
    broken, rows = train("broken", micro_rows=8, fails_at=(2, 1), stages={0: stage})
    assert [sum(row >= 0 for piece in step for row in piece) for step in rows] == [1, 4, 7]
    assert [max(map(len, step)) for step in rows] == [1, 2, 2] and events(broken)[0]["message"] == "micro-batch lowered to 2 rows"
