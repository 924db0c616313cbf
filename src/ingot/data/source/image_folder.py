"""A folder of image files, or a folder per class.

A file is a row; the order is that of the paths. With ``labels: folder`` the class is the name of the folder a file lies in, numbered
in the order of the alphabet. What the folder is known by, where something is kept of it, are the files' names and sizes: their contents
would have to be read whole at every start.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ...core.parts import Fraction, Positive, part
from ...core.seams import Field
from ..rows import BadRow
from ._files import absent, find_files
from ._fingerprint import digest
from ._images import Gray, Images, classified, image_fields

SUFFIXES = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".JPEG", ".JPG", ".PNG"]


@part
class ImageFolder(Images):
    """paths: files, directories or globs. size: side of the square image. labels: ``folder``, or none. classes: how many there are,
    where a recipe must be planned without its files. channels, convert, background: see recipes; skip: share of files that may be
    unreadable."""

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        size: Positive[int],
        channels: Literal[1, 3] = 3,
        labels: Literal["folder"] | None = None,
        classes: Positive[int] | None = None,
        convert: bool = True,
        background: Gray = 255,
        skip: Fraction = 0.0,
        suffixes: list[str] = SUFFIXES,
    ):
        super().__init__(size=size, channels=channels, convert=convert, background=background, skip=skip)
        self.files = find_files(Path(folder), paths, suffixes)
        self.identity = digest("image_folder", 2, [(path.parent.name, path.name, path.stat().st_size) for path in self.files])
        if labels:
            self.labels, self.names, self.classes = classified([path.parent.name for path in self.files], classes, "its folder", self.where)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """What the recipe alone says."""
        label = {"label": Field((), "int64", knobs["classes"])} if knobs["labels"] else {}
        return None if knobs["labels"] and knobs["classes"] is None else image_fields(knobs["size"], knobs["channels"]) | label

    def __len__(self) -> int:
        return len(self.files)

    def where(self, index: int) -> str:
        return str(self.files[index])

    def encoded(self, index: int) -> bytes:
        try:
            return self.files[index].read_bytes()
        except OSError as error:
            raise BadRow(f"cannot be read: {error.strerror}") from None
