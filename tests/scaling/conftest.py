"""Experiments with known laws, shared with the benchmark."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build, fit

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling_designs.py"


@pytest.fixture(scope="session")
def designs() -> dict[str, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("scaling_designs", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, dict[str, Any]] = module.DESIGNS
    return found


@pytest.fixture(scope="session")
def simulate(designs: dict[str, dict[str, Any]]) -> Callable[..., dict[str, np.ndarray]]:
    """simulate(name, sigma): the design's table with the output drawn from its truth."""

    def draw(name: str, sigma: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
        design = designs[name]
        law = build(name, design["table"], design.get("knobs"))
        clean = law.predict(law.theta(design["truth"])[None], law.prepare(design["table"]))[0]
        noisy = clean + sigma * np.random.default_rng(seed).normal(size=len(clean))
        return {**design["table"], law.output: np.exp(noisy) if law.residual == "log" else noisy}

    return draw


@pytest.fixture(scope="session")
def recovered(designs: dict[str, dict[str, Any]], simulate: Callable[..., dict[str, np.ndarray]]) -> Callable[..., Fit]:
    """recovered(name): the fit, from the form's own starts, to data without noise."""

    def recover(name: str, **options: Any) -> Fit:
        given = {"interval": "none", "draws": 0, "backtest": False, "knobs": designs[name].get("knobs"), "delta": 1.0} | options
        return fit(name, simulate(name), **given)

    return recover
