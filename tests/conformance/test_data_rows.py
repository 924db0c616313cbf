"""What every source of rows keeps: fields that hold, rows that are a function of their number, and clear words for bad input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.data.source._rows import Rows

SLOTS = ["data.source"]
ROWS = 12


def concerns(case: Any) -> bool:
    return not hasattr(case.target, "shards") and not hasattr(case.target, "order")


def pixels(number: int) -> bytes:
    image = pytest.importorskip("PIL.Image")
    held = io.BytesIO()
    image.fromarray(np.random.default_rng(number).integers(0, 256, (10, 8, 3), dtype=np.uint8)).save(held, "PNG")
    return held.getvalue()


def image_folder(folder: Path) -> dict[str, Any]:
    for number in range(ROWS):
        (folder / f"kind{number % 3}").mkdir(exist_ok=True)
        (folder / f"kind{number % 3}" / f"{number}.png").write_bytes(pixels(number))
    return {"paths": ["."], "size": 8, "labels": "folder", "classes": 3}


def images_parquet(folder: Path) -> dict[str, Any]:
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image": [pixels(number) for number in range(ROWS)], "label": [number % 3 for number in range(ROWS)], "text": [f"row {number}" for number in range(ROWS)]}
    writer.write_table(pyarrow.table(columns), folder / "images.parquet", row_group_size=5)
    return {"paths": ["images.parquet"], "size": 8, "label": "label", "classes": 3, "caption": "text"}


def synthetic_images(folder: Path) -> dict[str, Any]:
    return {"count": ROWS, "size": 8, "captions": True, "values": True}


# How a source of each part comes to hold twelve rows, and which one it cannot open (None: it reads no files).
MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {"image_folder": image_folder, "images_parquet": images_parquet, "synthetic_images": synthetic_images}
MISSING: dict[str, dict[str, Any] | None] = {"image_folder": {"paths": ["nowhere"], "size": 8}, "images_parquet": {"paths": ["nowhere"], "size": 8}, "synthetic_images": None}


@pytest.fixture
def source(case: Any, tmp_path: Path) -> Any:
    if case.name not in MAKERS:
        pytest.fail(f"data.source {case.name!r} is new: add to MAKERS and MISSING of {__file__} how it comes to hold rows")
    return case.spec(**MAKERS[case.name](tmp_path)).build(folder=tmp_path)


def rows(source: Any, ids: list[int], start: int = 100) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = source.rows(np.array(ids), np.array(ids) + start)
    return found


def test_rows_are_as_fields_say(source: Any) -> None:
    assert len(source) == ROWS and source.identity
    found, fields = rows(source, list(range(ROWS))), source.fields()
    assert set(found) - {"rows"} == set(fields)
    for key, field in fields.items():
        assert found[key].shape == (ROWS, *field.shape) and found[key].dtype == field.dtype, key
        assert field.values is None or (found[key] < field.values).all()
    assert any(np.ptp(value.astype(float), axis=0).any() for value in found.values())


def test_what_a_recipe_says_is_what_there_is(case: Any, source: Any, tmp_path: Path) -> None:
    """Planning without data must not plan for other rows."""
    known = getattr(case.target, "known_fields", None)
    if known is None:
        return
    from ingot.core.resolve import spec

    said = known(case.spec(**MAKERS[case.name](tmp_path)).knobs, 16)
    text = getattr(case.target, "with_text", lambda knobs: False)(case.spec(**MAKERS[case.name](tmp_path)).knobs)
    real = source.with_tokenizer(spec("data.tokenizer", "bytes").build(), 16).fields() if text else source.fields()
    assert said is None or {key: (field.shape, field.dtype) for key, field in said.items()} == {key: (field.shape, field.dtype) for key, field in real.items()}


def test_a_row_is_a_function_of_its_number(case: Any, source: Any, tmp_path: Path) -> None:
    whole, again = rows(source, list(range(ROWS))), case.spec(**MAKERS[case.name](tmp_path)).build(folder=tmp_path)
    for ids in ([7], [3, 11, 0], [5, 5]):
        for one in (rows(source, ids), rows(again, ids)):
            assert all(np.array_equal(one[key], whole[key][ids]) for key in whole)
    assert again.identity == source.identity


def test_every_row_has_a_place(source: Any) -> None:
    if isinstance(source, Rows):
        places = [source.where(index) for index in range(ROWS)]
        assert len(set(places)) == ROWS and all(places)


def test_what_is_missing_is_refused_in_one_line(case: Any, tmp_path: Path) -> None:
    if case.name in MISSING and MISSING[case.name] is None:
        return
    with pytest.raises(UserError) as caught:
        case.spec(**MISSING[case.name]).build(folder=tmp_path)
    assert all(str(problem) and "\n" not in str(problem) for problem in caught.value.problems)


def test_fields_are_plain(source: Any) -> None:
    """So that a plan can be told, and a batch made by shape alone."""
    json.dumps({key: [list(field.shape), field.dtype, field.values] for key, field in source.fields().items()})
