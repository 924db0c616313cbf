"""The plan against real runs of the command line, in processes of their own; and a model that no machine here could hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("_measured.py")
RUN = [
    "data.train={name: python_library, packages: [json, email]}",
    "data.holdout=0",
    "data.tokenizer=bytes",
    "model.vocabulary=8192",
    "stages.0.budget=2 steps",
    "evaluate.rows=1",
    "checkpoint.every=100%",
    "compile=false",
    "log.tensorboard=false",
]
SETTINGS = {
    "bert": (
        "text/bert_tiny",
        [
            "model.width=512",
            "model.encoder.depth=6",
            "model.encoder.mixer.heads=8",
            "data.sequence=256",
            "stages.0.batch=16 rows",
            "micro_rows=16",
        ],
    ),
    "muon, accumulated": (
        "text/gpt_small",
        [
            "model.width=640",
            "model.encoder.depth=6",
            "model.encoder.mixer.heads=10",
            "data.sequence=256",
            "stages.0.batch=16 rows",
            "micro_rows=8",
        ],
    ),
    "adamw in fp32": (
        "text/gpt_tiny",
        [
            "model.width=512",
            "model.encoder.depth=6",
            "model.encoder.mixer.heads=8",
            "data.sequence=128",
            "stages.0.batch=16 rows",
            "micro_rows=16",
            "precision=fp32",
        ],
    ),
}

# Seconds of processor time, since the clock depends on what else runs here, and the most bytes that the process held.
COUNTED = """
import json, sys, time
from ingot.cli import main
from ingot.ledger.memory import process_peak
main(sys.argv[1:])
print(json.dumps([time.process_time(), process_peak()]))
"""


def called(folder: Path, *command: str) -> str:
    """Standard output of a fresh process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stdout


def planned(folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(called(folder, "-m", "ingot", "plan", *arguments, "--json"))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_peak_of_ingot_train_is_within_15_percent_of_ingot_plan(tmp_path: Path, setting: str) -> None:
    recipe, changes = SETTINGS[setting]
    arguments = [str(ROOT / "recipes" / f"{recipe}.yaml"), *RUN, *changes]
    (stage,) = planned(tmp_path, *arguments)["stages"]
    predicted = stage["forecast"]["peak"]
    called(tmp_path, "-m", "ingot", "prepare", *arguments)
    found = json.loads(called(tmp_path, str(WORKER), *arguments, "--json").splitlines()[-1])
    measured = found["peak"] - found["baseline"]
    print(f"{setting}: predicted {predicted / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB, ratio {predicted / measured:.3f}")
    assert found["status"] == 0 and measured > 3e8
    assert predicted == pytest.approx(measured, rel=0.15)


def test_gpt_1b_is_planned_from_its_shapes_alone(tmp_path: Path) -> None:
    """The shipped recipe as it is, whose corpus is not here: parameters and bytes by hand, in bounded time and memory."""
    recipe = str(ROOT / "recipes/text/gpt_1b.yaml")
    answer, spent = called(
        tmp_path, "-c", COUNTED, "plan", recipe, "device=cpu", "layout=single", "--memory", "1 TiB", "--json"
    ).splitlines()
    found, (seconds, peak) = json.loads(answer), json.loads(spent)
    (stage,) = found["stages"]
    width, depth, vocabulary, key_values = 2048, 18, 64000, 4 * 128
    hidden = stage_hidden(width)
    block = 2 * width * width + 2 * width * key_values + 3 * width * hidden
    assert found["parameters"] == pytest.approx(2 * vocabulary * width + depth * block, rel=1e-3)
    kinds = stage["forecast"]["by_kind"]
    assert kinds["weights"] == pytest.approx(4 * found["parameters"], rel=1e-3)
    assert kinds["optimizer_state"] == pytest.approx(8 * found["parameters"], rel=1e-3)
    assert kinds["hooks"] == pytest.approx(4 * found["parameters"], rel=1e-3), "the moving average of the weights"
    assert found["fits"] and stage["forecast"]["peak"] > 16 * found["parameters"]
    assert seconds < 120 and peak < 2e9 < kinds["weights"]
    assert not list(tmp_path.glob("**/*.safetensors"))


def stage_hidden(width: int) -> int:
    """SwiGLU's width where a recipe gives none: two thirds of four widths, in whole multiples of 64."""
    return -(-(8 * width // 3) // 64) * 64


@pytest.mark.parametrize(
    ("hook", "judges"), [("name: online_selection", 1), ("name: learnability", 2), ("name: learnability, reference: before", 2)]
)
def test_a_plan_has_in_it_what_selection_computes(hook: str, judges: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes over twice the rows: as many FLOPs as there are in two thirds of the training, for each model that judges."""
    from ingot.build.check import resolve_run
    from ingot.build.plan import forecast_stage
    from ingot.build.rows import steps_in
    from ingot.build.run import Run
    from ingot.core.recipe import dump, load

    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "recipes/text/gpt_tiny.yaml"
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "recipe.yaml").write_text(dump(load(recipe, tiny=True).tree))
    run = Run(resolve_run(load(recipe, [f"stages.0.hooks=[{{{hook}, keep: 0.5}}]", "stages.0.budget=64 rows"], tiny=True)), tmp_path)
    found = forecast_stage(run, 0, 4)
    trained = found.flops - found.flops_by_component["hooks"]
    assert found.flops_by_component["hooks"] == pytest.approx(trained * 2 / 3 * judges, rel=0.01)
    assert steps_in(run, 0, flops=1.0, seconds=1.0) == 64 / (2 * run.batch_rows(0)), "a budget in rows counts what is read"
