"""Export leaves a folder that computes the same, or nothing at all: wrong outputs, full disks and read-only places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ingot
from ingot.build import export as exporting
from ingot.build.export import export
from ingot.convert import hf
from ingot.core.errors import RunError, UserError

pytest.importorskip("transformers")


@pytest.fixture
def run(tiny_recipe: Any) -> Any:
    recipe = tiny_recipe({"model": {"encoder": {"feedforward": "swiglu"}}, "precision": "fp32", "compile": False})
    return ingot.build(recipe)  # weights as they start: nothing here depends on training


def test_a_whole_folder_and_the_run_as_it_was(run: Any, tmp_path: Path) -> None:
    run.model.train()
    run.model.compute_dtype = torch.bfloat16
    done = export(run, tmp_path / "new" / "out")
    assert (done.family, done.architecture, done.left) == ("llama", "LlamaForCausalLM", ()) and 0 <= done.difference < 1e-4
    assert run.model.training and run.model.compute_dtype == torch.bfloat16
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    assert export(run, tmp_path / "kept", check=False).difference is None
    assert (tmp_path / "kept" / "notes.txt").read_text() == "mine" and (tmp_path / "kept" / "config.json").exists()
    with pytest.raises(UserError, match="holds a model already"):
        run.export(tmp_path / "kept")


def test_a_folder_that_computes_something_else_is_not_left(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(theirs: dict[str, torch.Tensor], folder: Path) -> None:
        name = "model.layers.0.mlp.down_proj.weight"
        save(theirs | {name: -theirs[name] + 1}, folder)

    save = hf._save_tensors
    monkeypatch.setattr(hf, "_save_tensors", wrong)
    with pytest.raises(RunError, match=r"transformers computes other outputs, by .*; nothing was written"):
        run.export(tmp_path / "out")
    assert [path for path in tmp_path.iterdir() if "out" in path.name] == []
    assert run.export(tmp_path / "out", check=False) == "llama"


@pytest.mark.parametrize("place", ["_save_tensors", "_save_tokenizer"])
def test_a_disk_that_is_full_leaves_nothing(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf, place, full)
    with pytest.raises(RunError, match=r"out cannot be written: .*No space left"):
        run.export(tmp_path / "out")
    assert [path for path in tmp_path.iterdir() if "out" in path.name] == []


def test_places_that_cannot_be_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        run.export(tmp_path / "file" / "out", check=False)
    with pytest.raises(RunError, match="cannot be written"):
        run.export(tmp_path / "file", check=False)
    assert (tmp_path / "file").read_text() == "a file" and not (tmp_path / ".file.part").exists()
    (tmp_path / ".out.part").mkdir()
    with pytest.raises(RunError, match=r"\.out\.part is in the way"):
        run.export(tmp_path / "out", check=False)
    assert (tmp_path / ".out.part").exists()


def test_without_transformers_nothing_is_compared(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    assert exporting.largest_difference(run, tmp_path, "llama") is None


def test_the_command_says_what_stayed_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from ingot.cli import main

    monkeypatch.chdir(tmp_path)
    few = ["stages.0.budget=1 steps", "checkpoint.every=100%", "evaluate.also=[]", "precision=fp32", "compile=false"]
    assert main(["train", "vision/simclr_tiny", "--tiny", "name=looks", *few]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["export", "runs/looks", "out", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["architecture"] == "IJepaModel" and said["outputs_difference"] < 1e-4
    assert said["left_behind"] == ["IJepaModel has no place for objective.head, which stayed behind"]
    pixels = json.loads(Path("out/preprocessor_config.json").read_text())
    assert pixels["image_mean"] == [0.5] * 3 and pixels["size"] == {"height": 16, "width": 16}
