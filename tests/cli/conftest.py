"""One tiny run, trained once by the command line and shared by the tests that look at runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "text" / "gpt_tiny.yaml"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a trained run in runs/gpt_tiny."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", str(RECIPE), "--tiny", "model.encoder.feedforward=swiglu"]) == 0
    return folder


@pytest.fixture
def ask(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a command with --json in the working directory; its answer, checked to be the only thing on standard output."""
    monkeypatch.chdir(place)

    def call(*arguments: str, status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == status, capsys.readouterr().err
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call
