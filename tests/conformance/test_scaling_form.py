"""What every form of law must do: exact gradients, several sets at once, starts within bounds, intervals that cover."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.parts import parts_in
from ingot.scaling.coverage import coverage
from ingot.scaling.fit import build

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling_designs.py"
SPEC = importlib.util.spec_from_file_location("scaling_designs", PATH)
assert SPEC is not None and SPEC.loader is not None
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
DESIGNS: dict[str, dict[str, Any]] = MODULE.DESIGNS
FORMS = sorted(parts_in("scaling.form"))
QUICK = ("power", "chinchilla", "over_training", "data_mixing", "critical_batch", "downstream")


def law_and_truth(name: str) -> tuple[Any, Any, np.ndarray]:
    design = DESIGNS[name]
    law = build(name, design["table"], design.get("knobs"))
    return law, law.prepare(design["table"]), law.theta(design["truth"])


def test_every_form_has_a_design() -> None:
    assert set(DESIGNS) == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_gradient_is_that_of_predict(name: str) -> None:
    law, x, theta = law_and_truth(name)
    value, gradient = law.gradient(theta[None], x)
    assert value == pytest.approx(law.predict(theta[None], x), abs=1e-12)
    for index in range(len(theta)):
        h = 1e-5 * max(abs(theta[index]), 1.0)
        up, down = theta.copy(), theta.copy()
        up[index] += h
        down[index] -= h
        slope = (law.predict(up[None], x)[0] - law.predict(down[None], x)[0]) / (2 * h)
        assert gradient[0, index] == pytest.approx(slope, abs=1e-5 * max(1.0, float(np.abs(slope).max()))), law.coefficients[index].name


@pytest.mark.parametrize("name", FORMS)
def test_sets_of_coefficients_do_not_mix(name: str) -> None:
    law, x, theta = law_and_truth(name)
    other = theta * 1.01
    together = law.predict(np.stack([theta, other]), x)
    assert together[0] == pytest.approx(law.predict(theta[None], x)[0], abs=1e-12)
    assert together[1] == pytest.approx(law.predict(other[None], x)[0], abs=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_starts_are_many_and_finite(name: str) -> None:
    law, x, theta = law_and_truth(name)
    starts = law.starts(x, law.predict(theta[None], x)[0])
    assert starts.shape[0] >= 4 and starts.shape[1] == len(law.coefficients)
    assert np.isfinite(starts).all()


@pytest.mark.parametrize("name", QUICK)
def test_intervals_cover(name: str) -> None:
    """90 % intervals, 200 data sets: between 83 and 97 % for every coefficient (three standard errors around 85 to 95 %)."""
    design = DESIGNS[name]
    found = coverage(name, design["table"], design["truth"], sigma=design["sigma"], draws=200, knobs=design.get("knobs"))
    assert found["lowest"] >= 0.83 and found["highest"] <= 0.97, found["coverage"]
    assert found["all_starts_agree"] == 1.0
