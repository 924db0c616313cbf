"""What every source of rows keeps: fields that hold, rows that are a function of their number, and clear words for bad input."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.data.rows import Rows

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
    columns = {
        "image": [pixels(number) for number in range(ROWS)],
        "label": [number % 3 for number in range(ROWS)],
        "text": [f"row {number}" for number in range(ROWS)],
    }
    writer.write_table(pyarrow.table(columns), folder / "images.parquet", row_group_size=5)
    return {"paths": ["images.parquet"], "size": 8, "label": "label", "classes": 3, "caption": "text"}


def synthetic_images(folder: Path) -> dict[str, Any]:
    return {"count": ROWS, "size": 8, "captions": True, "values": True}


def series_csv(folder: Path) -> dict[str, Any]:
    lines = [f"{t},{np.sin(t):.4f},{'?' if t == 5 else t % 7},{'ab'[t % 2]}" for t in range(ROWS + 9)]
    (folder / "series.csv").write_text("time,a,b,kind\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return {"paths": ["series.csv"], "columns": ["a", "b"], "look_back": 6, "horizon": 4, "missing": 0.1, "label": "kind", "classes": 2}


def table_csv(folder: Path) -> dict[str, Any]:
    lines = [f"{n},{'?' if n == 3 else n * n},{'xyz'[n % 3]},{n % 2}" for n in range(ROWS)]
    (folder / "table.csv").write_text("a,b,kind,class\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return {"paths": ["table.csv"], "numeric": ["a", "b"], "categorical": ["kind"], "label": "class", "classes": 2, "widest": 4}


def sound(number: int, rate: int = 8000) -> bytes:
    package, held = pytest.importorskip("soundfile"), io.BytesIO()
    package.write(held, np.random.default_rng(number).uniform(-0.5, 0.5, 700 + 30 * number).astype(np.float32), rate, format="WAV")
    return held.getvalue()


def audio_parquet(folder: Path) -> dict[str, Any]:
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "audio": [sound(number) for number in range(ROWS)],
        "label": [number % 3 for number in range(ROWS)],
        "text": [f"row {number}" for number in range(ROWS)],
    }
    writer.write_table(pyarrow.table(columns), folder / "sounds.parquet", row_group_size=5)
    return {"paths": ["sounds.parquet"], "seconds": 0.1, "label": "label", "classes": 3, "transcript": "text"}


def audio_manifest(folder: Path) -> dict[str, Any]:
    for number in range(ROWS):
        (folder / f"{number}.wav").write_bytes(sound(number))
    (folder / "sounds.jsonl").write_text(
        "".join(json.dumps({"audio": f"{number}.wav", "kind": number % 3}) + "\n" for number in range(ROWS))
    )
    return {"paths": ["sounds.jsonl"], "seconds": 0.1, "rate": 8000, "label": "kind", "classes": 3, "mels": 8}


def audio_tar(folder: Path) -> dict[str, Any]:
    with tarfile.open(folder / "sounds.tar", "w") as tar:
        for number in range(ROWS):
            for name, data in (
                (f"{number}.wav", sound(number)),
                (f"{number}.txt", f"row {number}".encode()),
                (f"{number}.cls", str(number % 3).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return {"paths": ["sounds.tar"], "seconds": 0.1, "rate": 8000, "label": "cls", "classes": 3, "transcript": "txt"}


def synthetic_audio(folder: Path) -> dict[str, Any]:
    return {"count": ROWS, "seconds": 0.1, "transcripts": True}


# How a source of each part comes to hold twelve rows, and which one it cannot open (None: it reads no files).
MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "image_folder": image_folder,
    "images_parquet": images_parquet,
    "synthetic_images": synthetic_images,
    "series_csv": series_csv,
    "table_csv": table_csv,
    "synthetic_table": lambda folder: {"count": ROWS, "values": True},
    "synthetic_series": lambda folder: {"count": ROWS, "missing": 0.1},
}
MISSING: dict[str, dict[str, Any] | None] = {
    "image_folder": {"paths": ["nowhere"], "size": 8},
    "images_parquet": {"paths": ["nowhere"], "size": 8},
    "synthetic_images": None,
    "series_csv": {"paths": ["nowhere"], "look_back": 4},
    "table_csv": {"paths": ["nowhere"], "numeric": ["a"]},
    "synthetic_table": None,
    "synthetic_series": None,
}

MAKERS |= {"audio_parquet": audio_parquet, "audio_manifest": audio_manifest, "audio_tar": audio_tar, "synthetic_audio": synthetic_audio}
MISSING |= {name: {"paths": ["nowhere"], "seconds": 1.0} for name in ("audio_parquet", "audio_manifest", "audio_tar")} | {
    "synthetic_audio": None
}


def labeled_text(folder: Path) -> dict[str, Any]:
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": f"row {n}", "label": n % 3}) + "\n" for n in range(ROWS)))
    return {"paths": ["texts.jsonl"], "classes": 3}


MAKERS |= {"labeled_text": labeled_text, "synthetic_text": lambda folder: {"count": ROWS}}
MISSING |= {"labeled_text": {"paths": ["nowhere"]}, "synthetic_text": None}


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
    assert said is None or {key: (field.shape, field.dtype) for key, field in said.items()} == {
        key: (field.shape, field.dtype) for key, field in real.items()
    }


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
