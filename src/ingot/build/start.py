"""Starting from existing weights: a run, one of its checkpoints, or a Hugging Face folder. Weights only; lineage is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError

if TYPE_CHECKING:
    from .run import Run


def load_start(run: Run, model: Any, source: str) -> list[dict[str, Any]]:
    """Fill the model's weights from `source`; returns the parents for the lineage. UserError names what does not fit."""
    if source.startswith("hf:"):
        return _from_hugging_face(run, model, source.removeprefix("hf:"))
    return _from_checkpoint(run, model, Path(source))


def _from_hugging_face(run: Run, model: Any, folder: str) -> list[dict[str, Any]]:
    from ..convert.hf import load_into, resolve_folder

    path = resolve_folder(folder)
    load_into(model, run.section.model, path)
    return [{"kind": "hugging_face", "path": str(folder)}]


def _from_checkpoint(run: Run, model: Any, path: Path) -> list[dict[str, Any]]:
    from ..train.checkpoint import Checkpoints

    if (path / "checkpoints").is_dir():
        found = Checkpoints(path / "checkpoints").latest()
        if found is None:
            raise UserError(f"the run {path} has no whole checkpoint")
        path = found
    if not (path / "manifest.json").is_file():
        raise UserError(f"nothing to start from at {path}: it is neither a run, nor a checkpoint, nor hf:FOLDER")
    store = Checkpoints(path.parent)
    store.load_model(model, path)
    manifest = store.manifest(path)
    return [{"kind": "checkpoint", "path": str(path), "recipe_hash": manifest.get("recipe_hash"), "step": manifest["progress"]["total_steps"], "parents": manifest.get("parents", [])}]
