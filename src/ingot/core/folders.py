"""Run folders, and checkpoints inside them, however a path names them: relative to where one stands, ``.``, or by a link."""

from __future__ import annotations

import os
import re
from pathlib import Path

CHECKPOINT = re.compile(r"step-([0-9]{8,})")


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


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint in a folder of them, oldest first; links and folders in the making are not among them."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := CHECKPOINT.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()
    ]
    return [path for _, path in sorted(found)]
