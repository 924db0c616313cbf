"""What every source of texts keeps: stable identities that follow the content, and rereading that gives the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError

SLOTS = ["data.source"]


def concerns(case: Any) -> bool:
    """Documents; sources of rows have a suite of their own."""
    return hasattr(case.target, "shards") or hasattr(case.target, "order")


TEXTS = [f"document {number}: " + "words and " * (number % 5) + "größer" for number in range(30)]
Maker = Callable[[Path, list[str]], dict[str, Any]]


def text_files(folder: Path, texts: list[str]) -> dict[str, Any]:
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return {"paths": ["."], "suffixes": [".txt"]}


def jsonl(folder: Path, texts: list[str]) -> dict[str, Any]:
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return {"paths": ["texts.jsonl"]}


def parquet(folder: Path, texts: list[str]) -> dict[str, Any]:
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    writer.write_table(pyarrow.table({"text": texts}), folder / "texts.parquet", row_group_size=7)
    return {"paths": ["texts.parquet"]}


def huggingface(folder: Path, texts: list[str]) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(folder / f"set-{len(texts)}"))
    return {"path": f"set-{len(texts)}"}


def python_library(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Its content is what it is; fewer texts are fewer packages."""
    return {"packages": ["json", "email"] if len(texts) == len(TEXTS) else ["json"]}


def mixture(folder: Path, texts: list[str]) -> dict[str, Any]:
    for side, part in (("left", texts[::2]), ("right", texts[1::2])):
        (folder / side).mkdir(exist_ok=True)
        text_files(folder / side, part)
    return {
        "sources": {side: {"name": "text_files", "paths": [side]} for side in ("left", "right")},
        "weights": {"left": 0.7, "right": 0.3},
    }


# How a source of each part comes to hold given texts.
MAKERS: dict[str, Maker] = {
    "text_files": text_files,
    "jsonl": jsonl,
    "parquet": parquet,
    "huggingface": huggingface,
    "python_library": python_library,
    "mixture": mixture,
}
FIXED = {"python_library"}  # reads what the machine has
PATHS = {
    "text_files": {"paths": ["nowhere"]},
    "jsonl": {"paths": ["nowhere"]},
    "parquet": {"paths": ["nowhere"]},
    "huggingface": {"path": "./nowhere"},
    "python_library": {"packages": ["no_such_package"]},
    "mixture": {"sources": {"a": {"name": "text_files", "paths": ["nowhere"]}}},
}


@pytest.fixture
def make(case: Any, tmp_path: Path) -> Callable[..., Any]:
    if case.name not in MAKERS:
        pytest.fail(f"data.source {case.name!r} is new: add to MAKERS and PATHS of {__file__} how it comes to hold given texts")

    def build(texts: list[str] = TEXTS, folder: str = "data") -> Any:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        return case.spec(**MAKERS[case.name](place, texts)).build(folder=place)

    return build


def sources_of(built: Any) -> dict[str, Any]:
    return built.sources if hasattr(built, "order") else {"": built}


def identities(built: Any) -> list[str]:
    return sorted(shard.identity for source in sources_of(built).values() for shard in source.shards())


def documents(built: Any) -> list[tuple[str, str]]:
    return [(document.id, document.text) for source in sources_of(built).values() for shard in source.shards() for document in shard.read()]


def test_gives_every_text_under_an_id_of_its_own(case: Any, make: Any) -> None:
    found = documents(make())
    assert len({name for name, _ in found}) == len(found) > 0
    if case.name not in FIXED:
        assert sorted(text for _, text in found) == sorted(TEXTS)


def test_rereading_gives_the_same(make: Any) -> None:
    source = make()
    assert documents(source) == documents(source) == documents(make())
    shard = next(iter(sources_of(source).values())).shards()[0]
    assert all(one == other for one, other in zip(shard.read(), shard.read(), strict=True))  # two readers do not share a place


def test_identity_follows_the_content(case: Any, make: Any) -> None:
    before = identities(make())
    assert before == identities(make()) and len(set(before)) == len(before) and all(before)
    assert identities(make(folder="elsewhere")) == before
    assert identities(make(TEXTS[:-1], folder="shorter")) != before
    if case.name not in FIXED:
        assert identities(make([*TEXTS[:-1], TEXTS[-1].replace("w", "W")], folder="changed")) != before


def test_ids_survive_edits_of_other_documents(case: Any, make: Any) -> None:
    if case.name in FIXED:
        pytest.skip("cannot be edited")
    before, after = (
        {text: name for name, text in documents(make(texts, folder))}
        for texts, folder in ((TEXTS, "data"), (TEXTS[:10] + ["new one"] + TEXTS[10:], "more"))
    )
    assert all(after[text] == name for text, name in before.items())


def test_what_is_missing_is_refused_in_one_line(case: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        identities(case.spec(**PATHS[case.name]).build(folder=tmp_path))
    assert all(str(problem) and "\n" not in str(problem) for problem in caught.value.problems)


def test_an_order_is_pure_and_seekable(make: Any) -> None:
    built = make()
    if not hasattr(built, "order"):
        return
    lengths = dict.fromkeys(built.sources, 40)
    rows = np.arange(500)
    source, ordinal = built.order(lengths, 32).locate(rows)
    for start in (0, 123, 499):
        again = built.order(lengths, 32).locate(rows[start:])
        assert np.array_equal(again[0], source[start:]) and np.array_equal(again[1], ordinal[start:])
    for index in range(len(built.sources)):
        assert np.array_equal(ordinal[source == index], np.arange(int((source == index).sum())))
