"""Images in folders: a folder per class, and what is missing or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.open import open_data

Image = pytest.importorskip("PIL.Image")


def folder(place: Path) -> Path:
    for number, kind in enumerate(("cat", "dog")):
        (place / "train" / kind).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), (100 * number, index, 0)).save(place / "train" / kind / f"{index}.png")
    return place


def source(place: Path, **knobs: Any) -> Any:
    return spec("data.source", "image_folder", **({"paths": ["train"], "size": 8, "labels": "folder"} | knobs)).build(folder=place)


def test_classes_are_folders_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    built = source(folder(tmp_path))
    found = built.rows(np.arange(6), np.arange(6))
    assert found["label"].tolist() == [0, 0, 0, 1, 1, 1] and built.names == ["cat", "dog"] and built.fields()["label"].values == 2
    assert found["image"][:, :2, 0, 0].tolist() == [[0, 0], [0, 1], [0, 2], [100, 0], [100, 1], [100, 2]]
    assert "label" not in source(tmp_path, labels=None).fields()


def test_identity_follows_the_files(tmp_path: Path) -> None:
    before = source(folder(tmp_path)).identity
    assert source(tmp_path).identity == before
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "dog" / "9.png")
    assert source(tmp_path).identity != before


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "train" / "dog" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UserError, match=r"dog/1.png: the image cannot be decoded"):
        source(tmp_path).rows(np.arange(6), np.arange(6))
    assert source(tmp_path, skip=0.2).rows(np.arange(6), np.arange(6))["rows"].tolist() == [0, 1, 2, 3, -1, 5]
    with pytest.raises(UserError, match="no such file or directory"):
        source(tmp_path, paths=["nowhere"])


def test_classes_that_training_and_validation_number_differently_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    for kind in ("dog", "eel"):
        (tmp_path / "held" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "held" / kind / "0.png")
    train, held = (spec("data.source", "image_folder", paths=[name], size=8, labels="folder") for name in ("train", "held"))
    knobs: dict[str, Any] = {"sequence": 8, "pack": spec("data.pack", "stream"), "cache": Path("cache"), "folder": tmp_path, "seed": 0}
    with pytest.raises(UserError, match="not those trained on \\('cat', 'eel' on one side alone\\)"):
        open_data(train=train, validation=held, **knobs)
    assert open_data(train=train, validation=train, **knobs).validation


def test_pictures_are_upright(tmp_path: Path) -> None:
    """As the camera's orientation (EXIF tag 274) says; 6: turn by 90 degrees clockwise to see it as it was."""
    (tmp_path / "train" / "x").mkdir(parents=True)
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255  # the left half; turned clockwise it is the upper one
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "train" / "x" / "0.png", exif=exif)
    found = source(tmp_path).rows(np.arange(1), np.arange(1))["image"][0, 0]
    assert found[:4].min() == 255 and found[4:].max() == 0


def test_training_sources_that_number_their_classes_apart_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    for kind in ("dog", "eel"):
        (tmp_path / "other" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "other" / kind / "0.png")
    own: dict[str, Any] = {"name": "image_folder", "size": 8, "labels": "folder"}
    knobs: dict[str, Any] = {"sequence": 8, "pack": spec("data.pack", "stream"), "cache": Path("cache"), "folder": tmp_path, "seed": 0}

    def opened(*paths: str) -> Any:
        sources = {name: own | {"paths": [path]} for name, path in zip("ab", paths, strict=True)}
        return open_data(train=spec("data.source", "mixture", sources=sources), **knobs)

    with pytest.raises(UserError, match=r"data\.train: the classes of 'b' are not those of 'a' \('cat', 'eel' on one side alone\)"):
        opened("train", "other")
    assert opened("other", "other").train.fields()["label"].values == 2


def test_more_folders_than_classes_are_refused_with_the_first_file(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(UserError, match=r"dog/0\.png: its folder is class 1, wanted are 0 to 0"):
        source(tmp_path, classes=1)
    assert source(tmp_path, classes=5).fields()["label"].values == 5


def test_size_is_part_of_what_the_data_are_known_by(tmp_path: Path) -> None:
    folder(tmp_path)

    def opened(**changes: Any) -> str:
        train = spec("data.source", "image_folder", **({"paths": ["train"], "size": 8} | changes))
        return open_data(train=train, sequence=8, pack=spec("data.pack", "stream"), cache=Path("cache"), folder=tmp_path, seed=0).identity

    assert opened() == opened() and len({opened(), opened(size=4), opened(channels=1), opened(background=0)}) == 4
    for level in (-1, 256):
        with pytest.raises(UserError, match="background"):
            source(tmp_path, background=level)
