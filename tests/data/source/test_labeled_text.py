"""Labeled texts: every kind of file, words and numbers as classes, what is refused, and a classifier started from a trained model."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _runs import lines

import ingot
from ingot.core.errors import UserError
from ingot.core.resolve import spec

ROOT = Path(__file__).resolve().parents[3]
ROWS = [("fine\nfilm", 1), ("größer, besser", 0), ("dull", 0), ('three "cheers"', 1)]


def source(folder: Path, *paths: str, **knobs: Any) -> Any:
    return spec("data.source", "labeled_text", paths=list(paths), **knobs).build(folder=folder)


def jsonl(rows: Any, **more: Any) -> str:
    return "".join(json.dumps({"text": text, "label": label} | more) + "\n" for text, label in rows)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def rows_in(name: str) -> list[tuple[str, int]]:
    """What a file of a kind can hold: in .tsv a line is a row."""
    return [(text.replace("\n", " "), label) for text, label in ROWS] if name.endswith(".tsv") else ROWS


def written(folder: Path, name: str) -> None:
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        texts, labels = zip(*ROWS, strict=True)
        writer.write_table(pyarrow.table({"text": texts, "label": labels}), path, row_group_size=3)
    elif name.endswith((".csv", ".tsv")):
        mark = "," if name.endswith(".csv") else "\t"
        pairs = [("text", "label"), *((quoted(text), label) for text, label in rows_in(name))]
        path.write_text("".join(f"{text}{mark}{label}\n" for text, label in pairs))
    else:
        path.write_bytes(gzip.compress(jsonl(ROWS).encode()) if name.endswith(".gz") else jsonl(ROWS).encode())


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    written(tmp_path, name)
    found = source(tmp_path, name)
    assert list(found.captions()) == [text for text, _ in rows_in(name)]
    tokenizer = spec("data.tokenizer", "bytes").build()
    given = found.with_tokenizer(tokenizer, 24).rows(np.arange(4), np.arange(4))
    assert given["label"].tolist() == [1, 0, 0, 1] and found.classes == 2
    for index, (text, _) in enumerate(rows_in(name)):
        real = given["segments"][index] > 0
        ids = given["tokens"][index][real]
        assert (
            ids[-1] == tokenizer.end
            and tokenizer.decode(ids[:-1].tolist()) == text
            and given["positions"][index][real].tolist() == list(range(len(ids)))
        )
    assert tokenizer.decode(found.with_tokenizer(tokenizer, 4).rows(np.array([2]), np.array([2]))["tokens"][0, :3].tolist()) == "dul"


def test_words_are_numbered_as_the_recipe_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl([("x", "pos"), ("y", None), ("z", "neg")]))
    found = source(tmp_path, "a.jsonl", classes=["pos", "neutral", "neg"])
    assert found.labels.tolist() == [0, -100, 2] and found.stored()["label"].values == 3
    only = source(tmp_path, "a.jsonl", classes=["pos", "neutral", "neg"], rows=1)
    assert only.labels.tolist() == [0] and only.identity != found.identity


REFUSED = [
    (jsonl([("x", "pos")]), {}, r"a\.jsonl:1: label 'pos' is a word: name the classes in order"),
    (jsonl([("x", "a"), ("y", "bb")]), {"classes": ["a", "b"]}, r"a\.jsonl:2: label 'bb' is none of a, b\. Did you mean 'b'"),
    (jsonl([("x", 0), ("y", 3)]), {"classes": 3}, r"a\.jsonl:2: label 3 is none of the 3 classes from 0"),
    (jsonl([("x", -1)]), {}, r"a\.jsonl:1: label wants a whole number from 0, got -1"),
    (jsonl([("x", 0.5)]), {}, r"a\.jsonl:1: label wants a whole number from 0, got 0\.5"),
    ('{"text": "x", "lable": 1}\n', {}, r"a\.jsonl:1: has no field 'label'; it has text, lable\. Did you mean 'lable'"),
    ('{"text": 4, "label": 1}\n', {}, r"a\.jsonl:1: field 'text' wants text, got int"),
    ("\n", {}, r"a\.jsonl: the data is empty"),
    ('{"text": "x"', {}, r"a\.jsonl:1: is not valid JSON"),
]


@pytest.mark.parametrize(("text", "knobs", "words"), REFUSED)
def test_what_is_wrong_is_named_by_file_and_line(tmp_path: Path, text: str, knobs: dict[str, Any], words: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        source(tmp_path, "a.jsonl", **knobs)


def test_between_tabs_a_quote_is_a_letter(tmp_path: Path) -> None:
    """A cell that begins with one takes no further line into itself; one that is quoted whole is read without its quotes."""
    (tmp_path / "a.tsv").write_text('text\tlabel\n"bad movie\t0\ngood\t1\nhe said" hi\t1\n"so ""it"" is"\t0\n')
    found = source(tmp_path, "a.tsv")
    assert list(found.captions()) == ['"bad movie', "good", 'he said" hi', 'so "it" is'] and found.labels.tolist() == [0, 1, 1, 0]


def test_long_cells_are_read_and_too_long_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("text,label\nshort,0\n" + "x" * 140_000 + ",1\n")
    assert len(source(tmp_path, "a.csv").captions()[1]) == 140_000
    monkeypatch.setattr("ingot.data.source._csv.LONGEST", 1000)
    with pytest.raises(UserError, match=r"a\.csv:3: cannot be read as csv: field larger than field limit"):
        source(tmp_path, "a.csv")


def test_empty_texts_are_refused_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl([("good", 1), (" \t ", 0), ("bad", 0), ("", 1)]))
    tokenizer = spec("data.tokenizer", "bytes").build()
    with pytest.raises(UserError, match=r"a\.jsonl:2: the text is empty"):
        source(tmp_path, "a.jsonl").with_tokenizer(tokenizer, 8)
    found = source(tmp_path, "a.jsonl", skip=0.5).with_tokenizer(tokenizer, 8)
    given = found.rows(np.arange(4), np.arange(10, 14))
    assert given["rows"].tolist() == [10, -1, 12, -1] and not given["segments"][[1, 3]].any()
    assert [notice["skipped"] for notice in found.notices()] == [1, 2]


SETTINGS = ["compile=false", "log.tensorboard=false", "precision=fp32", "evaluate.every=100%"]


def test_a_classifier_starts_from_a_masked_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> None:
    """The encoder is the trained one's, the head is new; rows of text are probed, neighbored, fine-tuned and learned."""
    monkeypatch.chdir(tmp_path)
    draw = spec("data.source", "synthetic_text", count=320, told=0.6).build()
    for name, part in (("train", range(240)), ("held", range(240, 320))):
        Path(f"{name}.jsonl").write_text(jsonl([(draw.captions()[index], index % 2) for index in part]))
    texts = "data.train={name: jsonl, paths: [train.jsonl]}"
    masked = ingot.build(
        ingot.load_recipe(ROOT / "recipes/text/bert_tiny.yaml", [texts, "stages.0.budget=2 steps", *SETTINGS, "name=masked"], tiny=True)
    )
    masked.train()
    recipe = [
        f"data.{side}={{name: labeled_text, paths: [{name}.jsonl], classes: 2}}"
        for side, name in (("train", "train"), ("validation", "held"))
    ]
    recipe += ["stages.0.budget=30 steps", "evaluate.also=[knn, linear_probe, {name: fine_tune, epochs: 2}]", *SETTINGS]
    own = ["data.tokenizer.name=pretrained", "data.tokenizer.path=runs/masked/tokenizer"]
    classify = ROOT / "recipes/text/classify.yaml"
    run = ingot.build(ingot.load_recipe(classify, [*recipe, *own, "name=classify"], tiny=True), start_from="runs/masked")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    trained = masked.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in before.items() if not name.startswith("objective."))
    run.train()
    first, *_, last = [line["results"]["labeled_text"] for line in lines(run, "evaluation")]
    assert (
        last["accuracy"] > 0.8 > 0.65 > first["accuracy"] and {"knn.accuracy", "linear_probe.accuracy", "fine_tune.accuracy"} <= last.keys()
    )
    assert last["linear_probe.accuracy"] > 0.8 and last["fine_tune.accuracy"] > 0.8
    (parent,) = run.parents
    assert parent["step"] == 2 and any("classification starts afresh, not as masked_lm" in line["message"] for line in lines(run, "event"))


def test_weights_of_other_ids_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> None:
    """A tokenizer of the same size that was trained on other texts: every id would mean something else."""
    monkeypatch.chdir(tmp_path)
    Path("one.jsonl").write_text(jsonl([("a boat on a lake by a tree " * 5 + str(number), 0) for number in range(40)]))
    masked = ingot.build(
        ingot.load_recipe(
            ROOT / "recipes/text/bert_tiny.yaml",
            [
                "data.train={name: jsonl, paths: [one.jsonl]}",
                "stages.0.budget=1 steps",
                "data.tokenizer.vocabulary=270",
                *SETTINGS,
                "name=masked",
            ],
            tiny=True,
        )
    )
    masked.train()
    run = ingot.build(
        ingot.load_recipe(ROOT / "recipes/text/classify.yaml", ["data.tokenizer.vocabulary=270", *SETTINGS, "name=other"], tiny=True),
        start_from="runs/masked",
    )
    with pytest.raises(UserError, match=r"runs/masked reads the ids of another tokenizer; set data\.tokenizer\.name=pretrained"):
        _ = run.model
