"""Rows that a model can learn, key by key, for models of any modality: a function of the row number alone.

A new key is added here once: to FIELDS what a row holds, to MAKERS how it comes from row numbers (R,). Classes and targets follow from
the row number in the same way as the values do, so that they can be learned. Row -1 is padding: zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ingot.core.seams import Field

SEQUENCE, CLASSES = 12, 4
SIDE, FRAMES, CHANNELS = 8, 12, 3

FIELDS: dict[str, Field] = {
    "tokens": Field((SEQUENCE,), "int64", 24), "segments": Field((SEQUENCE,), "int32"), "positions": Field((SEQUENCE,), "int64"),
    "image": Field((CHANNELS, SIDE, SIDE), "uint8"), "label": Field((), "int64", CLASSES), "values": Field((2,), "float32"),
}  # fmt: skip
DOCUMENTS = ("tokens", "segments", "positions")


def sequences(numbers: Tensor) -> dict[str, Tensor]:
    """Each row counts upward by a step of its own, in two documents."""
    column = torch.arange(SEQUENCE)
    second = (column >= SEQUENCE // 2).long()
    tokens = 4 + (numbers[:, None] * 3 + column * (1 + numbers[:, None] % 2)) % 16
    real = (numbers >= 0)[:, None]
    return {"tokens": tokens * real, "segments": ((second + 1) * real).int(), "positions": (column - second * (SEQUENCE // 2)) * real}


def images(numbers: Tensor, key: str) -> Tensor:
    """Stripes whose direction and colors are the class's, moved by the row; another view is moved further."""
    view = int(key.partition("_")[2] or 0)
    place = torch.arange(SIDE)
    y, x = place[:, None].expand(SIDE, SIDE), place[None].expand(SIDE, SIDE)
    found = []
    for number in numbers.tolist():
        kind, shift = number % CLASSES, number // CLASSES + view
        along = (x, y, x + y, x - y)[kind] + shift
        color = torch.tensor([40 + 50 * kind, 200 - 40 * kind, 30 * (kind + 1)])[:, None, None]
        found.append((color + 20 * (along % 2)).clamp(0, 255).to(torch.uint8) * (number >= 0))
    return torch.stack(found)


MAKERS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "tokens": lambda numbers, key: sequences(numbers)["tokens"],
    "segments": lambda numbers, key: sequences(numbers)["segments"],
    "positions": lambda numbers, key: sequences(numbers)["positions"],
    "image": images,
    "label": lambda numbers, key: numbers.clamp(min=0) % CLASSES,
    "values": lambda numbers, key: torch.stack([numbers % CLASSES, 1 - numbers % 2], dim=1).float() * (numbers >= 0)[:, None],
}


def fields(keys: Iterable[str]) -> dict[str, Field]:
    """Of a batch with these keys."""
    return {key: FIELDS[key.partition("_")[0] if key not in FIELDS else key] for key in with_places(keys)}


def with_places(keys: Iterable[str]) -> list[str]:
    """The keys, with what belongs to tokens."""
    wanted = list(dict.fromkeys(keys))
    return list(dict.fromkeys([*wanted, *(DOCUMENTS if "tokens" in wanted else ())]))


def batch(rows: Iterable[int], keys: Iterable[str] = ("tokens",)) -> dict[str, Tensor]:
    """rows, source, key, and the keys asked for."""
    numbers = torch.tensor(list(rows))
    found = {"rows": numbers, "source": torch.zeros_like(numbers), "key": torch.tensor(5)}
    return found | {key: MAKERS[key if key in MAKERS else key.partition("_")[0]](numbers, key) for key in with_places(keys)}
