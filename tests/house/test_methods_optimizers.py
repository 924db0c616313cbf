"""The page that helps to choose an optimizer: its table is what was measured, and no optimizer is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from ingot.core.parts import parts_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.util.spec_from_file_location("optimizers_benchmark", ROOT / "benchmarks" / "optimizers.py")
    assert found is not None and found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_table_is_what_was_measured(benchmark: Any) -> None:
    assert benchmark.PAGE.read_text(encoding="utf-8") == benchmark.page(), "run: python benchmarks/optimizers.py --write-docs"


def test_every_optimizer_has_its_row_and_is_spoken_of(benchmark: Any) -> None:
    text = benchmark.PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(benchmark.START)
    for name in parts_in("optim"):
        assert f"| `{name}` |" in rest and f"`{name}`" in head, name


def test_state_per_weight_follows_from_the_papers_formulas(benchmark: Any) -> None:
    """AdamW keeps two fp32 tensors; SGD-SaI and SGD one; SAM what the optimizer inside it keeps."""
    found = {label: benchmark.bytes_per_weight(label) for label in ("adamw", "sgd", "sgd_sai", "sam")}
    assert found["adamw"] == pytest.approx(8, abs=1e-5) == found["sam"]
    assert found["sgd"] == 4 and found["sgd_sai"] == pytest.approx(4, abs=1e-5)
