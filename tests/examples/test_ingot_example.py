"""The example package: installed as a user installs it, its parts are found and a run uses them; nothing of Ingot knows of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ingot_example"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which the package is installed beside this checkout's Ingot."""
    pytest.importorskip("setuptools")
    place = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, place / "source")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(place / "site"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{place / 'site'}", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def ingot(environment: dict[str, str], folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "ingot", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_parts_are_listed_with_their_package(environment: dict[str, str], tmp_path: Path) -> None:
    listed = ingot(environment, tmp_path, "parts", "objective")
    assert any("speed" in line and "ingot-example" in line for line in listed.splitlines()), listed


def test_a_recipe_trains_with_them(environment: dict[str, str], tmp_path: Path) -> None:
    ingot(environment, tmp_path, "train", str(EXAMPLE / "recipe.yaml"))
    lines = [json.loads(line) for line in (tmp_path / "runs" / "recipe" / "ledger.jsonl").read_text().splitlines()]
    before, after = [next(iter(line["results"].values())) for line in lines if line["kind"] == "evaluation"]
    assert after["loss"] < 0.5 * before["loss"] and after["accuracy"] > 0.85
    assert after["linear_probe.accuracy"] > 0.8


def test_nothing_of_ingot_knows_of_them() -> None:
    words = ("ingot_example", "ingot-example", "spectrum:", "Spectrum")
    assert not [path for path in (ROOT / "src").rglob("*.py") if any(word in path.read_text(encoding="utf-8") for word in words)]
