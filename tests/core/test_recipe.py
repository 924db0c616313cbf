"""Recipe files: parents, overlays, overrides, line marks, and that nothing but data gets in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.errors import UserError
from ingot.core.recipe import difference, digest, dump, load, merge, parse


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_parent_overlay_and_overrides_apply_in_that_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="a: 1\nb: {name: x, k: 1}\nstages:\n  - {n: 1, m: 2}\ntiny: {a: 10}\n",
        child="based_on: base.yaml\nb: {k: 2}\ntiny: {stages: {0: {n: 5}}}\n",
    )
    assert load(tmp_path / "child.yaml").tree == {"a": 1, "b": {"name": "x", "k": 2}, "stages": [{"n": 1, "m": 2}], "name": "child"}
    tiny = load(tmp_path / "child.yaml", ["a=7", "stages.0.m=3", "c.d=1e-3"], tiny=True)
    assert load(tmp_path / "child.yaml", ["name=other"]).tree["stages"] == [{"n": 1, "m": 2}]
    assert tiny.tree == {"a": 7, "b": {"name": "x", "k": 2}, "stages": [{"n": 5, "m": 3}], "c": {"d": 1e-3}, "name": "child_tiny"}


def test_another_part_drops_the_knobs_of_the_old_one() -> None:
    assert merge({"name": "adamw", "lr": 1, "betas": 2}, {"name": "lion", "lr": 3}) == {"name": "lion", "lr": 3}
    assert merge("token", {"position": "learned"}) == {"name": "token", "position": "learned"}
    assert merge({"name": "adamw", "lr": 1}, "adamw") == {"name": "adamw", "lr": 1}
    assert merge({"name": "adamw", "lr": 1}, "lion") == "lion"


def test_marks_point_at_the_line_that_set_a_key(tmp_path: Path) -> None:
    write(tmp_path, base="a: 1\nb:\n  c: 2\n", child="based_on: base.yaml\n\nb: {d: 3}\n")
    recipe = load(tmp_path / "child.yaml")
    assert recipe.origin(("b", "c")) == "base.yaml:3"
    assert recipe.origin(("b", "d")) == "child.yaml:3"
    assert recipe.origin(("b", "nothing", "there")) == "child.yaml:3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not valid YAML"),
        ("a: 1\na: 2\n", "written twice"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: !!python/object:os.system x\n", "plain data"),
        ("- 1\n- 2\n", "mapping"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: \x01\n", "not valid YAML"),
        ("{[1]: 2}", "keys are words"),
        ("a: !!binary aGk=", "plain data"),
    ],
)
def test_malformed_files_are_one_line_with_a_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path / "r.yaml")
    assert str(caught.value).startswith("r.yaml")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    write(tmp_path, lost="based_on: nowhere.yaml\n", circle="based_on: circle.yaml\n", number="based_on: 3\n")
    for name, words in {
        "latin": "not UTF-8",
        "lost": "no recipe file at",
        "circle": "circle",
        "number": "file name",
        "missing": "no recipe file",
    }.items():
        with pytest.raises(UserError, match=words):
            load(tmp_path / f"{name}.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)


def test_overrides_that_name_no_place(tmp_path: Path) -> None:
    write(tmp_path, r="stages: [{a: 1}]\n")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "r.yaml", ["stages.3.a=1", "nonsense", "=4"])
    assert len(caught.value.problems) == 3


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_no_text_whatever_raises_anything_else(text: str) -> None:
    try:
        parse(text, "fuzz")
    except UserError as error:
        assert str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=2), json_values, max_size=4))
def test_merging_with_itself_or_nothing_changes_nothing(tree: dict) -> None:
    assert merge(tree, {}) == tree
    assert merge(tree, tree) == tree
    assert difference(tree, tree) == []
    assert digest(tree) == digest(dict(reversed(tree.items())))


def test_difference_names_each_leaf() -> None:
    assert difference({"a": {"b": 1}, "c": [1, 2]}, {"a": {"b": 2}, "c": [1, 3]}) == ["a.b: 1 -> 2", "c.1: 2 -> 3"]


def test_an_overlay_with_a_name_of_its_own_keeps_that_of_its_parent(tmp_path: Path) -> None:
    """The name in an overlay is a recipe's, as that beside it, and no part's: it replaces nothing, and is not handed down."""
    (tmp_path / "base.yaml").write_text("a: 1\ntiny: {name: small, a: 10, b: {c: 2}}\n")
    (tmp_path / "named.yaml").write_text("based_on: base.yaml\ntiny: {name: other, d: 3}\n")
    (tmp_path / "plain.yaml").write_text("based_on: base.yaml\ntiny: {d: 3}\n")
    found = {name: load(tmp_path / f"{name}.yaml", tiny=True).tree for name in ("base", "named", "plain")}
    assert found["base"] == {"a": 10, "b": {"c": 2}, "name": "small"}
    assert found["named"] == {"a": 10, "b": {"c": 2}, "d": 3, "name": "other"}
    assert found["plain"] == {"a": 10, "b": {"c": 2}, "d": 3, "name": "plain_tiny"}


def test_an_override_of_an_item_that_is_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("list: [x, y]\n")
    for key in ("list.2", "list.2.k", "list.name"):
        with pytest.raises(UserError, match=f"{key}: there is no item {key[5:6] if key[5].isdigit() else 'name'}, the list has 2"):
            load(tmp_path / "r.yaml", [f"{key}=1"])
    assert load(tmp_path / "r.yaml", ["list.1=z"]).tree["list"] == ["x", "z"]


def test_a_key_with_dots_is_found_by_an_override(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("stages:\n  - schedule: {lr: x, hooks.ema.decay: {name: linear, final: 1}}\n")
    path = "stages.0.schedule.hooks.ema.decay"
    (stage,) = load(tmp_path / "r.yaml", [f"{path}.final=2", "stages.0.schedule.lr=y", "stages.0.hooks.ema=3"]).tree["stages"]
    assert stage == {"schedule": {"lr": "y", "hooks.ema.decay": {"name": "linear", "final": 2}}, "hooks": {"ema": 3}}
    assert load(tmp_path / "r.yaml", [f"{path}=cosine"]).tree["stages"][0]["schedule"]["hooks.ema.decay"] == "cosine"


@pytest.mark.parametrize(
    "text", ["1e-3", "7e10", "1.5e3", ".5E3", "+2e5", "1e3x", "010", "1:30", "yes", "null", "2024-01-01", ".nan", "a: b"]
)
def test_text_that_looks_like_something_else_is_written_as_text(text: str) -> None:
    """A run named 1e-3 could not be resumed: its own recipe gave the name back as a number."""
    tree = {"name": text, "paths": [text], "knobs": {"lr": 1e-3, "large": 1e16, "count": 3, "on": True, "none": None}}
    assert parse(dump(tree), "recipe.yaml").tree == tree
