"""``ingot race`` and ``ingot claim`` from the shell: exit statuses, plain lines, one JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main

CLAIM = "control: false\nseeds: 2\nclaim: {method: Some Method, contender: other, paper: A 2020, says: it wins, parts: [{what: loss, wants: lower}]}\ntiny: {budget: 2560 tokens}"


@pytest.fixture
def place(make_race: Callable[..., Any], tmp_path: Path) -> Path:
    """A folder with a race file that makes a claim."""
    make_race(CLAIM)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == status, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_race_then_claim(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "race", "race.yaml", "--jobs", "1")
    assert set(found["arms"]) == {"baseline", "other"} and found["sentence"].endswith(".") and Path(found["folder"], "race.html").is_file()
    cards = answer(capsys, "claim", "runs/races/race")
    assert (
        cards["cards"][0]["method"] == "Some Method" and Path("claims/index.html").is_file() and Path("claims/some_method.yaml").is_file()
    )
    assert main(["race", "race.yaml"]) == 0
    out, err = capsys.readouterr()
    assert "other" in out and "page: runs/races/race/race.html" in out and err == "", "nothing was left to run, and nothing is said twice"
    assert len(Path("results/race.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["race", "nothing.yaml"], "no recipe file"),
        (["race", "race.yaml", "budget=20 steps"], "wants tokens, FLOPs, seconds or rows"),
        (["race", "race.yaml", "contenders.other.set.model.width=wide"], "wants a whole number"),
        (["race", "race.yaml", "--jobs", "0"], "at least 1"),
        (["race", "race.yaml", "--cluster", "auto"], "'ray'"),
        (["claim", "nowhere"], "no finished race"),
        (["claim"], "no cards"),
    ],
)
def test_what_is_wrong_is_a_line_and_status_2(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    if "--cluster" in arguments:
        try:
            import ray  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("ray is installed")
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_tiny_is_another_race(place: Path) -> None:
    (place / "base.yaml").write_text((place / "base.yaml").read_text() + "tiny: {model: {width: 8}}\n")
    from ingot.race.spec import read_race

    full, tiny = read_race("race.yaml"), read_race("race.yaml", tiny=True)
    assert tiny.name == "race_tiny" and tiny.identity != full.identity
    assert tiny.entrants["baseline"].tree["model"]["width"] == 8 and str(tiny.section.budget) == "2560 tokens"
