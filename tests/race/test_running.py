"""How a trial's end becomes the race's: whose fault it was decides the exit status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.core.errors import IngotError, RunError, UserError
from ingot.race.conduct import surveys
from ingot.race.ladder import Ladder, _identity
from ingot.race.running import TRIES, run_waiting
from ingot.race.spec import Race
from ingot.race.trials import Store, make_trial

SAID = "wrong in some way"


class Ends:
    """A pool whose trials end at once with one status, and an error where that is above 0."""

    size = 1

    def __init__(self, status: int):
        self.status, self.begun = status, list[Path]()

    def start(self, folder: Path) -> None:
        if self.status > 0:
            (folder / "error.txt").write_text(SAID)
        self.begun.append(folder)

    def wait(self, timeout: float | None = None) -> list[tuple[Path, int]]:
        return [(self.begun[-1], self.status)]

    def close(self) -> None: ...


@pytest.mark.parametrize(("status", "exits", "tries"), [(2, 2, 1), (1, 1, 1), (3, 1, 1), (-9, 1, TRIES)])
def test_a_trial_that_gives_nothing(tmp_path: Path, status: int, exits: int, tries: int) -> None:
    store, pool = Store(tmp_path), Ends(status)
    trial = make_trial("other", "race", 0, 1.0, {"command": "x"})
    with pytest.raises(RunError, match=SAID if status > 0 else "died without a word") as error:
        list(run_waiting(lambda: [trial], lambda one: store.write(one, {}).resolve(), store, pool, lambda line: None))
    assert error.value.status == exits and len(pool.begun) == tries and RunError.status == 1


@pytest.mark.parametrize(("status", "error"), [(2, UserError), (1, RunError), (-1, RunError)])
def test_a_look_at_an_arm_that_gives_nothing(make_race: Callable[..., Race], tmp_path: Path, status: int, error: type[IngotError]) -> None:
    with pytest.raises(error, match="baseline: "):
        surveys(make_race(), tmp_path / "races", Ends(status))
    rung: Any = type("Rung", (), {"tree": {}})
    with pytest.raises(error):
        _identity(Ladder(None, [rung]), tmp_path / "ladders", Ends(status))  # type: ignore[arg-type]
