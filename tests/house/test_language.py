"""The repository speaks of the product alone: no paths of one machine, no addresses of package hosts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Written in pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of one machine": re.compile(
        r"(?<![\w.])/(?:" + "|".join(("wo" + "rk", "op" + "t", "ho" + "me/\\w+", "Us" + "ers/\\w+")) + r")/\w"
    ),
    "a package host": re.compile(
        "|".join(re.escape(host) for host in ("pypi" + ".org", "pytorch" + ".org/whl", "pythonhosted" + ".org", "conda" + ".anaconda.org"))
    ),
}


def files() -> list[Path]:
    """Every text file that belongs to the repository."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = (
        listed.stdout.splitlines()
        if listed.returncode == 0
        else [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    )
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_machine_paths_and_no_hosts() -> None:
    found = []
    for path in files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {what}"
            for number, line in enumerate(lines, 1)
            for what, pattern in FORBIDDEN.items()
            if pattern.search(line)
        ]
    assert not found, "\n".join(found)


def test_the_patterns_find_what_they_look_for() -> None:
    assert FORBIDDEN["a path of one machine"].search("cd " + "/wo" + "rk/main")
    assert FORBIDDEN["a package host"].search("https://" + "pypi" + ".org/simple")
    assert not FORBIDDEN["a path of one machine"].search("path/to/" + "work/x")
