"""Which files of the package a cell of the matrix depends on, and a short hash of them: from it follows whether a measured cell is stale.

A cell depends on the part's file and what it imports inside the package, on what every run goes through (ALWAYS), and on its column's own
machinery (COLUMN) with what that imports. Left out are ``core`` (how parts are found and checked, which changes no number) and the parts
around the one in question, each of which has a row of its own. Comments, docstrings and blank lines do not count.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

import ingot

PACKAGE = Path(ingot.__file__).parent
MEASURE = 1  # raise when what a cell measures changes: every cell is stale then
LEFT_OUT = ("core/", "cli/")
ALWAYS = ("train/step.py", "train/loop.py", "train/state.py", "train/stage.py", "build/groups.py", "build/program.py", "model/graph.py")
GROWING = ("build/grow.py", "transform/_carry.py")
COLUMN: dict[str, tuple[str, ...]] = {
    "accumulation": (),
    "replicate": ("parallel/layout/replicate.py",),
    "fsdp": ("parallel/layout/fsdp.py",),
    "compile": (),
    "bf16": (),
    "resume": ("train/checkpoint.py", "train/storage.py"),
    "checkpointing": ("model/recompute.py",),
    "wider": (*GROWING, "transform/widen.py"),
    "deeper": (*GROWING, "transform/identity_depth.py"),
    "fused_backward": ("train/fused_backward.py",),
}


@cache
def imported(path: Path) -> frozenset[Path]:
    """Files of the package that a file imports, wherever in it."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = path.parent
            if node.level:
                for _ in range(node.level - 1):
                    base = base.parent
            elif (node.module or "").partition(".")[0] == "ingot":
                base = PACKAGE.parent
            else:
                continue
            place = base.joinpath(*(node.module or "").split(".")) if node.module else base
            found |= {_file(place), *(_file(place / name.name) for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {_file(PACKAGE.parent.joinpath(*name.name.split("."))) for name in node.names if name.name.split(".")[0] == "ingot"}
    return frozenset(item for item in found if item.is_file() and not _relative(item).startswith(LEFT_OUT))


def _file(place: Path) -> Path:
    return place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"


def _relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def with_imports(start: Path) -> frozenset[Path]:
    """A file and all that it imports inside the package, and so on."""
    found, waiting = {start}, [start]
    while waiting:
        new = imported(waiting.pop()) - found
        found |= new
        waiting += new
    return frozenset(found)


def own(slot: str, name: str) -> frozenset[str]:
    """Files of a part, relative to the package."""
    return frozenset(map(_relative, with_imports(PACKAGE.joinpath(*slot.split("."), f"{name}.py"))))


def machinery(column: str) -> frozenset[str]:
    """Files of a column, relative to the package; those that every run goes through are not among them.

    Of the composition root (``build``) the file alone counts: it imports the whole package.
    """
    named = COLUMN[column]
    inner = (with_imports(PACKAGE / start) for start in named if not start.startswith("build/"))
    return frozenset(named) | frozenset(_relative(item) for files in inner for item in files)


def of(slot: str, name: str, column: str) -> frozenset[str]:
    """Every file that a cell depends on."""
    return own(slot, name) | machinery(column) | frozenset(ALWAYS)


@cache
def code(file: str) -> str:
    """A file without comments, docstrings and blank lines."""
    text = (PACKAGE / file).read_text(encoding="utf-8")
    hidden: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            hidden |= set(range(body[0].lineno, (body[0].end_lineno or body[0].lineno) + 1))
    lines = (line for number, line in enumerate(text.splitlines(), 1) if number not in hidden)
    return "\n".join(line for line in lines if line.strip() and not line.strip().startswith("#"))


def mark(slot: str, name: str, column: str) -> str:
    """The hash of a cell's sources as they are now."""
    words = [f"measure {MEASURE}", *(f"{file}\n{code(file)}" for file in sorted(of(slot, name, column)))]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:10]
