"""The entrance: help, unknown commands, errors as lines with their exit status."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ingot.cli import GROUPS, _dispatch, commands, main, page
from ingot.cli._output import Output
from ingot.core.errors import Problem, RunError, UserError
from ingot.core.version import installed_version

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_command_in_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in commands():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {name} ")]
        assert 30 < len(line) <= 100, line


def test_a_near_name_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_a_near_option_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "x.yaml", "--tinny"]) == 2
    error = capsys.readouterr().err
    assert "no option '--tinny'. Did you mean '--tiny'?" in error and len(error.splitlines()) == 2


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"$ ingot {name}" in shown and "--json" in shown


def broken(error: BaseException) -> ModuleType:
    module = ModuleType("broken", "Broken.")
    module.configure = lambda parser: None  # type: ignore[attr-defined]

    def run(arguments: Any, output: Any) -> int:
        raise error

    module.run = run  # type: ignore[attr-defined]
    module.STARTS = True  # type: ignore[attr-defined]
    return module


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda error: monkeypatch.setattr(_dispatch.importlib, "import_module", lambda *names: broken(error))


def test_every_problem_is_a_line(raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
    raising(UserError([Problem("a.b", "is wrong", "x.yaml:3"), Problem("", "so is this")]))
    assert _dispatch.dispatch("check", []) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["x.yaml:3  a.b: is wrong", "so is this", "2 errors; nothing was started."] and captured.out == ""


def test_problems_as_json(raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
    raising(UserError([Problem("a.b", "is wrong", "x.yaml:3")]))
    assert _dispatch.dispatch("check", ["--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"errors": [{"where": "a.b", "message": "is wrong", "origin": "x.yaml:3"}]}


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RunError("the disk is full"), 1, "the disk is full"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_other_ends_are_one_line(error: BaseException, status: int, line: str, raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
    raising(error)
    assert _dispatch.dispatch("check", []) == status
    assert capsys.readouterr().err.strip() == line


def test_a_bug_names_where_its_traceback_is(
    raising: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_dispatch.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("INGOT_DEBUG", raising=False)
    raising(KeyError("lost"))
    assert _dispatch.dispatch("check", []) == 1
    error = capsys.readouterr().err
    (written,) = tmp_path.glob("ingot-*.txt")
    assert "internal error: KeyError: 'lost'" in error and str(written) in error and "Traceback" not in error
    assert "Traceback" in written.read_text()
    monkeypatch.setenv("INGOT_DEBUG", "1")
    with pytest.raises(KeyError):
        _dispatch.dispatch("check", [])


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f'"{sys.executable}" -m ingot parts | head -n 1; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""


def test_other_ranks_say_only_what_is_wrong_and_who_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["check", "missing.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("rank 1: ") and captured.err.count("\n") == 1
    assert main(["check", "text/gpt_tiny", "--static"]) == 0
    assert capsys.readouterr() == ("", "")


def test_help_of_a_command_is_the_commands_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "train"]) == 0
    assert capsys.readouterr().out.startswith("usage: ingot train")
    assert main(["help"]) == 0 and capsys.readouterr().out == page() + "\n"
    assert main(["help", "trian"]) == 2 and "Did you mean 'train'?" in capsys.readouterr().err


def test_an_answer_is_json_whatever_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=True)
    output.result({"loss": math.nan, "ends": [math.inf, -math.inf], "path": Path("a"), "kept": 0.5})
    output.finish()
    answer = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert answer == {"loss": None, "ends": [None, None], "path": "a", "kept": 0.5}


def test_a_dash_ends_no_command_where_the_locale_is_ascii() -> None:
    code = "import sys; from ingot.cli import main; main(['--version']); print('3 – 5')"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.splitlines()[-1] == "3 \\u2013 5", result.stderr


def test_every_command_has_its_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(commands()) and "\nothers:" not in page()


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ingot {installed_version()}\n"


def test_the_page_has_no_holes() -> None:
    assert "  None" not in page() and page().count("\n\n\n") == 0


def test_waiting_threads_let_other_programs_run() -> None:
    """Set before torch loads; a user's own choice stays."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"import os, sys; from ingot.cli import main; assert 'torch' not in sys.modules; main(['parts', 'optim/adamw']); print(*map(os.environ.get, {names}))"
    clean = {name: value for name, value in os.environ.items() if name not in names} | {"PYTHONPATH": str(ROOT / "src")}
    given = dict.fromkeys(names[1:], "7")
    for chosen, wanted in (({}, "PASSIVE 2000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"), (given, "PASSIVE 7")):
        result = subprocess.run([sys.executable, "-c", code], env=clean | chosen, capture_output=True, text=True, timeout=60)
        assert result.stdout.splitlines()[-1:] == [wanted], result.stderr
