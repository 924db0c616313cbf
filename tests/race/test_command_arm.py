"""Programs as arms, one trial at a time: what is measured, what is their word, and how their ends are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingot.core.errors import UserError
from ingot.race.command_arm import export_rows, run_command, told
from ingot.race.trials import read_json

EVALUATION = 'print(\'{"tokens": 640, "seconds": 0.001, "evaluation": {"a": {"loss": 2.0}}}\', flush=True)'


@pytest.fixture(autouse=True)
def stay() -> Iterator[None]:
    """Trials change the working directory."""
    here = os.getcwd()
    yield
    os.chdir(here)


def trial_of(folder: Path, code: str) -> dict[str, Any]:
    """Run a program as a trial; its result."""
    (folder / "program.py").write_text(code)
    what = {"command": f"{sys.executable} program.py", "seed": 0, "factor": 1.0, "budget": "640 tokens", "evaluations": 2, "data": "."}
    run_command(folder, {"arm": "theirs", "metric": "auto", "cwd": str(folder), "what": what}, 1)
    found = read_json(folder / "result.json")
    assert found is not None
    return found


def test_the_race_keeps_the_clock_and_the_programs_own_seconds_do_not_count(tmp_path: Path) -> None:
    found = trial_of(tmp_path, f"import time\nbegan = time.process_time()\n{EVALUATION}\ntime.sleep(0.4)\n{EVALUATION}")
    assert found["status"] == "done" and found["spent"]["tokens"] == 640
    assert found["spent"]["seconds"] > 0.4 and found["curve"]["seconds"][1] - found["curve"]["seconds"][0] > 0.3
    assert found["curve"]["seconds"][1] <= found["spent"]["seconds"]


def test_processor_time_is_measured_and_sleep_takes_none(tmp_path: Path) -> None:
    busy = f"import time\nwhile time.process_time() < 0.5: pass\ntime.sleep(0.7)\n{EVALUATION}"
    found = trial_of(tmp_path, busy)["spent"]
    assert 0.5 <= found["cpu_seconds"] <= found["seconds"] - 0.5


def test_memory_that_is_held_between_two_lines_is_seen(tmp_path: Path) -> None:
    found = trial_of(tmp_path, f"import time\n{EVALUATION}\nheld = bytearray(200_000_000)\ntime.sleep(0.5)\ndel held\n{EVALUATION}")
    assert found["peak_memory"] > 200e6 and found["memory"]["process"] == found["peak_memory"]


def test_a_program_that_is_killed_is_a_failed_trial_with_a_reason(tmp_path: Path) -> None:
    found = trial_of(tmp_path, f"import os, signal\n{EVALUATION}\nos.kill(os.getpid(), signal.SIGKILL)")
    assert found["status"] == "failed" and "SIGKILL" in found["reason"] and "memory runs out" in found["reason"]


def test_a_program_that_fails_says_with_what_status(tmp_path: Path) -> None:
    assert trial_of(tmp_path, "raise SystemExit(3)")["reason"] == "the program ended with status 3"


def test_one_that_was_asked_to_end_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asked to end"):
        trial_of(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")
    assert not (tmp_path / "result.json").exists()


def test_counts_are_cumulative_and_may_stand_alone() -> None:
    lines = [{"tokens": 10, "at": 1.0}, {"evaluation": {"a": {"loss": 3.0}}, "at": 2.0}, {"tokens": 30, "flops": 5.0, "at": 3.0}]
    found = told([*lines, {"evaluation": {"a": {"loss": 2.5}}, "at": 4.0}], metric="loss", seconds=4.5, peak=7)
    assert found["curve"]["tokens"] == [10, 30] and found["curve"]["seconds"] == [2.0, 4.0] and found["final"] == 2.5
    assert found["spent"] == {"tokens": 30.0, "flops": 5.0, "rows": 0.0, "step": 0.0, "seconds": 4.5, "cpu_seconds": None} | {
        "reference_seconds": None
    }


def test_rows_that_are_not_of_tokens_are_refused_in_a_sentence(tmp_path: Path, repository: Path) -> None:
    from ingot.core.recipe import load

    tree = load(repository / "recipes" / "series" / "patchtst_etth1.yaml", tiny=True).tree
    trial = {"cwd": str(repository), "rows": 4, "what": {"recipe": tree | {"name": "run"}}}
    with pytest.raises(UserError, match="rows of tokens, and the baseline's rows hold") as error:
        export_rows(tmp_path, trial, 1)
    assert "\n" not in str(error.value) and not (tmp_path / "rows").exists()
