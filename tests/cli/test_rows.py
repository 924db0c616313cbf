"""``ingot rows``: what a run was shown at a step, for people and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main


def test_rows_of_a_step_with_their_texts(place: Path, ask: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("rows", "runs/gpt_tiny", "--step", "2", "--most", "3")
    assert answer["step"] == 2 and len(answer["rows"]) == 3 and all(one["text"] and one["where"] for one in answer["rows"])
    assert main(["rows", "runs/gpt_tiny", "--step", "2", "--most", "3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("step 2: ") and "python_library" in said and "more (--most)" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/gpt_tiny", "--step", "900"], "the ledger has no step 900"),
        (["runs/none", "--step", "1"], "no run at"),
        (["runs/gpt_tiny", "--step", "1", "--most", "0"], "--most wants"),
        (["runs/gpt_tiny"], "--step"),
    ],
)
def test_what_cannot_be_told_is_refused(ask: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert main(["rows", *arguments]) == 2
    assert words in capsys.readouterr().err
