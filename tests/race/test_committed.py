"""The committed results of real races: every arm on its budget, tuning counted apart and alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.core.quantities import parse_quantity
from ingot.race.arms import TOLERANCE
from ingot.race.trials import read_lines

RESULTS = sorted((Path(__file__).resolve().parents[2] / "results").glob("*.jsonl"))


def test_there_are_results() -> None:
    assert {path.stem for path in RESULTS} >= {"muon_adamw", "wsd_cosine", "galore_adamw", "relora_dense"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_arm_spent_its_budget_and_the_same_tuning_apart(path: Path) -> None:
    lines = list(read_lines(path))
    assert lines
    for line in lines:
        budget = parse_quantity(line["budget"])
        for name, arm in line["arms"].items():
            assert arm["spent"][budget.unit] == pytest.approx(budget.value, rel=TOLERANCE), (line["time"], name)
            assert arm.get("verdict") not in ("off budget", "failed")
        raced = {name: arm["tuning"] for name, arm in line["arms"].items() if name != "control"}
        assert len({tuning["trials"] for tuning in raced.values()}) == 1, "the same allowance for every arm"
        for name, tuning in raced.items():
            # Tuning trials have the whole budget each, and are not in what the arm is said to have spent.
            assert tuning[budget.unit] == pytest.approx(tuning["trials"] * budget.value, rel=TOLERANCE), name
        assert line["arms"].get("control", {"tuning": {"trials": 0}})["tuning"]["trials"] == 0, "tuned with the baseline, counted once"
