"""Run folders, and checkpoints inside them, however a path names them: relative to where one stands, ``.``, or by a link."""

from __future__ import annotations

import os
from pathlib import Path


def run_and_checkpoint(path: str | Path) -> tuple[Path, Path | None]:
    """(the run folder, the checkpoint inside it that the path names); the checkpoint is None where the path is the run's own."""
    for place in (Path(path), Path(os.path.abspath(path)), Path(path).resolve()):
        if place.parent.name == "checkpoints" and not (place / "recipe.yaml").is_file():
            return place.parent.parent, place
    return Path(path), None


def with_name(path: str | Path) -> Path:
    """The same folder by a path that ends in its name, which ``.`` and ``..`` do not."""
    path = Path(path)
    return Path(os.path.abspath(path)) if path.name in ("", "..") else path
