"""Every figure that the README gives of a measurement is in the benchmarks' results, rounded."""

from __future__ import annotations

import json
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def speeds(setting: str = "") -> list[tuple[str, ...]]:
    """Where the figures beside the Trainer are: a GPT's whole processes, the median steps of a ViT and of HuBERT."""
    steps = [(f"encoder_speed{setting}", "kinds", kind, "ratio_of_median_steps", "median") for kind in ("vit", "hubert")]
    return [(f"step_speed{setting}", "ratio_of_whole_processes", "median"), *steps]


# What the README says, with a group for every figure, and where in benchmarks/results the figures are.
SAID = [
    (r"\*\*([\d.]+) times sooner\*\*", [("time_to_loss", "ratio")]),
    (
        r"([\d.]+) times by speed and ([\d.]+) times by needing fewer tokens",
        [("time_to_loss", "ratio_from_rate"), ("time_to_loss", "ratio_from_fewer_tokens")],
    ),
    (r"a hundred steps of a GPT of equal size run ([\d.]+) times as fast", speeds()[:1]),
    (r"ViT's step is ([\d.]+) and HuBERT's ([\d.]+) times as fast", speeds()[1:]),
    (r"the three are ([\d.]+), ([\d.]+) and ([\d.]+);", speeds("_amx")),
    (r"most of a step, ([\d.]+), ([\d.]+) and ([\d.]+)\.", speeds("_avx512_core_bf16")),
]


@pytest.mark.parametrize(("words", "places"), SAID, ids=lambda value: value if isinstance(value, str) else "")
def test_a_figure_is_the_measured_one(words: str, places: list[tuple[str, ...]]) -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(words, text)
    assert found, "the README no longer says it"
    for said, (name, *keys) in zip(found.groups(), places, strict=True):
        results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert said == f"{reduce(lambda tree, key: tree[key], keys, results):.1f}"
