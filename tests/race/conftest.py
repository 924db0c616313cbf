"""A race so small that a trial takes a fraction of a second: two-layer models on a few seeded text files."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _small import WORDS, small_recipe

from ingot.race.spec import Race, read_race

BASE = small_recipe()
RACE = """
question: Does it matter?
baseline: {recipe: base.yaml}
contenders:
  other: {set: {model: {encoder: {feedforward: relu2}}}}
budget: 5120 tokens
seeds: 3
tuning: {trials: 1}
evaluations: 4
"""


def write_race(folder: Path, more: str = "", base: str = BASE) -> Path:
    """Corpus, base recipe and race file in a folder; `more` is YAML merged over the race, key by key."""
    import yaml

    from ingot.core.recipe import merge_keys

    draw = random.Random(0)
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for number in range(40):
        start = draw.randrange(len(WORDS))
        (folder / "corpus" / f"{number:02}.txt").write_text(
            " ".join(WORDS[(start + draw.choice((1, 1, 1, 2)) * step) % len(WORDS)] for step in range(60)) + ".\n"
        )
    (folder / "base.yaml").write_text(base)
    tree = merge_keys(yaml.safe_load(RACE), yaml.safe_load(textwrap.dedent(more)) or {})
    (folder / "race.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder / "race.yaml"


@pytest.fixture
def make_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Race]:
    """make_race(more, *overrides): the race read, with the working directory at its files."""
    monkeypatch.chdir(tmp_path)

    def make(more: str = "", *overrides: str, base: str = BASE) -> Race:
        return read_race(write_race(tmp_path, more, base), overrides)

    return make


@pytest.fixture
def invented() -> Callable[..., dict[str, Any]]:
    """invented(value, **more): a trial's result without a run."""

    def make(
        value: float | None,
        *,
        tokens: float = 5120.0,
        flops: float = 1e9,
        seconds: float = 2.0,
        processor: float | None = None,
        status: str = "done",
        memory: float = 1e6,
        curve: list[float] | None = None,
    ) -> dict[str, Any]:
        values = curve or [6.0, 5.0, 4.5, 4.2, value]
        share = [index / (len(values) - 1) for index in range(len(values))]
        spent = {"tokens": tokens, "flops": flops, "seconds": seconds, "reference_seconds": flops / 1e11, "rows": 160.0, "step": 20.0}
        if processor is not None:  # older results have none
            spent["cpu_seconds"] = processor
        return {
            "final": value,
            "metric": "bits_per_byte",
            "results": {},
            "status": status,
            "reason": "" if status == "done" else "step 3: loss is nan",
            "spent": spent,
            "stages": [],
            "curve": {"step": [round(20 * part) for part in share], "value": values}
            | {name: [part * spent[name] for part in share] for name in ("tokens", "flops", "seconds", "reference_seconds")},
            "training": {},
            "memory": {"weights": memory, "optimizer_state": 2 * memory},
            "peak_memory": 3 * memory,
            "time": {"forward_backward": seconds},
            "flops": {"encoder": flops},
            "parameters": 5000,
            "machine": {"cpu": "a <cpu>", "cores": 2, "memory": 2**34},
            "choices": {},
            "commit": "abc",
            "restarts": 0,
        }

    return make
