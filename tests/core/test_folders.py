"""A run and its checkpoints are found by whatever path names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.core.folders import run_and_checkpoint, with_name


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder below the working directory."""
    folder = tmp_path / "runs" / "x"
    (folder / "checkpoints" / "step-00000020").mkdir(parents=True)
    (folder / "recipe.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_path_is_kept_as_it_was_written(run: Path) -> None:
    assert run_and_checkpoint("runs/x") == (Path("runs/x"), None)
    inside = Path("runs/x/checkpoints/step-00000020")
    assert run_and_checkpoint(inside) == (Path("runs/x"), inside)


@pytest.mark.parametrize(("where", "path"), [("checkpoints", "step-00000020"), ("checkpoints/step-00000020", "."), (".", "best")])
def test_a_checkpoint_is_known_from_inside_and_by_a_link(run: Path, monkeypatch: pytest.MonkeyPatch, where: str, path: str) -> None:
    (run / "best").symlink_to("checkpoints/step-00000020")
    monkeypatch.chdir(run / where)
    assert run_and_checkpoint(path) == (run, run / "checkpoints" / "step-00000020")


def test_a_run_in_a_folder_of_that_name_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints" / "x").mkdir(parents=True)
    (tmp_path / "checkpoints" / "x" / "recipe.yaml").touch()
    monkeypatch.chdir(tmp_path / "checkpoints")
    assert run_and_checkpoint("x") == (Path("x"), None)


def test_a_folder_has_a_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "checkpoints")
    assert with_name("..") == run and with_name(".") == run / "checkpoints" and with_name("step-00000020") == Path("step-00000020")
