"""Fixtures shared by every test: the optional folder of real data, quiet and single-threaded torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(Path(__file__).resolve().parent))  # modules that tests of several folders import: _runs, _forked, _changed, _small


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it skip without it."""
    for folder in (os.environ.get("INGOT_TEST_DATA"), REPOSITORY.parent / "shared" / "data"):
        if folder and (Path(folder) / "README.md").is_file():
            return Path(folder)
    pytest.skip("no folder of real data (set INGOT_TEST_DATA)")


@pytest.fixture
def any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's speed does not matter, so little time is spent on measuring it."""
    import ingot.ledger.machine

    monkeypatch.setattr(ingot.ledger.machine, "ROWS", 64)
    monkeypatch.setattr(ingot.ledger.machine, "WIDTH", 64)


def write_corpus(folder: Path, documents: int = 40, seed: int = 0) -> Path:
    """Text files of seeded words; enough structure for a loss to fall."""
    import random

    from _small import WORDS

    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        start = draw.randrange(len(WORDS))
        text = " ".join(WORDS[(start + draw.choice((1, 1, 1, 2)) * step) % len(WORDS)] for step in range(draw.randrange(30, 90)))
        (folder / f"{number:03}.txt").write_text(text + ".\n", encoding="utf-8")
    return folder


@pytest.fixture()
def tiny_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a small, fast, fp32 recipe over two text sources; keyword arguments are overrides (dots as __)."""
    from ingot.core.recipe import Recipe, merge_keys

    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("left", "right")):
        write_corpus(tmp_path / name, seed=index)

    def make(*overrides: dict, name: str = "tiny"):
        tree = {
            "name": name,
            "precision": "fp32",
            "compile": False,
            "micro_rows": 4,
            "data": {
                "train": {
                    "name": "mixture",
                    "sources": {side: {"name": "text_files", "paths": [side]} for side in ("left", "right")},
                    "weights": {"left": 0.7, "right": 0.3},
                },
                "holdout": 0.2,
                "tokenizer": "bytes",
                "sequence": 32,
            },
            "model": {
                "width": 32,
                "embedding": "token",
                "objective": "causal_lm",
                "encoder": {
                    "name": "transformer",
                    "depth": 2,
                    "mixer": {"name": "attention", "heads": 2},
                    "feedforward": "relu2",
                    "norm": "rms",
                },
            },
            "stages": [
                {
                    "budget": "12 steps",
                    "batch": "8 rows",
                    "optimizer": {"name": "adamw", "lr": 0.003},
                    "schedule": {"lr": {"name": "cosine"}},
                    "hooks": ["clip"],
                }
            ],
            "evaluate": {"every": "50%", "rows": 8, "batch_rows": 4},
            "checkpoint": {"every": "3 steps", "keep_last": 3},
            "log": {"tensorboard": False},
        }
        for patch in overrides:
            tree = merge_keys(tree, patch)
        return Recipe(tree)

    return make
