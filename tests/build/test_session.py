"""What a run writes down of the code it was made with; that a folder has one trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.build.session import commit
from ingot.core.errors import RunError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of one commit, with a file in every place that matters here."""
    for name in ("src/ingot/a.py", "recipes/a.yaml", "races/a.yaml", "ladders/a.yaml", "benchmarks/a.py", "results/a.json", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_a_clean_checkout_has_no_plus(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert commit(checkout) == head[:12]
    assert commit(tmp_path_factory.mktemp("elsewhere")) is None


@pytest.mark.parametrize("name", ["results/a.json", "results/new.json", "README.md", "benchmarks/results/new.json", "claims/new.html"])
def test_pages_and_results_do_not_make_it_another_code(checkout: Path, name: str) -> None:
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("two\n")
    assert "+" not in str(commit(checkout))


@pytest.mark.parametrize(
    "name", ["src/ingot/a.py", "src/ingot/new.py", "recipes/new.yaml", "races/a.yaml", "ladders/a.yaml", "benchmarks/a.py"]
)
def test_what_decides_results_does(checkout: Path, name: str) -> None:
    (checkout / name).write_text("two\n")
    assert str(commit(checkout)).endswith("+")


def test_a_second_process_does_not_train_in_the_same_folder(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe())
    words = (
        "import sys\nfrom pathlib import Path\nfrom ingot.core.locks import alone_in\n"
        "with alone_in(Path(sys.argv[1]), ''):\n    print()\n    sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-uc", words, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None and other.stdout is not None
    try:
        other.stdout.readline()
        with pytest.raises(RunError, match="another process trains in"):
            run.train()
        assert not list(run.folder.iterdir())
    finally:
        other.kill()  # whatever ends it, it holds nothing any more
        other.communicate()
    assert run.train()["step"] == 12
