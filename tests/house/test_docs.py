"""Documentation is executed: every ``console``, ``bash`` and ``python`` block of the README and of docs/.

The blocks of a page run in order in one temporary folder that holds ``recipes/``. In a ``console`` block lines after ``$ `` are
commands, what follows is their output, compared word by word; ``...`` stands for anything. A command may end in another status than
0 where the line says so: ``# exit status 2``. Blocks in ``sh`` are commands for the checkout itself; their make targets must exist.
Commands that are only named, in the prose or in a ``text`` block, are not run; they must be ones that ``ingot`` would take.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from _warm import server

from ingot.cli import commands as all_commands
from ingot.cli import main
from ingot.cli._dispatch import parser_of
from ingot.core import shipped

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]  # not executed: what they show takes long
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """(language, text, line number) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in FENCE.finditer(text)]


def matches(shown: str, real: str) -> bool:
    """Whether the output is as shown, spaces aside, with ``...`` for anything."""
    pieces = [re.escape(" ".join(piece.split())) for piece in shown.split("...")]
    return (
        re.fullmatch(r"\s*" + r"[\s\S]*?".join(piece.replace(r"\ ", r"\s+") for piece in pieces) + r"\s*", " ".join(real.split()))
        is not None
    )


def commands(text: str) -> list[tuple[str, str]]:
    """(command, output shown) of a console block; a backslash goes on in the next line."""
    found: list[tuple[str, str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This checkout's ``ingot``."""
    with server(tmp_path_factory.mktemp("bin"), os.environ | ENVIRONMENT) as place:
        yield place


@pytest.fixture
def shell(tmp_path: Path, program: Path) -> dict[str, str]:
    """An environment in which ``ingot`` is this checkout's, and a folder with its recipes."""
    shutil.copytree(ROOT / "recipes", tmp_path / "work" / "recipes")
    return os.environ | ENVIRONMENT | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def execute(command: str, shell: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        env=shell,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    folder = tmp_path / "work"
    for language, text, line in blocks(page):
        where = f"{page.name}:{line}"
        if language == "console":
            for command, shown in commands(text):
                wanted = int(found[1]) if (found := re.search(r"# exit status (\d+)", command)) else 0
                result = execute(command, shell, folder)
                assert result.returncode == wanted, f"{where}: {command}\n{result.stdout}"
                if shown.strip():
                    assert matches(shown, result.stdout), f"{where}: {command}\nshown:\n{shown}\nreal:\n{result.stdout}"
        elif language == "bash":
            result = execute(text, shell, folder)
            assert result.returncode == 0, f"{where}:\n{result.stdout}"
        elif language == "python":
            (folder / "block.py").write_text(text)
            result = execute(f'"{sys.executable}" block.py', shell, folder)
            assert result.returncode == 0, f"{where}:\n{result.stdout}"


def named(page: Path) -> list[tuple[int, str]]:
    """(line number, words after ``ingot``) of the commands that a page names without running them."""
    text = page.read_text(encoding="utf-8")
    prose = FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    found = [(prose.count("\n", 0, match.start()) + 1, match[1]) for match in re.finditer(r"`ingot ([^`]+)`", prose)]
    for language, block, line in blocks(page):
        if language in ("text", "sh"):
            shown = block.replace("\\\n", " ").splitlines()
            found += [(line, match[1]) for one in shown if (match := re.match(r"(?:\$ )?(?:torchrun .* -m )?ingot (.+)", one))]
    return found


def complaint(command: str) -> str:
    """What is wrong with the words after ``ingot``, or nothing. Words in capitals or angle brackets stand for others; a recipe that is
    not in recipes/ is the reader's own."""
    name, *rest = shlex.split(command, comments=True)
    if name not in all_commands():
        return f"there is no command {name!r}"
    if not rest or "<" in command:
        return ""
    module = importlib.import_module(f"ingot.cli.{name.replace('-', '_')}")
    try:
        arguments = parser_of(name, module).parse_intermixed_args(rest)
    except SystemExit:
        return "its arguments do not parse"
    if name == "parts":
        with tempfile.TemporaryDirectory() as place, chdir(place):  # it may write pages
            return "" if main(["parts", *rest]) == 0 else "it is refused"
    recipe = getattr(arguments, "recipe", None) or "x.yaml"
    if not recipe.isupper() and shipped.find(Path(recipe)) is None and (recipe.startswith("recipes/") or not recipe.endswith(".yaml")):
        return f"there is no recipe {recipe}"
    wrong = [item for item in getattr(arguments, "overrides", []) if "=" not in item]
    return f"{wrong[0]!r} is no key=value" if wrong else ""


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_named_would_be_taken(page: Path) -> None:
    found = [f"{page.name}:{line}: ingot {command}: {why}" for line, command in named(page) if (why := complaint(command))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("show data.source series_csv", "no recipe"),
        ("show text/gpt_tiny series_csv", "no key=value"),
        ("trian text/gpt_tiny", "no command"),
        ("train text/gpt_tiny --tinny", "do not parse"),
        ("train recipes/text/gone.yaml", "no recipe"),
        ("parts data.source/gone", "refused"),
        ("parts data.source/series_csv", ""),
        ("train mine.yaml --tiny model.width=8  # a comment", ""),
        ("check RECIPE", ""),
    ],
)
def test_what_is_wrong_with_a_command_is_found(command: str, why: str) -> None:
    assert (why in complaint(command)) if why else complaint(command) == ""


def test_the_readme_leads_to_every_page() -> None:
    links = set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} - links == set()


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(text for language, text, _ in blocks(page) if language == "sh"))) <= targets


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_matching_is_by_words() -> None:
    assert matches("a  b\n...\nz", "a b\nwhatever\nelse\nz\n") and not matches("a b", "a c") and not matches("a", "a b")
