"""The command line: one command per file; nothing is imported before it is needed, so that help answers at once.

A command module has a docstring whose first line is its summary and whose ``$ ingot ...`` lines are its examples, and two functions:

    configure(parser)        adds its arguments
    run(arguments, output)   does the work through `output` and returns the exit status: 0 done, 1 failed, 2 the input was wrong

Files that start with an underscore are not commands.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from pathlib import Path

from ..core.waiting import wait_briefly

FOLDER = Path(__file__).parent
GROUPS = {
    "before a run": ("check", "plan", "prepare", "parts", "show"),
    "a run": ("train", "extend", "evaluate", "generate", "report"),
    "checkpoints": ("transform", "import", "export", "lineage"),
    "trust": ("verify-resume", "parity", "rows"),
    "which method pays": ("race", "claim"),
    "what more would buy": ("ladder", "fit", "predict"),
}


def commands() -> dict[str, Path]:
    """Every command by name: its file, not imported."""
    files = {path.stem.replace("_", "-"): path for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    return dict(sorted(files.items()))


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["help"] and len(argv) > 1:
        argv = [argv[1], "--help"]
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is: no dash may end a command where the locale is ASCII
    wait_briefly(os.environ)
    if argv and argv[0] in commands():
        from ._dispatch import dispatch

        return dispatch(argv[0], argv[1:])
    return overview(argv)


def overview(argv: list[str]) -> int:
    """The help page, the version, or the answer to a command that does not exist."""
    if argv and argv[0] in ("--version", "-V"):
        from ..core.version import installed_version

        print(f"ingot {installed_version()}")
        return 0
    if argv and argv[0] not in ("--help", "-h", "help"):
        from difflib import get_close_matches

        near = get_close_matches(argv[0], commands(), n=1)
        print(f"no command {argv[0]!r}. " + (f"Did you mean {near[0]!r}?" if near else "'ingot --help' lists them."), file=sys.stderr)
        return 2
    print(page())
    return 0


def page() -> str:
    """All commands with their summaries, in the order in which a run meets them."""
    found = commands()
    listed = {name for names in GROUPS.values() for name in names}
    others = tuple(name for name in found if name not in listed)
    lines = ["usage: ingot COMMAND ...", "", "Pre-training under a budget: a recipe declares a run."]
    for title, names in (*GROUPS.items(), ("others", others)):
        present = [name for name in names if name in found]
        lines += ["", f"{title}:"] * bool(present) + [f"  {name:<15}{summary(found[name])}" for name in present]
    lines += ["", "Try: ingot train recipes/text/gpt_tiny.yaml --tiny", "'ingot COMMAND --help' shows a command's options and examples."]
    return "\n".join(lines)


def summary(path: Path) -> str:
    """First line of a command's docstring, read without importing it."""
    import ast

    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0].rstrip(".")
