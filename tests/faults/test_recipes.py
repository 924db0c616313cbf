"""Recipes that are wrong: malformed, misspelt, mistyped, in conflict; many at random. None starts anything, each is named."""

from __future__ import annotations

import copy
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.build.check import check
from ingot.core.errors import UserError
from ingot.core.recipe import LARGEST, Recipe, dump, load, parse

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").rglob("*.yaml"))


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what some shipped recipes ask the user for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("a")
    (tmp_path / "path" / "to" / "model").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model" / "tokenizer.json").write_text("{}")
    return tmp_path


MALFORMED = {
    "a bracket that stays open": ("name: x\ndata: {train: [\n", "r.yaml:"),
    "a tab": ("name: x\n\tdata: y\n", "r.yaml:2"),
    "a key twice": ("name: x\nname: y\n", "r.yaml:2"),
    "a list": ("- name: x\n", "r.yaml:1"),
    "a word": ("hello\n", "r.yaml:1"),
    "a python object": ("name: !!python/object/apply:os.system [exit]\n", "r.yaml:1"),
    "a tag": ("name: !secret x\n", "r.yaml:1"),
    "an anchor": ("a: &x 1\nb: *x\n", "r.yaml:1"),
    "a key that is a list": ("? [a, b]\n: c\n", "r.yaml:1"),
    "two documents": ("name: x\n---\nname: y\n", "r.yaml:2"),
    "bad indentation": ("data:\n  train: x\n tokenizer: y\n", "r.yaml:3"),
    "an odd escape": ('name: "\\q"\n', "r.yaml:1"),
    "half a surrogate pair": ('name: "\\ud800"\n', "r.yaml:1"),
    "a control character": ("name: a\x01b\n", "r.yaml"),
    "a number of 10,000 digits": ("seed: " + "9" * 10_000 + "\n", "r.yaml"),
    "deep brackets": ("a: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deeply"),
    "deep mappings": ("".join(" " * depth + "a:\n" for depth in range(700)), "r.yaml"),
    "nothing": ("", "needs 'data'"),
    "a corpus in place of a recipe": ("word " * (LARGEST // 4), "larger than"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("command", ["check", "train"])
def test_malformed_yaml(ingot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    text, word = MALFORMED[case]
    Path("r.yaml").write_text(text, encoding="utf-8")
    began = time.perf_counter()
    ingot.refuses(
        command,
        "r.yaml",
        status=2,
        words=word,
        problems=3 if case == "nothing" else None if case == "deep mappings" else 1,
        keeps=(tmp_path,),
    )
    assert time.perf_counter() - began < 5
    assert not Path("runs").exists() and not Path(".ingot").exists()


def test_a_recipe_of_the_largest_size_is_read_in_time(ingot: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("x:\n" + "  - a: b\n" * (LARGEST // 9 - 10))
    began = time.process_time()
    ingot.refuses("check", path, status=2, words="this section takes no 'x'", problems=4)
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        "binary",
        "missing",
        "missing parent",
        "circle",
        "a link to itself",
        "UTF-16",
        "a strange name",
        "a parent that is a number",
    ],
)
def test_files_that_are_no_recipe(ingot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a\nb.yaml" if kind == "a strange name" else "r.yaml"
    match kind:
        case "folder":
            Path(name).mkdir()
        case "binary":
            Path(name).write_bytes(bytes(range(256)) * 9)
        case "missing parent":
            Path(name).write_text("based_on: nowhere.yaml\n")
        case "circle":
            Path(name).write_text("based_on: s.yaml\n")
            Path("s.yaml").write_text("based_on: r.yaml\n")
        case "a link to itself":
            Path(name).symlink_to(name)
        case "UTF-16":
            Path(name).write_text("name: x", encoding="utf-16")
        case "a parent that is a number":
            Path(name).write_text("based_on: 3\n")
    words = {
        "missing parent": "nowhere.yaml",
        "circle": "circle",
        "a strange name": "a\\nb.yaml",
        "a parent that is a number": "based_on",
    }.get(kind, "r.yaml")
    ingot.refuses("train", name, status=2, words=words)
    assert not Path("runs").exists()


KNOBS = {
    "misspelt section": ({"modle": {"width": 3}}, ("modle", "Did you mean 'model'?")),
    "misspelt knob of a section": ({"data": {"sequense": 5}}, ("data.sequense", "Did you mean 'sequence'?")),
    "misspelt knob of a part": ({"model": {"encoder": {"depht": 3}}}, ("model.encoder", "Did you mean 'depth'?")),
    "misspelt part": ({"stages": {0: {"optimizer": {"name": "adamww", "lr": 1}}}}, ("stages.0.optimizer", "Did you mean 'adamw'?")),
    "misspelt choice": ({"precision": "fp23"}, ("precision", "one of auto, bf16, fp32, fp64")),
    "misspelt source of a weight": (
        {"data": {"train": {"weights": {"lefd": 1, "left": 1, "right": 1}}}},
        ("data.train", "Did you mean 'left'?"),
    ),
    "misspelt scheduled knob": (
        {"stages": {0: {"schedule": {"weigth_decay": "cosine"}}}},
        ("stages.0.schedule.weigth_decay", "Did you mean 'weight_decay'?"),
    ),
    "misspelt scheduled hook": (
        {"stages": {0: {"schedule": {"hooks.clib.max_norm": "cosine"}}}},
        ("stages.0.schedule.hooks.clib.max_norm",),
    ),
    "text for a number": ({"model": {"width": "wide"}}, ("model.width", "'wide'")),
    "a fraction for a count": ({"model": {"encoder": {"depth": 2.5}}}, ("model.encoder.depth", "2.5")),
    "a list for a number": ({"model": {"width": [64]}}, ("model.width", "[64]")),
    "a truth for a number": ({"model": {"width": True}}, ("model.width", "True")),
    "a number for a mapping": ({"model": 3}, ("model", "mapping")),
    "a mapping for a list": ({"stages": {"budget": "3 steps"}}, ("stages", "list")),
    "nothing for a part": ({"data": {"train": None}}, ("data.train",)),
    "infinity": ({"stages": {0: {"optimizer": {"lr": float("inf")}}}}, ("stages.0.optimizer.lr", "inf")),
    "not a number": ({"stages": {0: {"optimizer": {"lr": float("nan")}}}}, ("stages.0.optimizer.lr", "nan")),
    "below zero": ({"stages": {0: {"optimizer": {"lr": -1.0}}}}, ("stages.0.optimizer.lr", "above 0")),
    "a budget without unit": ({"stages": {0: {"budget": 12}}}, ("stages.0.budget", "12")),
    "an unknown unit": ({"stages": {0: {"budget": "12 parsecs"}}}, ("stages.0.budget", "units are")),
    "an endless budget": ({"stages": {0: {"budget": "1e400 tokens"}}}, ("stages.0.budget", "1e400")),
    "an endless batch": ({"stages": {0: {"batch": "1e400 tokens"}}}, ("stages.0.batch", "1e400")),
    "no budget": ({"stages": {0: {"budget": "0 tokens"}}}, ("stages.0.budget", "above 0")),
    "a batch below one row": ({"stages": {0: {"batch": "3 tokens"}}}, ("stages.0.batch", "less than one row")),
    "heads that do not divide": ({"model": {"encoder": {"mixer": {"heads": 5}}}}, ("model.encoder.mixer", "heads")),
    "key heads that do not divide": ({"model": {"encoder": {"mixer": {"kv_heads": 3, "heads": 4}}}}, ("model.encoder.mixer", "kv_heads")),
    "everything held out": ({"data": {"holdout": 1.0}}, ("data.holdout", "below 1")),
    "validation twice": ({"data": {"validation": {"name": "text_files", "paths": ["left"]}}}, ("data.holdout", "give one")),
    "a vocabulary below the bytes": ({"data": {"tokenizer": {"name": "bpe", "vocabulary": 100}}}, ("data.tokenizer", "vocabulary")),
    "no stage": ({"stages": []}, ("stages", "at least one stage")),
    "a hook twice": ({"stages": {0: {"hooks": ["clip", "clip"]}}}, ("stages.0.hooks", "twice")),
    "a scheduled pair": ({"stages": {0: {"schedule": {"betas": "cosine"}}}}, ("stages.0.schedule.betas",)),
    "a name that climbs": ({"name": "../../elsewhere"}, ("name", "'../../elsewhere'")),
    "a name that is empty": ({"name": ""}, ("name", "''")),
    "a name of the folder itself": ({"name": ".."}, ("name", "'..'")),
    "a very long name": ({"name": "x" * 300}, ("name", "xxx...")),
    "a very long value": ({"model": {"width": "x" * 200_000}}, ("model.width", "xxx...")),
    "a key with a line break": ({"model\nx": 3}, ("model\\nx",)),
    "texts without a tokenizer": ({"data": {"tokenizer": None}}, ("data.tokenizer", "texts need a tokenizer")),
    "a missing corpus": ({"data": {"train": {"sources": {"left": {"paths": ["lost"]}}}}}, ("data.train.sources.left", "paths", "lost")),
    "a missing tokenizer": ({"data": {"tokenizer": {"name": "pretrained", "path": "lost"}}}, ("data.tokenizer", "path", "lost")),
    "a pattern that matches nothing": (
        {"data": {"train": {"sources": {"left": {"paths": ["left/*.md"]}}}}},
        ("data.train.sources.left", "*.md"),
    ),
    "a home that nobody has": (
        {"data": {"train": {"sources": {"left": {"paths": ["~nobody-at-all/x"]}}}}},
        ("data.train.sources.left", "~nobody-at-all"),
    ),
    "a path with a NUL": ({"data": {"train": {"sources": {"left": {"paths": ["a\0b"]}}}}}, ("data.train.sources.left", "a\\x00b")),
}


@pytest.mark.parametrize("case", KNOBS)
def test_knobs(ingot: Any, write: Any, tmp_path: Path, case: str) -> None:
    patch, words = KNOBS[case]
    path = write(patch)
    for command in ("check", "train"):
        ingot.refuses(command, path, status=2, words=words, problems=None if "scheduled hook" in case else 1, keeps=(tmp_path,))
    assert not (tmp_path / "runs").exists()


OVERRIDES = {
    "no equals": ("model.width", "model.width"),
    "no key": ("=3", "=3"),
    "a place that is not there": ("stages.4.budget=3 steps", "stages.4.budget"),
    "an item that is not there": ("stages.9={}", "stages"),
    "a digit that is none": ("stages.².budget=3", "²"),
    "an index of 5,000 digits": ("stages." + "9" * 5000 + "=1", "stages"),
    "a path of 5,000 keys": ("a." * 5000 + "a=1", "a.a"),
    "a negative index": ("stages.-1.budget=3 steps", "-1"),
    "through a word": ("model.encoder.norm.eps.x=1", "model.encoder.norm"),
    "open brackets": ("model.width=[", "model.width"),
    "yaml tags": ("model.width=!!python/name:os.system", "model.width"),
    "half a pair": ("model.width=\udc80", "model.width"),
    "a NUL": ("model.width=\0", "model.width"),
    "line breaks": ("model.width=1\nseed: 2", "model.width"),
    "a mapping": ("model.width={a: 1}", "model.width"),
    "an emptied part": ("model.encoder=", "model.encoder"),
    "a line break in the key": ("mo\ndel=1", "mo\\ndel"),
    "a dot at the end": ("model.=1", "model"),
    "the whole of it": ("stages=3", "stages"),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_overrides(ingot: Any, write: Any, tmp_path: Path, case: str) -> None:
    item, word = OVERRIDES[case]
    path = write()
    ingot.refuses("train", path, item, status=2, words=word, keeps=(tmp_path,))


def test_four_faults_are_four_lines(ingot: Any, write: Any) -> None:
    path = write(
        {"model": {"width": "wide", "encoder": {"dept": 3}}, "stages": {0: {"optimizer": "adamv"}}, "data": {"tokeniser": "bytes"}}
    )
    lines = ingot.refuses(
        "check", path, status=2, words=("model.width", "model.encoder", "stages.0.optimizer", "data.tokeniser"), problems=4
    )
    assert all(line.startswith("tiny.yaml:") for line in lines)
    path = write(
        {"name": "a/b", "data": {"holdout": 1.0}, "model": {"encoder": {"mixer": {"heads": 5}}}, "stages": {0: {"budget": "0 steps"}}}
    )
    ingot.refuses("train", path, status=2, words=("name", "data.holdout", "heads", "stages.0.budget"), problems=4)


# -- at random ---------------------------------------------------------------------------------------------------------------


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield at, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*at, key))


def put(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    for key in at[:-1]:
        tree = tree[key]
    tree[at[-1]] = value


def misspelt(word: str, draw: random.Random) -> str:
    at = draw.randrange(len(word))
    return draw.choice([word[:at] + word[at + 1 :] + "q", word[:at] + word[at] * 3 + word[at:], word[:at] + "zq" + word[at:]])


def mutate(tree: dict[str, Any], kind: str, draw: random.Random) -> tuple[str, ...] | None:
    """Make one fault of a kind in the tree; returns the words one of which the error must name, or None where the tree has no place for it."""
    found = [(at, value) for at, value in places(tree) if at and "prompts" not in at]
    free = ("weights", "max_epochs", "sources", "side")  # mappings with names of the user's own
    keys = [at for at, _ in found if isinstance(at[-1], str) and at[-1] != "name" and (len(at) < 2 or at[-2] not in free)]
    match kind:
        case "misspelt key":
            at = draw.choice(keys)
            holder = tree
            for key in at[:-1]:
                holder = holder[key]
            new = misspelt(at[-1], draw)
            holder[new] = holder.pop(at[-1])
            return new, at[-1]
        case "misspelt part":
            slots = (
                "train",
                "tokenizer",
                "pack",
                "embedding",
                "encoder",
                "mixer",
                "feedforward",
                "norm",
                "block",
                "objective",
                "init",
                "optimizer",
                "layout",
                "position",
            )
            at, value = draw.choice(
                [
                    (at, value)
                    for at, value in found
                    if isinstance(value, str) and (at[-1] in slots or (at[-1] == "name" and at[-2:-1] and at[-2] in slots))
                ]
            )
            put(tree, at, misspelt(value, draw))
            return (misspelt_free(at),)
        case "wrong type":
            numbers = [
                (at, value) for at, value in found if isinstance(value, int | float) and not isinstance(value, bool) and "weights" not in at
            ]
            at, _ = draw.choice(numbers)
            put(tree, at, draw.choice(["many", [1], {"a": 1}, True, float("nan")]))
            return (misspelt_free(at),)
        case "no unit":
            at = draw.choice([at for at, _ in found if at[-1] in ("budget", "batch")])
            put(tree, at, draw.choice([12, "12", "12 apples", "tokens", "-3 tokens", [3]]))
            return (at[-1],)
        case "left out":
            at = draw.choice(
                [
                    at
                    for at, _ in found
                    if at[-1]
                    in ("budget", "batch", "optimizer", "width", "encoder", "objective", "embedding", "train", "depth", "heads", "lr")
                    and "schedule" not in at
                ]
            )
            holder = tree
            for key in at[:-1]:
                holder = holder[key]
            del holder[at[-1]]
            return (at[-1],)
        case "heads":
            at = next(at for at, value in found if at[-1] == "heads")
            put(tree, at, tree["model"]["width"] + 1 - draw.randrange(2) * 2)
            return ("heads",)
        case "missing file":
            part, knob = draw.choice([("text_files", "paths"), ("jsonl", "paths"), ("parquet", "paths")])
            tree["data"]["train"] = {"name": part, knob: [f"lost-{draw.random()}"]}
            return ("paths",)
        case "missing tokenizer":
            tree["data"]["tokenizer"] = {"name": "pretrained", "path": "lost"}
            return ("data.tokenizer",)
        case "out of range":
            at = draw.choice([at for at, _ in found if at[-1] in ("width", "depth", "heads", "sequence", "lr", "holdout", "rows")])
            put(tree, at, draw.choice([-1, -0.5]))
            return (at[-1],)
        case "batch below a row":
            put(tree, ("stages", 0, "batch"), "1 tokens")
            return ("batch",)
        case "schedule of nothing":
            tree["stages"][0]["schedule"] = {misspelt("weight_decay", draw): "cosine"}
            return ("stages.0.schedule",)
    raise AssertionError(kind)


def misspelt_free(at: tuple[Any, ...]) -> str:
    return next(str(key) for key in reversed(at) if isinstance(key, str) and key != "name")


KINDS = (
    "misspelt key",
    "misspelt part",
    "wrong type",
    "no unit",
    "left out",
    "heads",
    "missing file",
    "missing tokenizer",
    "out of range",
    "batch below a row",
    "schedule of nothing",
)


TEXT_RECIPES = [path for path in RECIPES if path.parent.name in ("text", "data", "schedule", "init", "layout")]


def test_two_hundred_faults_in_shipped_recipes(ingot: Any, corpus: Path) -> None:
    draw = random.Random(20240607)
    missed, slow, unnamed = [], [], []
    for number in range(200):
        kind = KINDS[number % len(KINDS)]
        source = draw.choice(TEXT_RECIPES)
        tree = copy.deepcopy(load(source, tiny=draw.random() < 0.5).tree)
        words = mutate(tree, kind, draw)
        assert words is not None
        path = corpus / "mutated.yaml"
        path.write_text(dump(tree), encoding="utf-8")
        began = time.process_time()
        status, _, err = ingot("check", path, "--static")
        if time.process_time() - began > 5:
            slow.append((source.name, kind))
        if status != 2:
            missed.append((source.name, kind, words, status, err))
        elif not any(word in err for word in words) or "mutated.yaml:" not in err or "internal error" in err:
            unnamed.append((source.name, kind, words, err))
    assert not slow and not unnamed, (slow, unnamed)
    assert len(missed) <= 2, missed


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_shipped_recipe_is_refused(ingot: Any, corpus: Path, path: Path) -> None:
    for tiny in ((), ("--tiny",)):
        status, _, err = ingot("check", path, "--static", *tiny)
        # Data, tokenizers and reference runs that a recipe names are the user's to bring.
        theirs = re.compile(r"no such file or directory|no such tokenizer file|no run at|^\s*\d+ errors?[.;]")
        wrong = [line for line in err.splitlines() if not theirs.search(line)]
        assert status == 0 or not wrong, err


TREES = [load(path, tiny=tiny).tree for path in RECIPES for tiny in (False, True)]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["adamw", "bpe", "cosine", "5%", "1e400 tokens", "0 steps", "3 tokens", "1e99 rows", "2 h audio", "3 epochs", "²"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=9), st.sampled_from(["name", "lr", "budget"])), inner, max_size=3),
    ),
    max_leaves=6,
)


def survives(tree: dict[str, Any]) -> None:
    try:
        _, problems = check(Recipe(tree), Path.cwd())
    except UserError as error:
        problems = error.problems
    for problem in problems:
        assert str(problem).splitlines()[0].isprintable() and len(str(problem)) < 5000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_any_change_of_a_real_recipe_gives_problems_and_nothing_else(data: st.DataObject) -> None:
    tree = copy.deepcopy(data.draw(st.sampled_from(TREES)))
    for _ in range(data.draw(st.integers(1, 4))):
        found = [at for at, _ in places(tree) if at]
        if not found:
            break
        at = data.draw(st.sampled_from(found))
        match data.draw(st.integers(0, 4)):
            case 0:
                holder = tree
                for key in at[:-1]:
                    holder = holder[key]
                del holder[at[-1]]
            case 1:
                source = data.draw(st.sampled_from(TREES))
                put(tree, at, copy.deepcopy(data.draw(st.sampled_from([value for _, value in places(source)]))))
            case _:
                put(tree, at, data.draw(VALUES))
    survives(tree)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    tree=st.dictionaries(
        st.one_of(st.text(max_size=9), st.integers(), st.sampled_from(["name", "data", "model", "stages", "evaluate", "layout"])),
        VALUES,
        max_size=5,
    )
)
def test_any_tree_gives_problems_and_nothing_else(tree: dict[Any, Any]) -> None:
    survives(tree)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_damage_to_the_text_of_a_recipe_gives_problems_and_nothing_else(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([path.read_text(encoding="utf-8") for path in RECIPES]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(
                st.one_of(
                    st.text(max_size=4),
                    st.sampled_from(["{", "]", ": ", "\n", "  ", "&a ", "*a ", "!!x ", "- ", "%", "'", '"', "? ", "|\n"]),
                )
            )
            + text[at + data.draw(st.integers(0, 9)) :]
        )
    try:
        tree = parse(text, "r.yaml").tree
    except UserError as error:
        assert str(error).splitlines()[0].isprintable()
        return
    survives(tree)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    items=st.lists(
        st.one_of(
            st.text(max_size=30),
            st.builds(
                "{}={}".format,
                st.sampled_from(["model.width", "stages.0", "stages.0.batch", "data", "name", "x.y.z", "stages.1.lr", ".", "data..x"]),
                st.text(max_size=12),
            ),
        ),
        max_size=3,
    )
)
def test_any_override_gives_problems_and_nothing_else(items: list[str]) -> None:
    try:
        recipe = load(RECIPES[0], items)
    except UserError as error:
        assert all(line.isprintable() for line in str(error).splitlines())
        return
    survives(recipe.tree)
