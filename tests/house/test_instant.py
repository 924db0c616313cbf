"""Help and listings answer at once, because they import no heavy package."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}
CASES = [(["--help"], 0.4), (["train", "--help"], 0.4), (["parts"], 0.6), (["--version"], 0.4)]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("arguments", "limit"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_answers_at_once(arguments: list[str], limit: float) -> None:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        result = python("-m", "ingot", *arguments)
        times.append(time.perf_counter() - began)
        assert result.returncode == 0, result.stderr
        if times[-1] < limit:
            return
    pytest.fail(f"ingot {' '.join(arguments)} took {min(times):.2f} s at best of {len(times)}, wants {limit} s")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], ("torch", "numpy", "pydantic", "rich", "yaml")),
        (["train", "--help"], ("torch", "numpy", "pydantic", "rich")),
        (["parts"], ("torch", "numpy", "pydantic_core.core_schema", "rich")),
    ],
)
def test_imports_nothing_heavy(arguments: list[str], heavy: tuple[str, ...]) -> None:
    code = f"import sys; from ingot.cli import main; main({arguments!r}); print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    result = python("-c", code)
    assert result.stderr.strip() == "[]", result.stderr


def test_importing_ingot_imports_no_torch() -> None:
    assert python("-c", "import sys, ingot; sys.exit('torch' in sys.modules)").returncode == 0
