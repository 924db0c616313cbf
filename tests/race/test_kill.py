"""A race killed with SIGKILL goes on where it was: same verdicts, no trial repeated or lost, nothing left running."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_a_killed_race_ends_with_the_same_verdicts(tmp_path: Path, repository: Path) -> None:
    spec = importlib.util.spec_from_file_location("race_kill", repository / "benchmarks" / "race_kill.py")
    assert spec is not None and spec.loader is not None
    race_kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(race_kill)
    folder = race_kill.files(tmp_path / "race")
    found = race_kill.compare(folder, kills=4, most=70)
    assert found["kills"] == 4
    assert found["same"], found
    assert found["repeated"] == 0 and found["lost"] == 0, found
    assert found["trials"] == 2 * 2 + 3 * 3  # tuning, then two arms and the control
    assert found["starts"] >= found["trials"]
    assert found["verdicts"]["slow"] == "worse"
