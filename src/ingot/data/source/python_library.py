r"""The Python standard library's own source text: about 10 MB that every machine with Python already has.

A document is a file, its id the path within the library. A shard is a package (``email``, ``asyncio``), or ``modules``, all modules
that are one file. The text differs from one Python version to the next, so an identity is the hash of the files' contents.

Left out: tests, installed packages, and ``encodings`` and ``pydoc_data``, which are tables rather than text.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...core.errors import UserError
from ...core.parts import Positive, part
from ...core.seams import Document, Shard

LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings", "pydoc_data"})
MODULES = "modules"


@part
class PythonLibrary:
    """packages: only these packages, ``modules`` for the single files; all when empty. most: at most so many files of each."""

    def __init__(self, *, packages: list[str] = [], most: Positive[int] | None = None):
        self.root = Path(sysconfig.get_paths()["stdlib"])
        self.packages, self.most = packages, most

    def shards(self) -> list[Shard]:
        """Raises UserError for a package that the library lacks, or when this Python was installed without its source."""
        found = self._files()
        if not found:
            raise UserError(f"this Python has no source of its library in {self.root}")
        if unknown := [name for name in self.packages if name not in found]:
            raise UserError(f"the Python library has no package {unknown[0]!r}; it has {', '.join(sorted(found))}")
        chosen = {name: files[: self.most] for name, files in found.items() if not self.packages or name in self.packages}
        return [Shard(name, _identity(self.root, files), partial(_read, self.root, files)) for name, files in sorted(chosen.items())]

    def _files(self) -> dict[str, list[Path]]:
        """Package -> its files in the order of their paths."""
        names: list[tuple[str, ...]] = []
        for folder, inside, files in os.walk(self.root):
            inside[:] = [name for name in inside if name not in LEFT_OUT]  # installed packages may be many, and are not even looked at
            parts = Path(folder).relative_to(self.root).parts
            names += [(*parts, name) for name in files if name.endswith(".py")]
        found: dict[str, list[Path]] = {}
        for parts in sorted(names):
            path = self.root.joinpath(*parts)
            if path.stat().st_size > 0:
                found.setdefault(parts[0] if len(parts) > 1 else MODULES, []).append(path)
        return found


def _identity(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _read(root: Path, files: list[Path]) -> Iterator[Document]:
    for path in files:
        yield Document(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8", errors="replace"))
