"""Which way imports may run: every import of the tree, those for type checkers included, against the table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "ingot"
ALL = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "ops": set(),
    "schedule": {"core"},
    "data": {"core"},
    "nn": {"core", "ops"},
    "model": {"core", "nn"},
    "objective": {"core", "ops", "nn"},
    "optim": {"core", "ops"},
    "parallel": {"core"},
    "transform": {"core", "nn"},
    "hook": {"core"},
    "ledger": {"core"},
    "train": {"core", "ledger"},
    "evaluate": {"core"},
    "scaling": {"core", "ledger"},  # reads what the ledger wrote
    "convert": {"core"},
    "report": {"core", "ledger"},  # reads what the ledger wrote
    "build": set(),
    "race": {"core", "evaluate", "scaling", "build", "ledger", "report"},  # reads what its runs wrote, draws as their reports do
    "cli": set(),
}
MAY_IMPORT["build"] = MAY_IMPORT.keys() - {"race", "cli"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)


def folders_imported(path: Path) -> set[tuple[int, str]]:
    """(line, top folder of ingot) of every import in a file."""
    package = ("ingot", *path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            targets = [(*module, alias.name) for alias in node.names] if module == ("ingot",) else [module]
        elif isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        found |= {(node.lineno, target[1]) for target in targets if target[0] == "ingot" and len(target) > 1}
    return found


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_folder_is_in_the_table() -> None:
    assert ALL - MAY_IMPORT.keys() == set()


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != SOURCE], ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows(path: Path) -> None:
    folder = path.relative_to(SOURCE).parts[0]
    wrong = [
        f"line {line}: {folder} imports {target}"
        for line, target in sorted(folders_imported(path))
        if target != folder and target not in MAY_IMPORT[folder]
    ]
    assert not wrong, f"{path.relative_to(SOURCE)}: " + "; ".join(wrong)


def test_an_arrow_for_type_checkers_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "core").mkdir()
    file = tmp_path / "core" / "wrong.py"
    file.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..train.loop import Loop\nimport ingot.cli\n")
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    assert folders_imported(file) == {(3, "train"), (4, "cli")}
