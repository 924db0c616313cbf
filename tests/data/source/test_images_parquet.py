"""Images in parquet: pixels, classes, captions; damaged rows named and passed over within the allowance."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec

Image = pytest.importorskip("PIL.Image")
pyarrow = pytest.importorskip("pyarrow")
writer = pytest.importorskip("pyarrow.parquet")


def png(color: tuple[int, ...], size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    held = io.BytesIO()
    Image.new(mode, size, color).save(held, "PNG")
    return held.getvalue()


def write(folder: Path, images: list[Any], name: str = "images.parquet", **columns: list[Any]) -> Path:
    writer.write_table(pyarrow.table({"image": images, **columns}), folder / name, row_group_size=3)
    return folder


def source(folder: Path, **knobs: Any) -> Any:
    return spec("data.source", "images_parquet", **({"paths": ["images.parquet"], "size": 8} | knobs)).build(folder=folder)


def rows(built: Any, *ids: int) -> dict[str, np.ndarray]:
    return built.rows(np.array(ids), np.array(ids) + 100)


COLORS = [(10 * number, 0, 255 - 10 * number) for number in range(8)]


def test_pixels_classes_and_order(tmp_path: Path) -> None:
    built = source(write(tmp_path, [png(color) for color in COLORS], label=[0, 1, 2, 0, 1, 2, 0, 1]), label="label")
    found = rows(built, 7, 0, 3)
    assert found["image"].shape == (3, 3, 8, 8) and found["image"].dtype == np.uint8
    assert [tuple(image[:, 0, 0]) for image in found["image"]] == [COLORS[7], COLORS[0], COLORS[3]]
    assert found["label"].tolist() == [1, 0, 0] and found["rows"].tolist() == [107, 100, 103]
    assert built.fields()["label"].values == 3 and len(built) == 8


def test_records_words_and_transparency(tmp_path: Path) -> None:
    clear = png((255, 0, 0, 0), mode="RGBA")
    write(tmp_path, [{"bytes": clear, "path": "a"}, {"bytes": png((1, 2, 3)), "path": "b"}], kind=["dog", "cat"])
    built = source(tmp_path, label="kind", background=200)
    assert built.labels.tolist() == [1, 0] and built.names == ["cat", "dog"]
    assert rows(built, 0)["image"][0, :, 0, 0].tolist() == [200, 200, 200]


def test_other_sizes_keep_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 255
    held = io.BytesIO()
    Image.fromarray(wide).save(held, "PNG")
    assert rows(source(write(tmp_path, [held.getvalue()]), size=4), 0)["image"].min() == 255


BROKEN = [png(COLORS[0]), b"not an image", png(COLORS[2])[:40], None, png(COLORS[4])]


def test_damaged_rows_are_named_and_refused(tmp_path: Path) -> None:
    built = source(write(tmp_path, BROKEN))
    for row, word in ((1, "cannot be decoded"), (2, "cannot be decoded"), (3, "holds no image")):
        with pytest.raises(UserError, match=f"images.parquet row {row}: .*{word}"):
            rows(built, row)
    assert rows(built, 0, 4)["rows"].tolist() == [100, 104]


def test_within_the_allowance_they_become_padding_and_are_noted_once(tmp_path: Path) -> None:
    built = source(write(tmp_path, BROKEN), skip=0.6)
    found = rows(built, 0, 1, 2, 3, 4)
    assert found["rows"].tolist() == [100, -1, -1, -1, 104] and not found["image"][1:4].any()
    notices = built.notices()
    assert (
        len(notices) == 3
        and "row 1" in notices[0]["message"] + notices[1]["message"] + notices[2]["message"]
        and max(n["skipped"] for n in notices) == 3
    )
    rows(built, 1)
    assert built.notices() == []
    with pytest.raises(UserError, match="more than skip allows"):
        rows(source(tmp_path, skip=0.4), 0, 1, 2, 3, 4)


def test_channels_may_have_to_be_right(tmp_path: Path) -> None:
    write(tmp_path, [png((7,), mode="L"), png((1, 2, 3))])
    assert rows(source(tmp_path), 0)["image"][0, :, 0, 0].tolist() == [7, 7, 7]
    with pytest.raises(UserError, match="row 0: has 1 channels, 3 are wanted"):
        rows(source(tmp_path, convert=False), 0)
    deep = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(deep, "PNG")
    with pytest.raises(UserError, match="do not fit 8 bits"):
        rows(source(write(tmp_path, [deep.getvalue()], "deep.parquet"), paths=["deep.parquet"]), 0)


def test_captions_become_tokens(tmp_path: Path) -> None:
    built = source(write(tmp_path, [png(color) for color in COLORS[:3]], text=["ab", ["c", "d"][0], "efghij"]), caption="text")
    tokenizer = spec("data.tokenizer", "bytes").build()
    assert list(built.texts()) == ["ab", "c", "efghij"]
    with_text = built.with_tokenizer(tokenizer, 4)
    found = rows(with_text, 0, 2)
    assert found["tokens"][0].tolist()[:3] == [*tokenizer.encode(["ab"])[0].tolist(), tokenizer.end] and found["segments"].tolist() == [
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]
    assert found["tokens"][1].tolist() == [*tokenizer.encode(["efg"])[0].tolist(), tokenizer.end]
    assert with_text.fields()["tokens"].shape == (4,)


def test_an_empty_caption_is_named(tmp_path: Path) -> None:
    tokenizer = spec("data.tokenizer", "bytes").build()
    write(tmp_path, [png(color) for color in COLORS[:3]], text=["ab", "  ", "c"])
    with pytest.raises(UserError, match="row 1: the text is empty"):
        source(tmp_path, caption="text").with_tokenizer(tokenizer, 4)


def test_captions_of_spaces_are_passed_over_and_counted(tmp_path: Path) -> None:
    """Bytes of spaces are ids, but no text: such a row is padding, within the allowance, and told."""
    tokenizer = spec("data.tokenizer", "bytes").build()
    write(tmp_path, [png(color) for color in COLORS[:3]], text=["ab", " \t ", "c"])
    built = source(tmp_path, caption="text", skip=0.4).with_tokenizer(tokenizer, 4)
    found = rows(built, 0, 1, 2)
    assert (found["rows"] >= 0).tolist() == [True, False, True] and not found["segments"][1].any()
    (notice,) = built.notices()
    assert notice["skipped"] == 1 and notice["message"].endswith("row 1: the text is empty")


def test_missing_columns_and_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [png(color) for color in COLORS[:2]], label=[0, 5])
    with pytest.raises(UserError, match=r"no column 'labels'; it has image, label\. Did you mean 'label'"):
        source(tmp_path, label="labels")
    with pytest.raises(UserError, match="row 1: column 'label' is class 5, wanted are 0 to 2"):
        source(tmp_path, label="label", classes=3)
    write(tmp_path, [png(color) for color in COLORS[:2]], label=[0, None])
    with pytest.raises(UserError, match="row 1: column 'label' is empty"):
        source(tmp_path, label="label")


def test_few_bytes_are_held(tmp_path: Path) -> None:
    built = source(write(tmp_path, [png(color) for color in COLORS]), hold="1 B")
    assert [tuple(image[:, 0, 0]) for image in rows(built, 7, 0, 7)["image"]] == [COLORS[7], COLORS[0], COLORS[7]]
    assert len(built.found._held) == 1


def test_cifar_as_it_is(shared_data: Path) -> None:
    built = spec("data.source", "images_parquet", paths=["images/cifar10/test.parquet"], size=32, label="label", rows=500).build(
        folder=shared_data
    )
    found = rows(built, *range(50))
    assert (
        len(built) == 500
        and found["image"].shape == (50, 3, 32, 32)
        and 100 < found["image"].mean() < 140
        and set(found["label"].tolist()) <= set(range(10))
    )
