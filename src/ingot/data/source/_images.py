"""What image sources share: decoding bytes, cutting to one size, labels."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval

from ...core.errors import UserError, missing_extra
from ...core.seams import Field
from ..rows import BadRow, Row, Rows

# Modes whose pixels have 8 bits; others (16 bits, floats) would be squeezed silently.
PLAIN = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "PA", "La", "RGBa"})
CLEAR = frozenset({"LA", "RGBA", "PA", "La", "RGBa"})  # with transparent parts
ORIENTATION = 0x0112  # of the EXIF tags
NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)  # a label that is one
Gray = Annotated[int, Interval(ge=0, le=255)]


def pillow() -> Any:
    """PIL.Image, or the error that names the extra."""
    Image, ImageFile = _modules()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # half an image is a bad row
    return Image


@cache  # asking the import system for every picture is a part of what a small one takes
def _modules() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageFile
    except ImportError:
        raise missing_extra("pillow", "vision") from None
    return Image, ImageFile


class Images(Rows):
    """size: side of the square image that a row holds. channels: 3 or 1. convert: whether an image of other channels is converted,
    instead of being a bad row. background: gray level behind transparent parts. labels: class of every row, or None."""

    def __init__(self, *, size: int, channels: int, convert: bool, background: int, skip: float):
        super().__init__(skip=skip)
        self.size, self.channels, self.convert, self.background = size, channels, convert, background
        self.reading = [size, channels, convert, background]
        self.labels: np.ndarray | None = None
        self.classes: int | None = None
        self.names: list[str] = []
        pillow()

    def encoded(self, index: int) -> bytes:
        """The image file's bytes. Raises BadRow."""
        raise NotImplementedError

    def stored(self) -> dict[str, Field]:
        fields = image_fields(self.size, self.channels)
        return fields | ({"label": Field((), "int64", self.classes)} if self.labels is not None else {})

    def row(self, index: int) -> Row:
        row: Row = {"image": self.decode(self.encoded(index))}
        return row if self.labels is None else row | {"label": int(self.labels[index])}

    def decode(self, data: bytes) -> np.ndarray:
        """(H, W, C) uint8, upright. Raises BadRow."""
        Image = pillow()
        try:
            image = Image.open(io.BytesIO(data))
            mode, wanted = image.mode, "L" if self.channels == 1 else "RGB"
            if mode not in PLAIN:
                raise BadRow(f"pixels of mode {mode} do not fit 8 bits")
            if not self.convert and len(image.getbands()) != self.channels:
                raise BadRow(f"has {len(image.getbands())} channels, {self.channels} are wanted (convert: true converts)")
            image = _upright(image)
            if image.mode in CLEAR or "transparency" in image.info:
                image = image.convert("RGBA")
                ground = Image.new("RGBA", image.size, (self.background,) * 3 + (255,))
                image = Image.alpha_composite(ground, image)
            pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
        except BadRow:
            raise
        except Exception as error:  # decoders fail in many ways on damaged bytes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadRow(f"the image cannot be decoded: {reason.partition(' <')[0]}") from None
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def finish(self, row: Row) -> Row:
        H, W, _ = row["image"].shape
        small = H == W != self.size and H in {getattr(augment, "small", None) for augment in self.augments}
        return row | {"image": np.ascontiguousarray(squared(row["image"], H if small else self.size).transpose(2, 0, 1))}


def _upright(image: Any) -> Any:
    """A camera that was held sideways says so, and leaves the pixels as they are."""
    if image.format == "JPEG" and "exif" not in image.info:  # known without a search
        return image
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    from PIL.ImageOps import exif_transpose

    return exif_transpose(image)


def image_fields(size: int, channels: int) -> dict[str, Field]:
    """Of rows that hold an image."""
    return {"image": Field((channels, size, size), "uint8")}


def squared(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image, its shorter side brought to ``size``, (size, size, C)."""
    H, W, _ = image.shape
    if H == W == size:
        return image
    side = min(H, W)
    return resized(image, ((W - side) // 2, (H - side) // 2, (W - side) // 2 + side, (H - side) // 2 + side), size)


def resized(image: np.ndarray, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """A box (left, top, right, bottom) of an image as (size, size, C), bicubic with antialiasing."""
    Image = pillow()
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    result = np.asarray(Image.fromarray(flat).resize((size, size), Image.Resampling.BICUBIC, box=box))
    return result if result.ndim == 3 else result[:, :, None]


def numbered(values: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    """Labels as class numbers: whole numbers as they are (2.0 is one), words in the order of the alphabet."""
    if all(isinstance(value, int) or (isinstance(value, float) and value.is_integer()) for value in values):
        return np.array(values).astype(np.int64), []
    names = sorted({str(value) for value in values})
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[str(value)] for value in values], dtype=np.int64), names


def spelled(values: Sequence[Any]) -> list[Any]:
    """Labels of a file of text as what they spell: numbers where all that are there do, such as "2" and "2.0", else words."""
    texts = [value.strip() if isinstance(value, str) else value for value in values]
    if not all(NUMBER.fullmatch(text) for text in texts if text and isinstance(text, str)):
        return texts
    return [(int(text) if text.isdecimal() else float(text)) if text and isinstance(text, str) else text for text in texts]


def classified(values: Sequence[Any], classes: int | None, what: str, where: Callable[[int], str]) -> tuple[np.ndarray, list[str], int]:
    """Labels as class numbers, the classes' names, and how many there are. Raises UserError, with the row, for a label that is missing, a
    broken number or out of range."""
    for index, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UserError(f"{where(index)}: {what} is empty")
        if isinstance(value, float) and not value.is_integer():
            raise UserError(f"{where(index)}: {what} is {value!r}; classes are whole numbers or words")
    labels, names = numbered(values)
    wrong = np.flatnonzero((labels < 0) | (labels >= (classes or np.inf)))
    if len(wrong):
        wanted = "at least 0" if classes is None else f"0 to {classes - 1}"
        raise UserError(f"{where(int(wrong[0]))}: {what} is class {labels[wrong[0]]}, wanted are {wanted}")
    return labels, names, classes or int(labels.max()) + 1
