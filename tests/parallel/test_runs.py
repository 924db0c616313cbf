"""Whole runs under several processes: the same gradient, the same weights, the same rows after a resume with other ranks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from _launched import launched
from safetensors.torch import load_file

from ingot.build.parity import TOLERANCE, worst_difference
from ingot.core.parts import parts_in

WORKER = Path(__file__).with_name("_run_worker.py")
ACCUMULATIONS = [1, 2, 5]
STEPS, STOP = 20, 7
SEVERAL = [name for name in parts_in("parallel.layout") if name != "single"]
LAYOUTS = [(name, ranks) for name in SEVERAL for ranks in (2, 4)] + [(name, 1) for name in SEVERAL if name != "replicate"]
RESUMED = [(name, ranks) for name in SEVERAL for ranks in (1, 2)]
WIDE = {"name": "attention", "heads": 2, "bias": True, "position": None}
MASKED = {"model": {"objective": {"name": "masked_lm", "rate": 0.3}}}
# 13 rows divide by no number of ranks and micro-batches; with 3 rows the last of four ranks holds none.
VARIANTS: dict[str, dict[str, Any]] = {
    "causal": {"stages": [{"batch": "13 rows"}]},
    "masked": MASKED | {"stages": [{"batch": "13 rows"}]},
    "bert": {
        "model": {
            "objective": {"name": "masked_lm", "rate": 0.3, "tied": False, "bias": True, "transform": "layer"},
            "embedding": {"name": "token", "position": "learned", "norm": "layer", "dropout": 0.1, "types": 2},
            "encoder": {"mixer": WIDE, "feedforward": {"name": "gelu", "bias": True}, "norm": "layer", "block": "post"},
        },
        "stages": [{"batch": "5 rows"}],
    },
    "few_rows": {"stages": [{"batch": "3 rows"}]},
    "few_units": {"model": {"objective": {"name": "masked_lm", "rate": 0.02}}, "stages": [{"batch": "9 rows"}]},
}


FEW = {"stages": [{"budget": "4 steps"}]}
# Its frozen encoder is opened by every rank for itself.
TAUGHT = FEW | {"model": {"objective": {"name": "feature_distillation", "teacher": {"start": "single-1/runs/teacher", "width": 16}}}}


def merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {key: merged(base[key], over[key]) if key in base and key in over else over.get(key, base.get(key)) for key in base | over}
    if isinstance(base, list) and isinstance(over, list):
        return [merged(one, other) for one, other in zip(base, over, strict=True)]
    return over


def recipe(name: str, layout: str, *patches: dict[str, Any]) -> dict[str, Any]:
    """A small model with dropout on a mixture of two sources. `layout` single and replicate are what ``auto`` chooses."""
    tree = {
        "name": name,
        "precision": "fp32",
        "compile": False,
        "micro_rows": 2,
        "layout": "auto" if layout in ("single", "replicate") else layout,
        "data": {
            "train": {
                "name": "mixture",
                "sources": {side: {"name": "text_files", "paths": [side]} for side in ("left", "right")},
                "weights": {"left": 0.7, "right": 0.3},
            },
            "holdout": 0.2,
            "tokenizer": "bytes",
            "sequence": 24,
        },
        "model": {
            "width": 16,
            "embedding": {"name": "token", "dropout": 0.1},
            "objective": {"name": "causal_lm"},
            "encoder": {
                "name": "transformer",
                "depth": 2,
                "mixer": {"name": "attention", "heads": 2},
                "feedforward": "swiglu",
                "norm": "rms",
                "dropout": 0.1,
            },
        },
        "stages": [
            {
                "budget": f"{STEPS} steps",
                "batch": "10 rows",
                "optimizer": {"name": "adamw", "lr": 0.003},
                "schedule": {"lr": {"name": "cosine"}},
                "hooks": ["clip"],
            }
        ],
        "evaluate": {"every": "50%", "rows": 6, "batch_rows": 4},
        "checkpoint": {"every": "50%"},
        "log": {"tensorboard": False},
    }
    for patch in patches:
        tree = merged(tree, patch)
    return tree


def launches() -> list[dict[str, Any]]:
    def jobs(layout: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
        grads = [
            {
                "name": f"{variant}-{precision}",
                "do": "gradients",
                "accumulations": ACCUMULATIONS,
                "sparse": variant == "few_units",
                "recipe": recipe("parity", layout, patch, {"precision": precision}),
            }
            for variant, patch in VARIANTS.items()
            for precision in TOLERANCE
        ]
        return [*grads, {"name": "unbroken", "do": "train", "recipe": recipe("unbroken", layout, MASKED)}, *more]

    def broken(layout: str, **more: Any) -> dict[str, Any]:
        return {"name": "broken", "do": "train", "recipe": recipe("broken", layout, MASKED)} | more

    # fsdp on 2 ranks goes through torchrun itself, the others are forked: less to import.
    teacher = [
        {"name": name, "do": "train", "recipe": recipe(name, "single", change)} for name, change in (("teacher", FEW), ("taught", TAUGHT))
    ]
    found = [{"name": "single-1", "ranks": 1, "jobs": jobs("single", *teacher)}]
    for layout in SEVERAL:
        alone = [broken("single")] if layout == "replicate" else jobs(layout, broken(layout))
        found.append({"name": f"{layout}-4", "ranks": 4, "jobs": jobs(layout, broken(layout, stop=STOP))})
        found.append(
            {
                "name": f"{layout}-2",
                "ranks": 2,
                "continues": f"{layout}-4",
                "torchrun": layout == "fsdp",
                "jobs": jobs(layout, broken(layout), {"name": "taught", "do": "train", "recipe": recipe("taught", layout, TAUGHT)}),
            }
        )
        found.append({"name": f"{layout}-1", "ranks": 1, "continues": f"{layout}-4", "jobs": alone})
    for launch in found:
        for job in launch["jobs"]:
            if job["name"] == "unbroken" and "continues" in launch:
                job["recipe"] |= {"name": "unbroken_again"}  # the copied folder holds a finished run of that name
    return found


def corpus(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    folder.mkdir()
    for number in range(30):
        start = draw.randrange(20)
        words = [chr(97 + (start + step * draw.choice((1, 1, 2))) % 26) * (1 + step % 3) for step in range(draw.randrange(20, 60))]
        (folder / f"{number:02}.txt").write_text(" ".join(words) + ".\n")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The folder of all launches' results; made once, also where several pytest processes share the tests."""
    return launched("whole_runs", tmp_path_factory, repository, WORKER, launches, corpus, 500)


def facts(folder: Path, launch: str, job: str) -> dict[str, Any]:
    path = folder / launch / f"{job}.json"
    assert path.exists(), f"{launch} left no {job}:\n{(folder / 'log').read_text()[-6000:]}"
    return json.loads(path.read_text())


def part(tensors: dict[str, torch.Tensor], accumulation: int) -> dict[str, torch.Tensor]:
    return {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{accumulation}/")}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("layout", "ranks"), [("single", 1), *LAYOUTS])
def test_same_gradient(results: Path, layout: str, ranks: int, variant: str) -> None:
    for precision, tolerance in TOLERANCE.items():
        job = f"{variant}-{precision}"
        wanted_loss = facts(results, "single-1", job)["losses"]["1"]
        found_loss = facts(results, f"{layout}-{ranks}", job)["losses"]
        wanted = part(load_file(results / "single-1" / f"{job}.safetensors"), 1)
        found = load_file(results / f"{layout}-{ranks}" / f"{job}.safetensors")
        assert all(bool(value.any()) for name, value in wanted.items() if "mixer.key.bias" not in name and "segment" not in name)
        for accumulation in ACCUMULATIONS:
            difference, name = worst_difference(wanted, part(found, accumulation))
            assert difference <= tolerance, f"{precision}, accumulation {accumulation}: {name} differs by {difference:.1e}"
            for name, value in wanted_loss.items():
                assert abs(found_loss[str(accumulation)][name] - value) <= tolerance * abs(value)


def test_a_scaled_gradient_would_be_noticed(results: Path) -> None:
    wanted = part(load_file(results / "single-1" / "causal-fp32.safetensors"), 1)
    assert (
        worst_difference(wanted, {name: value * (1 + 1e-5 * (name == "embedding.weight")) for name, value in wanted.items()})[0]
        > TOLERANCE["fp32"]
    )


def test_some_ranks_hold_nothing_to_score(results: Path) -> None:
    """What the variants are for: uneven rows, a rank without rows, a rank whose rows have no unit."""
    assert [rows for rows, _ in facts(results, "replicate-4", "causal-fp32")["rows_and_units_by_rank"]] == [4, 3, 3, 3]
    assert [rows for rows, _ in facts(results, "fsdp-4", "few_rows-fp32")["rows_and_units_by_rank"]] == [1, 1, 1, 0]
    few = facts(results, "fsdp-4", "few_units-fp32")["rows_and_units_by_rank"]
    assert any(rows and not units for rows, units in few) and any(units for _, units in few)


@pytest.mark.parametrize(("layout", "ranks"), LAYOUTS)
def test_same_weights_after_adamw(results: Path, layout: str, ranks: int) -> None:
    reference, other = facts(results, "single-1", "unbroken"), facts(results, f"{layout}-{ranks}", "unbroken")
    assert other["rows"] == reference["rows"] and len(other["rows"]) == STEPS
    wanted, found = (load_file(results / launch / "unbroken.safetensors") for launch in ("single-1", f"{layout}-{ranks}"))
    difference, name = worst_difference(wanted, found)
    assert difference <= 1e-3, f"{name} differs by {difference:.1e}"


@pytest.mark.parametrize(("layout", "ranks"), RESUMED)
def test_saved_on_four_ranks_resumed_on_fewer(results: Path, layout: str, ranks: int) -> None:
    """The first part of the rows under four ranks, the rest under others: together exactly the unbroken run's, step by step."""
    reference = facts(results, "single-1", "unbroken")
    first, second = facts(results, f"{layout}-4", "broken"), facts(results, f"{layout}-{ranks}", "broken")
    assert (first["reason"], second["reason"]) == ("SIGTERM", "finished")
    assert len(first["rows"]) == STOP + 1 and not first["rows"].keys() & second["rows"].keys()
    assert first["rows"] | second["rows"] == reference["rows"]
    for step, loss in (first["losses"] | second["losses"]).items():
        assert loss == pytest.approx(reference["losses"][step], rel=1e-4)
    wanted, found = (load_file(results / place) for place in ("single-1/unbroken.safetensors", f"{layout}-{ranks}/broken.safetensors"))
    difference, name = worst_difference(wanted, found)
    assert difference <= 1e-3, f"{name} differs by {difference:.1e}"


@pytest.mark.parametrize(("layout", "ranks"), RESUMED)
def test_flops_are_of_the_ranks_that_spend_them(results: Path, layout: str, ranks: int) -> None:
    """What a step cost on four ranks is not taken for its cost on fewer: from there on it is that of a run that never had others."""
    alone = layout == "replicate" and ranks == 1
    fresh = ("unbroken", "single-1") if alone else ("unbroken_again", f"{layout}-{ranks}")
    wanted, found = (steps_of(results / launch / "runs" / name) for name, launch in (fresh, ("broken", f"{layout}-{ranks}")))
    for step in range(STOP + 2, STEPS + 1):
        assert found[step]["step_flops"] == pytest.approx(wanted[step]["step_flops"], rel=0.05)  # the masks of a metered step differ
        assert found[step]["step_flops"] == sum(found[step]["flops_by_component"].values())


def steps_of(run: Path) -> dict[int, dict[str, Any]]:
    lines = map(json.loads, (run / "ledger.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if line["kind"] == "step"}


@pytest.mark.parametrize("layout", SEVERAL)
def test_a_frozen_teacher_is_the_same_on_every_rank(results: Path, layout: str) -> None:
    wanted, found = facts(results, "single-1", "taught"), facts(results, f"{layout}-2", "taught")
    assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-4)
