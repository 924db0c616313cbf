"""Every race in races/: its tiny twin runs to a verdict and a card, each arm on its budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingot.race.claim import NOT, PART, SEEN, card
from ingot.race.conduct import conduct
from ingot.race.pool import Pool, Processes
from ingot.race.spec import read_race

RACES = sorted((Path(__file__).resolve().parents[2] / "races").glob("*.yaml"))
REQUIRED = {"muon_adamw", "wsd_cosine", "galore_adamw", "relora_dense", "stack_scratch", "upcycled_dense"}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    workers = Processes(2)
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all races: the same baseline is run once, the texts are prepared once."""
    return tmp_path_factory.mktemp("races")


def test_the_required_races_are_there() -> None:
    assert {path.stem for path in RACES} >= REQUIRED


@pytest.mark.parametrize("path", RACES, ids=lambda path: path.stem)
def test_runs_to_a_card(path: Path, shared: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared)
    race = read_race(path, ["seeds=2", "tuning.trials=1", "control=false"], tiny=True)
    verdict = conduct(race, folder=shared / "races", results=None, pool=pool, say=lambda line: None)
    for name, arm in verdict["arms"].items():
        assert not arm["failed"], arm["failed"]
        assert arm["off_budget"] == {}, (name, arm["off_budget"])
    assert card(verdict)["verdict"] in (SEEN, PART, NOT) and card(verdict)["tiny"]
