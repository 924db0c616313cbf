"""Commands on a trained run: what they answer, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "text" / "gpt_tiny.yaml")
RUN = "runs/gpt_tiny"
Ask = Callable[..., dict[str, Any]]


def test_the_folder_has_what_a_run_leaves(place: Path) -> None:
    folder = place / RUN
    assert {"recipe.yaml", "run.json", "ledger.jsonl", "checkpoints"} <= {path.name for path in folder.iterdir()}
    kinds = [json.loads(line)["kind"] for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("step") == 20


def test_evaluate(ask: Ask) -> None:
    (result,) = ask("evaluate", RUN)["results"].values()
    assert 0 < result["loss"] < 7 and result["perplexity"] > 1
    (fewer,) = ask("evaluate", RUN, "--rows", "1")["results"].values()
    assert fewer["rows"] == 1


def test_evaluate_of_an_older_checkpoint_differs(ask: Ask, place: Path) -> None:
    oldest, *_, newest = sorted((place / RUN / "checkpoints").glob("step-*"))
    (before,), (after,) = (ask("evaluate", str(path.relative_to(place)), "--rows", "4")["results"].values() for path in (oldest, newest))
    assert before["loss"] > after["loss"]


def test_counts_are_shown_whole(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    capsys.readouterr()
    assert main(["evaluate", RUN, "--rows", "2"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "rows" and row.split()[-1] == "2" and "." in row.split()[1]


def test_generate_is_the_same_for_the_same_seed(ask: Ask) -> None:
    texts = [ask("generate", RUN, "def ", "--tokens", "12", "--seed", seed)["text"] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_generate_refuses_every_impossible_option_at_once(ask: Ask) -> None:
    errors = ask("generate", RUN, "--tokens", "0", "--top-p", "2", "--temperature", "-1", status=2)["errors"]
    assert [error["where"] for error in errors] == ["--tokens", "--temperature", "--top-p"]


@pytest.mark.parametrize("name", ["masked_diffusion", "multi_token"])
def test_generate_writes_in_the_way_of_the_objective(name: str, ask: Ask) -> None:
    import ingot
    from ingot.model.generate import generate

    recipe = str(ROOT / "recipes" / "text" / f"{name}.yaml")
    answer = ask("train", recipe, "--tiny", "compile=false", "precision=fp32", "stages.0.budget=2 steps")
    run = answer["run"]
    drawn = [ask("generate", run, "def ", "--tokens", "12", "--seed", seed)["text"] for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    likeliest = ask("generate", run, "def ", "--tokens", "12", "--temperature", "0")["text"]
    if name == "multi_token":
        found = ingot.open_run(run)
        ids = found.tokenizer.encode(["def "])[0].tolist()
        plain = list(generate(found.model, ids, max_new=12, temperature=0, end=found.tokenizer.end))
        assert likeliest == found.tokenizer.decode(plain)
        assert "passes" in ask("generate", run, "def ", "--passes", "2", status=2)["errors"][0]["message"]
    else:
        assert ask("generate", run, "def ", "--tokens", "12", "--passes", "2")["text"]


def test_report(ask: Ask, place: Path) -> None:
    answer = ask("report", RUN)
    assert answer["step"] == 20 and "<html" in (place / answer["page"]).read_text()


def test_lineage_of_a_run_and_of_its_child(ask: Ask) -> None:
    assert ask("lineage", RUN)["parents"] == []
    ask("train", RECIPE, "--tiny", "model.encoder.feedforward=swiglu", "--from", RUN, "name=child", "stages.0.budget=2 steps")
    (parent,) = ask("lineage", "runs/child")["parents"]
    assert parent["step"] == 20 and parent["path"].startswith(RUN)


@pytest.mark.parametrize(("where", "path"), [(".", "."), ("checkpoints", "step-00000020"), ("checkpoints/step-00000020", ".")])
def test_a_run_is_known_from_inside(where: str, path: str, ask: Ask, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / RUN / where)
    found = ask("lineage", path)
    assert Path(found["checkpoint"]).resolve() == place / RUN / "checkpoints" / "step-00000020" and found["progress"]["total_steps"] == 20
    assert ask("generate", path, "def ", "--tokens", "2")["run"] == path


def test_a_run_is_resumed_from_inside(ask: Ask, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.cli.train import runs_of
    from ingot.core.recipe import load

    monkeypatch.chdir(place / RUN)
    assert runs_of(load("recipe.yaml")).resolve() == place / "runs"
    monkeypatch.chdir(place)
    assert runs_of(load(f"{RUN}/recipe.yaml")) == Path("runs") == runs_of(load(RECIPE))


def test_lineage_takes_the_newest_checkpoint_that_is_made(place: Path, tmp_path: Path, ask: Ask) -> None:
    shutil.copytree(place / RUN, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000020"
    shutil.copytree(newest, newest.with_name("step-00000020.aside-x-1"))
    assert ask("lineage", str(tmp_path / "run"))["checkpoint"] == str(newest)


@pytest.mark.parametrize(("command", "price"), [("train", "-1"), ("train", "nan"), ("plan", "inf")])
def test_a_price_that_is_none_is_refused(command: str, price: str, ask: Ask) -> None:
    (error,) = ask(command, RECIPE, "--tiny", f"--price={price}", status=2)["errors"]
    assert error["where"] == "--price" and "at least 0" in error["message"]


def test_training_again_changes_nothing(ask: Ask, place: Path) -> None:
    ledger = place / RUN / "ledger.jsonl"
    before = [line for line in ledger.read_text().splitlines() if '"kind": "step"' in line]
    assert ask("train", RECIPE, "--tiny", "model.encoder.feedforward=swiglu")["step"] == 20
    assert [line for line in ledger.read_text().splitlines() if '"kind": "step"' in line] == before


def test_another_recipe_on_the_same_run_is_refused(ask: Ask) -> None:
    errors = ask("train", RECIPE, "--tiny", status=2)["errors"]
    assert any("model.encoder.feedforward" in error.get("hint", "") for error in errors)


@pytest.mark.parametrize("command", ["evaluate", "generate", "report", "lineage"])
def test_no_run_is_one_clear_line(command: str, ask: Ask) -> None:
    assert "nowhere" in ask(command, "runs/nowhere", status=2)["errors"][0]["message"]


def test_prepare(ask: Ask) -> None:
    stores = ask("prepare", RECIPE, "--tiny")["stores"]
    assert {store["use"] for store in stores} == {"train", "validation"} and all(store["rows"] > 0 for store in stores)


def test_export_computes_the_same(ask: Ask, place: Path) -> None:
    pytest.importorskip("transformers")
    answer = ask("export", RUN, "exported")
    assert answer["family"] == "llama" and answer["outputs_difference"] < 1e-4
    assert "exported holds a model" in ask("export", RUN, "exported", status=2)["errors"][0]["message"]
    imported = ask("import", "hf:exported", "runs/imported")
    assert imported["family"] == "llama"
    texts = [ask("generate", run, "def ", "--tokens", "8", "--temperature", "0")["text"] for run in (RUN, "runs/imported")]
    assert texts[0] == texts[1]


def test_show_and_check(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("show", RECIPE, "--tiny")["recipe"]["model"]["width"] == 32
    assert ask("check", RECIPE)["errors"] == []
    assert main(["check", RECIPE, "model.width=wide", "stages.0.budget=20"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "2 errors." and "model.width: wants a whole number above 0, got 'wide'" in lines[0] and "[command line]" in lines[0]


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ingot",
        "train",
        RECIPE,
        "--tiny",
        "compile=false",
        "stages.0.budget=5000 steps",
        "checkpoint.every=4000 steps",
        "evaluate.every=4000 steps",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ledger = tmp_path / RUN / "ledger.jsonl"
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not (ledger.exists() and '"kind": "step"' in ledger.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "To go on:" in error and "ingot train" in error and "Traceback" not in error
    saved = sorted((tmp_path / RUN / "checkpoints").glob("step-*"))[-1]
    steps = [json.loads(line)["step"] for line in ledger.read_text().splitlines() if '"kind": "step"' in line]
    assert saved.name == f"step-{steps[-1]:08d}" and steps[-1] < 5000


def test_two_ranks_speak_with_one_voice(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "ingot",
        "train",
        RECIPE,
        "--tiny",
        "stages.0.budget=3 steps",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("finished: 3 steps") == 1


def test_a_folder_that_is_no_run_gets_no_report(ask: Ask, place: Path) -> None:
    assert "runs is no run" in ask("report", "runs", status=2)["errors"][0]["message"]
    assert not (place / "runs" / "report.html").exists()


@pytest.mark.parametrize("command", [("check", "--static"), ("plan",)])
def test_looking_at_a_continuation_of_nothing_is_refused(command: tuple[str, ...], ask: Ask) -> None:
    errors = ask(*command, RECIPE, "--tiny", "--from", "runs/nonexistent", status=2)["errors"]
    assert "nothing to start from at runs/nonexistent" in errors[0]["message"]


def test_a_report_has_the_totals_of_steps_that_were_not_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """log.every 10 of 25 steps: the end wins over the last logged step, on the page and beside it."""
    run = tmp_path / "runs" / "sparse"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: sparse\n")
    lines = [
        {"kind": kind, "step": n, "tokens": 1000 * n, "flops": 1e6 * n, "seconds": n}
        for kind, n in (("step", 10), ("step", 20), ("end", 25))
    ]
    (run / "ledger.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 25000
    assert "<dd>25,000</dd><small>25 steps</small>" in (run / "report.html").read_text()
