"""What the command line can do, from Python: shipped recipes by name, overrides, any tokenizer, export and report."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tokenizers

import ingot
from ingot.build.grow import transform
from ingot.build.run import open_run
from ingot.core import shipped
from ingot.core.errors import UserError
from ingot.core.recipe import load
from ingot.core.resolve import spec

TEXT = "the of and a to in"


def live() -> tokenizers.Tokenizer:
    """A tokenizer of the library, with an end token of its own name."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([TEXT] * 9, trainer)
    return inner


def own() -> Any:
    return spec("data.tokenizer", "bpe", vocabulary=290).build(texts=lambda: iter([TEXT] * 9))


def of_transformers() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=live(), eos_token="<|endoftext|>")


@pytest.mark.parametrize("make", [live, own, of_transformers])
def test_a_live_tokenizer_becomes_the_runs(tiny_recipe: Any, make: Any) -> None:
    """The run encodes as it does, is resumed with an equal one, refused with another, and opened without any."""
    given = make()
    wanted = (
        given.encode([TEXT])[0].tolist()
        if hasattr(given, "identity")
        else given.encode(TEXT).ids
        if hasattr(given, "to_str")
        else given(TEXT)["input_ids"]
    )
    run = ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}}), tokenizer=given)
    run.train()
    assert run.tokenizer.encode([TEXT])[0].tolist() == wanted and run.vocabulary == run.tokenizer.vocabulary >= 257
    assert open_run("runs/tiny").tokenizer.encode([TEXT])[0].tolist() == wanted
    assert ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}}), tokenizer=make()).train()["step"] == 2
    with pytest.raises(UserError, match=r"data\.tokenizer"):
        ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}}))


def test_a_tokenizer_by_name_knobs_and_path(tiny_recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    live().save(str(tmp_path / "kept" / "tokenizer.json"))
    for given, vocabulary in (
        ("bytes", None),
        ({"name": "bpe", "vocabulary": 300}, 300),
        (spec("data.tokenizer", "bpe", vocabulary=310), 310),
        (tmp_path / "kept", live().get_vocab_size()),
    ):
        run = ingot.build(tiny_recipe({"data": {"tokenizer": {"name": "bpe", "vocabulary": 280}}}), tokenizer=given)
        assert run.vocabulary == (vocabulary or run.tokenizer.vocabulary) and run.vocabulary != 280
    for given in (3, object()):
        with pytest.raises(UserError, match=r"wants a part of data\.tokenizer, a path, or a tokenizer that can be saved"):
            ingot.build(tiny_recipe(), tokenizer=given)


def test_export_and_report(tiny_recipe: Any, tmp_path: Path) -> None:
    recipe = tiny_recipe({"model": {"encoder": {"feedforward": "swiglu"}}, "stages": {0: {"budget": "2 steps"}}})
    ingot.build(recipe).train()
    run = open_run("runs/tiny")
    assert run.export(tmp_path / "out") == "llama" and json.loads((tmp_path / "out" / "config.json").read_text())["hidden_size"] == 32
    assert run.report().read_text(encoding="utf-8").startswith("<!")
    assert run.plan()["stages"][0]["forecast"]["peak"] > 0
    with pytest.raises(UserError, match="holds a model already"):
        run.export(tmp_path / "out")


@pytest.mark.parametrize("name", ["text/gpt_tiny", "text/gpt_tiny.yaml", "recipes/text/gpt_tiny.yaml"])
def test_a_shipped_recipe_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(name, tiny=True).tree["name"] == "gpt_tiny"
    assert ingot.build(name, ["stages.0.budget=7 steps"], tiny=True).section.stages[0].budget.value == 7


def test_a_file_goes_before_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    Path("text/gpt_tiny.yaml").write_text("{name: mine}")
    assert load("text/gpt_tiny.yaml").tree == {"name": "mine"}
    Path("child.yaml").write_text("based_on: text/gpt_small.yaml\nseed: 3")
    assert (
        load("child.yaml").tree["seed"] == 3
        and load("child.yaml").tree["name"] == "child"
        and load("child.yaml").tree["model"]["width"] == 768
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text/gpt_tny", "Did you mean the shipped recipe 'text/gpt_tiny'"),
        ("gpt_tiny.yaml", "'text/gpt_tiny'"),
        ("../text/gpt_tiny", "no recipe file"),
        ("text/qqq", "no recipe file at text/qqq$"),
    ],
)
def test_a_name_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        load(name)


def test_the_wheel_holds_every_recipe_and_works_without_a_checkout(tmp_path: Path, repository: Path) -> None:
    """Built as ``pip wheel`` builds it, unpacked, and used from an empty folder."""
    pytest.importorskip("setuptools", minversion="77")
    import shutil

    copy = tmp_path / "copy"
    for name in ("src/ingot", "recipes"):
        shutil.copytree(repository / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(repository / name, copy / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, capture_output=True, text=True, timeout=280)
    wheels = list(tmp_path.glob("*.whl"))
    assert done.returncode == 0 and len(wheels) == 1, done.stderr[-2000:]
    with zipfile.ZipFile(wheels[0]) as archive:
        held = {
            name.removeprefix("ingot/recipes/").removesuffix(".yaml") for name in archive.namelist() if name.startswith("ingot/recipes/")
        }
        assert held == set(shipped.names())
        archive.extractall(tmp_path / "site")
    shutil.rmtree(copy)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-m", "ingot", "show", "text/gpt_tiny", "--tiny"],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "name: gpt_tiny" in done.stdout, done.stderr


def test_a_recipe_that_is_built_stays_as_it_is(tiny_recipe: Any) -> None:
    """So that it can be built again, with another tokenizer or none."""
    recipe = tiny_recipe()
    before = copy.deepcopy(recipe)
    ingot.build(recipe, tokenizer={"name": "bpe", "vocabulary": 300})
    assert recipe == before


def test_a_run_is_transformed_by_names_as_a_recipe_has_them(tiny_recipe: Any) -> None:
    ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}})).train()
    made = transform("runs/tiny", ["widen", {"name": "stack", "factor": 3}], "runs/large")
    graph = open_run(made["run"]).graph
    assert (graph.width, graph.encoder.knobs["depth"]) == (64, 6)
    with pytest.raises(UserError, match="no part named 'stak'"):
        ingot.transform("runs/tiny", ["stak"], "runs/other")  # the parts of the package are loaded by now, which hides no function
