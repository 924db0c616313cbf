"""Documentation is executed: every ``console``, ``bash`` and ``python`` block of the README and of docs/.

The blocks of a page run in order in one temporary folder that holds ``recipes/``. In a ``console`` block lines after ``$ `` are
commands, what follows is their output, compared word by word; ``...`` stands for anything. A command may end in another status than
0 where the line says so: ``# exit status 2``. Blocks in ``sh`` are commands for the checkout itself; their make targets must exist.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``ingot`` is this checkout's."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "ingot"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ingot "$@"\n')
    script.chmod(0o755)
    shutil.copytree(ROOT / "recipes", tmp_path / "work" / "recipes")
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }


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


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(text for language, text, _ in blocks(page) if language == "sh"))) <= targets


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_matching_is_by_words() -> None:
    assert matches("a  b\n...\nz", "a b\nwhatever\nelse\nz\n") and not matches("a b", "a c") and not matches("a", "a b")
