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
SIDE, FRAMES, CHANNELS, SAMPLES = 8, 12, 3, 72

FIELDS: dict[str, Field] = {
    "tokens": Field((SEQUENCE,), "int64", 24),
    "segments": Field((SEQUENCE,), "int32"),
    "positions": Field((SEQUENCE,), "int64"),
    "image": Field((CHANNELS, SIDE, SIDE), "uint8"),
    "label": Field((), "int64", CLASSES),
    "values": Field((2,), "float32"),
    "series": Field((SEQUENCE, 2)),
    "future": Field((4, 2)),
    "numbers": Field((3,)),
    "numbers_missing": Field((3,), "bool"),
    "categories": Field((2,), "int64", 5),
    "latent": Field((6,)),
    "waveform": Field((SAMPLES,)),
    "frames": Field((2 * FRAMES, 6)),
    "lengths": Field((), "int64"),
    "codes": Field((FRAMES,), "int64", 6),
    "transcript": Field((4,), "int64"),
}
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


def waves(numbers: Tensor, start: int, length: int) -> Tensor:
    """Two channels of one wave, whose phase is the row's."""
    time = torch.arange(start, start + length)[None, :, None]
    phase = (numbers % CLASSES)[:, None, None] * 1.5 + torch.tensor([0.0, 2.0])
    return ((0.8 * time + phase).sin() + torch.tensor([1.0, -2.0])) * (numbers >= 0)[:, None, None]


def cells(numbers: Tensor) -> Tensor:
    """Three columns that say the class."""
    return ((numbers % CLASSES)[:, None] - torch.tensor([1.5, 0.5, 2.5])) * torch.tensor([0.5, -1.0, 0.7]) * (numbers >= 0)[:, None]


def sounds(numbers: Tensor) -> Tensor:
    """A tone that rises, from where the class says, over the real samples of the row."""
    time = torch.arange(SAMPLES)
    tone = ((0.2 + 0.2 * (numbers % CLASSES)[:, None]) * time + 0.01 * time**2).sin()
    return tone * (time < real(numbers, SAMPLES)[:, None])


def bands(numbers: Tensor) -> Tensor:
    """A band that stands out, the class's, moving over time."""
    time, band = torch.arange(2 * FRAMES)[:, None], torch.arange(6)
    value = (band - (numbers % CLASSES)[:, None, None] - time // 8).abs().float().neg().exp()
    return value * (time < real(numbers, 2 * FRAMES)[:, None, None])


def real(numbers: Tensor, size: int) -> Tensor:
    """Rows of several lengths; none of padding."""
    return (size - (numbers % 3) * (size // 8)) * (numbers >= 0)


def ids_over_time(numbers: Tensor, size: int, kinds: int, step: int) -> Tensor:
    """The same sequence for a class, -100 in padding rows."""
    found = (numbers[:, None] % CLASSES + torch.arange(size) // step) % kinds
    return torch.where((numbers >= 0)[:, None], found, -100)


MAKERS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "tokens": lambda numbers, key: sequences(numbers)["tokens"],
    "segments": lambda numbers, key: sequences(numbers)["segments"],
    "positions": lambda numbers, key: sequences(numbers)["positions"],
    "image": images,
    "series": lambda numbers, key: waves(numbers, 0, SEQUENCE),
    "future": lambda numbers, key: waves(numbers, SEQUENCE, 4),
    "numbers": lambda numbers, key: cells(numbers) * (numbers % 3 != 1)[:, None],
    "numbers_missing": lambda numbers, key: (numbers % 3 == 1)[:, None] & torch.tensor([True, False, True]),
    "categories": lambda numbers, key: (1 + (numbers[:, None] + torch.arange(2)) % CLASSES) * (numbers >= 0)[:, None],
    "latent": lambda numbers, key: torch.cat([cells(numbers), cells(numbers).cos()], dim=1) * (numbers >= 0)[:, None],
    "waveform": lambda numbers, key: sounds(numbers),
    "frames": lambda numbers, key: bands(numbers),
    "codes": lambda numbers, key: ids_over_time(numbers, FRAMES, 6, 3),
    "transcript": lambda numbers, key: ids_over_time(numbers, 4, 6, 1),
    "label": lambda numbers, key: numbers.clamp(min=0) % CLASSES,
    "values": lambda numbers, key: torch.stack([numbers % CLASSES, 1 - numbers % 2], dim=1).float() * (numbers >= 0)[:, None],
}


def fields(keys: Iterable[str]) -> dict[str, Field]:
    """Of a batch with these keys."""
    return {key: FIELDS[key.partition("_")[0] if key not in FIELDS else key] for key in with_places(keys)}


def with_places(keys: Iterable[str]) -> list[str]:
    """The keys, with what belongs to tokens, and to sound."""
    wanted = list(dict.fromkeys(keys))
    sound = ("lengths",) if {"waveform", "frames"} & set(wanted) else ()
    return list(dict.fromkeys([*wanted, *(DOCUMENTS if "tokens" in wanted else ()), *sound]))


def batch(rows: Iterable[int], keys: Iterable[str] = ("tokens",)) -> dict[str, Tensor]:
    """rows, source, key, and the keys asked for."""
    numbers = torch.tensor(list(rows))
    found = {"rows": numbers, "source": torch.zeros_like(numbers), "key": torch.tensor(5)}
    keys = with_places(keys)
    if "lengths" in keys:
        found["lengths"] = real(numbers, SAMPLES if "waveform" in keys else 2 * FRAMES)
    return found | {key: MAKERS[key if key in MAKERS else key.partition("_")[0]](numbers, key) for key in keys if key != "lengths"}
