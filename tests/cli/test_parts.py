"""Listing and explaining parts."""

from __future__ import annotations

import json

import pytest

from ingot.cli import main
from ingot.core.parts import parts_in


def test_lists_every_part_of_a_slot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "schedule", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed["schedule"]) == list(parts_in("schedule"))


def test_explains_knobs_wiring_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "schedule/cosine"]) == 0
    shown = capsys.readouterr().out
    assert "arXiv:1608.03983" in shown and "final" in shown and "is handed moment" in shown and "src/ingot/schedule/cosine.py:" in shown


def test_a_part_is_found_by_its_name_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "cosine"]) == 0
    assert capsys.readouterr().out.startswith("schedule/cosine")


@pytest.mark.parametrize(("which", "near"), [("schedul", "'schedule'"), ("schedule/cosin", "'cosine'"), ("optm/x", "'optim'")])
def test_a_near_name_is_offered(which: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", which]) == 2
    assert f"Did you mean {near}?" in capsys.readouterr().err
