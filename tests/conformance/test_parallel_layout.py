"""What every layout keeps, alone and on three ranks: sums, one gradient, names, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import ingot
from ingot.core.parts import parts_in

SLOTS = ["parallel.layout"]
WORKER = Path(__file__).with_name("_layout_ranks.py")
ALONE = {"single"}  # refuses to be one of several
DTYPES = ("float64", "bfloat16")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every layout in a group of one, and every layout of several on three ranks."""
    folder = tmp_path_factory.mktemp("layouts")
    environment = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    names = list(parts_in("parallel.layout"))
    for ranks, chosen in ((1, names), (3, [name for name in names if name not in ALONE])):
        done = subprocess.run(
            [sys.executable, str(WORKER), str(folder), str(ranks), *chosen], env=environment, capture_output=True, text=True, timeout=200
        )
        (folder / f"log-{ranks}").write_text(done.stdout + done.stderr)
    return folder


def facts(folder: Path, name: str, ranks: int, dtype: str) -> list[dict[str, Any]]:
    paths = [folder / f"{name}-{ranks}-{dtype}-{rank}.json" for rank in range(ranks)]
    assert all(path.exists() for path in paths), (folder / f"log-{ranks}").read_text()[-3000:]
    return [json.loads(path.read_text()) for path in paths]


def ways(case: Any) -> list[int]:
    return [1] if case.name in ALONE else [1, 3]


def test_ranks_agree(case: Any, results: Path) -> None:
    for ranks in ways(case):
        found = facts(results, case.name, ranks, "float64")
        assert [item["rank"] for item in found] == list(range(ranks)) and {item["ranks"] for item in found} == {ranks}
        for item in found:
            assert item["names"], "shard() renames parameters"
            assert item["gathered"] == [{"rank": rank} for rank in range(ranks)] and item["heard"] == "from 0"
            assert item["total"] == found[0]["total"] and item["norm"] == found[0]["norm"]


def test_totals_are_wide(case: Any, results: Path) -> None:
    """Sums in float64 and int64: single precision would lose the units of a large step."""
    for ranks in ways(case):
        found = facts(results, case.name, ranks, "float64")[0]
        assert found["total_dtype"] == "torch.float64" and found["count"] == [2**60 // ranks * ranks]
        assert found["total"][0] == pytest.approx(0.1 * ranks * (ranks + 1) / 2, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_gradient_one_update(case: Any, results: Path, dtype: str) -> None:
    wanted = load_file(results / f"single-1-{dtype}.safetensors")
    expected_norm = sum(float(value.double().square().sum()) for name, value in wanted.items() if name.startswith("gradient.")) ** 0.5
    tolerance = {"float64": 1e-12, "bfloat16": 2e-2}[dtype]  # bf16: rounding differs with the batch's shape
    for ranks in ways(case):
        for item in facts(results, case.name, ranks, dtype):
            assert item["norm"] == pytest.approx(expected_norm, rel=tolerance)
        found = load_file(results / f"{case.name}-{ranks}-{dtype}.safetensors")
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name].dtype == value.dtype
            assert float((found[name].double() - value.double()).norm() / value.double().norm()) <= tolerance, name


def test_says_what_a_rank_holds(case: Any, results: Path) -> None:
    """A layout that shards holds less on each of three ranks; the others hold everything."""
    if case.name in ALONE:
        return
    alone = facts(results, case.name, 1, "float64")[0]["bytes"]
    held = [item["bytes"] for item in facts(results, case.name, 3, "float64")]
    assert held == [alone] * 3 or (sum(held) == alone and max(held) < 0.5 * alone)
