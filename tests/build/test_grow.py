"""Growing in the middle of a run: it resumes bit-exactly, does not grow twice, says what it did, and is the same under every layout."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import ingot
from ingot.build.check import check
from ingot.core.errors import RunError

ADAMW = {"name": "adamw", "lr": 0.003}


def stages(*transforms: Any, optimizer: dict[str, Any] = ADAMW) -> dict[str, Any]:
    first = {"budget": "4 steps", "batch": "8 rows", "optimizer": ADAMW}
    return {
        "stages": [first, {**first, "optimizer": optimizer, "transforms": list(transforms), "hooks": ["clip"]}],
        "checkpoint": {"every": "2 steps", "keep_last": 9},
        "evaluate": {"rows": 4},
    }


def lines(run: Any, kind: str = "event") -> list[dict[str, Any]]:
    return [line for line in map(json.loads, (run.folder / "ledger.jsonl").read_text().splitlines()) if line["kind"] == kind]


def weights(run: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}


class Stop(Exception):
    """As a kill would."""


@pytest.mark.parametrize("transform", [{"name": "stack"}, {"name": "widen"}], ids=lambda value: value["name"])
def test_resumed_before_within_and_after_growth_it_is_the_same_run(
    tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch, transform: dict[str, Any]
) -> None:
    straight = ingot.build(tiny_recipe(stages(transform), name="straight"))
    straight.train()

    class Reporter:
        def __init__(self, name: str, at: Any):
            self.name, self.at = name, at

        def event(self, line: dict[str, Any]) -> None:
            if self.name == line["name"] and self.at in (None, line["step"]):
                raise Stop

        def step(self, line: dict[str, Any]) -> None:
            if self.name == "step" and line["step"] == self.at:
                raise Stop

    # in the second step; grown, but no checkpoint of it yet; the grown checkpoint just written; a step after it; near the end
    for name, at in (("step", 2), ("transform", None), ("step", 5), ("step", 7)):
        with pytest.raises(Stop):
            ingot.build(tiny_recipe(stages(transform), name="broken")).train(Reporter(name, at))
    resumed = ingot.build(tiny_recipe(stages(transform), name="broken"))
    resumed.train()
    one, other = weights(straight), weights(resumed)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    left, right = ([(line["step"], line["loss"], line["lr"]) for line in lines(run, "step")] for run in (straight, resumed))
    assert left == right and len(left) == 8
    manifest = resumed.checkpoints.manifest(resumed.checkpoints.latest())
    assert [line["name"] for line in manifest["lineage"]] == [transform["name"]]


def test_it_says_what_was_done_and_the_grown_run_is_used_like_any_other(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe(stages("widen", {"name": "upcycle", "experts": 2})))
    run.train()
    found = [line for line in lines(run) if line["name"] == "transform"]
    assert [line["transform"]["name"] for line in found] == ["widen", "upcycle"]
    assert (
        "width 32 -> 64" in found[0]["message"]
        and found[0]["transform"]["before"]["parameters"] < found[0]["transform"]["after"]["parameters"]
    )
    before, after = found[0]["transform"]["loss"]
    assert after == pytest.approx(before, abs=1e-4)
    again = ingot.open_run(run.folder)
    assert again.graph.width == 64 and again.graph.encoder.knobs["feedforward"].name == "moe"
    evaluation = lines(run, "evaluation")[-1]["results"]
    for source, result in again.evaluate(rows=4).items():
        assert result["loss"] == pytest.approx(evaluation[source]["loss"], abs=1e-6)
    early = ingot.open_run(run.folder, run.folder / "checkpoints" / "step-00000002")
    assert early.graph.width == 32


def test_what_growing_spends_is_counted(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe(stages("stack")))
    run.train()
    steps = lines(run, "step")
    assert steps[4]["seconds"] > steps[3]["seconds"] + steps[4]["step_seconds"]


def test_the_optimizer_goes_on_where_it_is_the_same_and_starts_afresh_where_not(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for optimizer, count in ((ADAMW, 8), ({"name": "lion", "lr": 0.0003}, None)):
        run = ingot.build(tiny_recipe(stages("identity_depth", optimizer=optimizer), name=optimizer["name"]))
        kept: list[Any] = []
        inner = run.program.save
        monkeypatch.setattr(run.program, "save", lambda state, metrics, inner=inner, kept=kept: kept.append(state) or inner(state, metrics))
        run.train()
        state = kept[-1].optimizer.state[kept[-1].model.embedding.weight]
        assert int(state["step"]) == count if count else set(state) == {"momentum"}


def test_a_claim_that_does_not_hold_stops_the_run(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.core.parts import load

    monkeypatch.setattr(load("transform", "stack"), "preserves", True)
    run = ingot.build(tiny_recipe(stages("stack"), {"precision": "fp64"}))
    with pytest.raises(RunError, match="stack should preserve the function"):
        run.train()


def test_the_first_stage_can_grow_what_the_run_starts_from(tiny_recipe: Any) -> None:
    dense = ingot.build(tiny_recipe(stages("identity_depth"), name="dense"))
    dense.train()
    first = {"budget": "2 steps", "batch": "8 rows", "optimizer": ADAMW, "transforms": [{"name": "upcycle", "experts": 2}]}
    run = ingot.build(tiny_recipe({"stages": [first], "model": {"encoder": {"depth": 4}}}, name="sparse"), start_from=str(dense.folder))
    run.train()
    before, after = next(line for line in lines(run) if line["name"] == "transform")["transform"]["loss"]
    assert after == pytest.approx(before, abs=1e-4) and before < 5.3
    assert run.checkpoints.manifest(run.checkpoints.latest())["parents"][0]["path"].startswith("runs/dense")


def test_a_model_grows_where_the_data_were_used_up(tiny_recipe: Any) -> None:
    """A stage that ends because its sources do may be followed by one that grows; LiGO then learns from the rows again."""
    recipe = tiny_recipe(stages({"name": "ligo", "steps": 3}))
    recipe.tree["data"]["train"]["max_epochs"] = {"left": 0.03, "right": 0.03}
    run = ingot.build(recipe)
    run.train()
    assert [line["name"] for line in lines(run) if line["name"] in ("data_end", "transform")] == ["data_end", "transform", "data_end"]


def test_a_run_from_before_there_were_transforms_resumes(tiny_recipe: Any) -> None:
    from ingot.core.recipe import dump, load

    recipe = tiny_recipe({"stages": {0: {"budget": "2 steps"}}})
    run = ingot.build(recipe)
    run.train()
    tree = load(run.folder / "recipe.yaml").tree
    del tree["stages"][0]["transforms"]
    (run.folder / "recipe.yaml").write_text(dump(tree))
    assert ingot.build(recipe).train()["step"] == 2


@pytest.mark.parametrize(
    ("transform", "edit", "where", "words"),
    [
        ("identity_depth", {"encoder": {"block": "post"}}, "stages.1.transforms.0", "normalizes what passes"),
        ({"name": "widen", "hidden": 0.5}, {}, "stages.1.transforms.0.hidden", "at least 1"),
        ({"name": "upcycle", "experts": 2, "router": {"name": "top_k", "top_k": 3}}, {}, "stages.1.transforms", "must not exceed experts"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(tiny_recipe: Any, transform: Any, edit: dict[str, Any], where: str, words: str) -> None:
    _, problems = check(tiny_recipe(stages(transform), {"model": edit}))
    assert [problem.where for problem in problems] == [where] and words in problems[0].message


def launch(folder: Path, ranks: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(ingot.__file__).parents[1]),
    }
    command = [sys.executable, str(Path(__file__).with_name("_grow_ranks.py")), str(folder)]
    children = [
        subprocess.Popen(
            command,
            env=place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{rank}.log").open("wb"),
        )
        for rank in range(ranks)
    ]
    deadline = time.monotonic() + 240
    while any(child.poll() is None for child in children) and not any(child.poll() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    for child in children:
        child.kill()
        child.wait()


@pytest.mark.parametrize("transform", [{"name": "widen", "split": 0.3}])
def test_two_ranks_are_one(tiny_recipe: Any, tmp_path: Path, transform: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    recipe = tiny_recipe(stages(transform, "stack"), {"precision": "fp64"})
    alone = ingot.build(recipe, runs=tmp_path / "alone")
    states: list[Any] = []
    inner = alone.state
    alone.state = lambda path=None: states.append(inner(path)) or states[-1]  # type: ignore[method-assign]
    alone.train()
    wanted = states[0].whole()
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.tree))
    launch(tmp_path, 2)
    for layout in ("replicate", "fsdp"):
        assert (tmp_path / f"{layout}.safetensors").exists(), (tmp_path / "0.log").read_text()[-3000:]
        found = load_file(tmp_path / f"{layout}.safetensors")
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-10, msg=f"{layout}: {name}")
