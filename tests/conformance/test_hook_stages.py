"""What a hook holds from one stage to the next: it goes on with the same weights, and begins anew, said in the ledger, with others."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import ingot

ADAMW = {"name": "adamw", "lr": 0.01}
EMA = {"name": "ema", "decay": 0.9, "warmup": False}


def stages(*seconds: dict[str, Any], hook: Any = EMA, first: int = 3) -> dict[str, Any]:
    begin = {"budget": f"{first} steps", "batch": "8 rows", "optimizer": ADAMW, "hooks": [hook]}
    return {"stages": [begin, *(begin | second for second in seconds)], "checkpoint": {"every": "1 steps"}, "evaluate": {"rows": 4}}


def trained(recipe: Any, stop: int | None = None) -> tuple[Any, list[Any]]:
    """(the run, its training state); stopped after so many steps where that is said."""

    class Stop(Exception):
        """As a kill would."""

    class Reporter:
        def event(self, line: dict[str, Any]) -> None:
            """Nothing to show."""

        def step(self, line: dict[str, Any]) -> None:
            if line["step"] == stop:
                raise Stop

    run, states = ingot.build(recipe), []
    inner = run.state
    run.state = lambda path=None: states.append(inner(path)) or states[-1]  # type: ignore[method-assign]
    try:
        run.train(Reporter())
    except Stop:
        assert stop is not None
    return run, states


def events(run: Any) -> list[str]:
    lines = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    return [line["message"] for line in lines if line["kind"] == "event" and line["name"] == "hook"]


def test_two_stages_average_as_one_does(tiny_recipe: Any) -> None:
    """The same steps in one stage or in two: the same weights, and the same average of them."""
    whole, one = trained(tiny_recipe(stages(first=6) | {"stages": [stages(first=6)["stages"][0]]}, name="whole"))
    halves, two = trained(tiny_recipe(stages({}), name="halves"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), halves.model.parameters(), strict=True))
    mine, other = one[-1].hooks["ema"], two[-1].hooks["ema"]
    assert mine.updates == other.updates == 5 and not events(halves)
    assert all(torch.equal(mine.average[name], other.average[name]) for name in mine.average)
    assert any(not torch.equal(mine.average[name], weight) for name, weight in whole.model.named_parameters())


def test_the_next_stages_knobs_count(tiny_recipe: Any) -> None:
    _, states = trained(tiny_recipe(stages({"hooks": [EMA | {"decay": 0.5}]})))
    hook = states[-1].hooks["ema"]
    assert hook.decay == 0.5 and hook.updates == 5


@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_at_the_boundary_or_after_it_the_average_is_the_same(tiny_recipe: Any, stop: int) -> None:
    _, straight = trained(tiny_recipe(stages({}), name="straight"))
    trained(tiny_recipe(stages({}), name="broken"), stop)
    _, resumed = trained(tiny_recipe(stages({}), name="broken"))
    one, other = (found[-1].hooks["ema"] for found in (straight, resumed))
    assert one.updates == other.updates and all(torch.equal(one.average[name], other.average[name]) for name in one.average)


@pytest.mark.parametrize("transform", ["widen", "identity_depth"])
def test_another_model_begins_anew_and_the_ledger_says_so(tiny_recipe: Any, transform: str) -> None:
    run, states = trained(tiny_recipe(stages({"transforms": [transform]})))
    hook = states[-1].hooks["ema"]
    assert hook.updates == 2 and hook.average.keys() == dict(run.model.named_parameters()).keys()
    assert events(run) == ["the hook 'ema' starts afresh: the model is not that of the stage before, so what it held no longer fits"]


def test_a_hook_that_does_not_go_on_is_not_spoken_of(tiny_recipe: Any) -> None:
    run, states = trained(tiny_recipe(stages({"transforms": ["widen"], "hooks": ["clip"]})))
    assert "ema" not in states[-1].hooks and not events(run)


def test_running_means_go_on(tiny_recipe: Any) -> None:
    _, states = trained(tiny_recipe(stages({}, hook={"name": "noise_scale", "decay": 0.9})))
    assert states[-1].hooks["noise_scale"].weight == pytest.approx(1 - 0.9**6)
