"""The loop knows rows, losses and units: no word of any modality stands in it, nor in the step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

UNITS = ("audio_seconds",)  # what budgets and the ledger count in, beside rows and tokens
TRAIN = Path(__file__).resolve().parents[2] / "src" / "ingot" / "train"
MODALITIES = re.compile(
    r"(?<![a-z])(image|picture|pixel|vision|patch|audio|waveform|speech|sound|mel|caption|text|sentence|language|video|series|forecast|horizon|column|categor\w*|graph_node|transcript)s?(?![a-z])",
    re.I,
)


@pytest.mark.parametrize("name", ["loop.py", "step.py"])
def test_no_word_of_any_modality(name: str) -> None:
    lines = (TRAIN / name).read_text(encoding="utf-8").splitlines()
    for unit in UNITS:
        lines = [line.replace(unit, "") for line in lines]
    assert not [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if MODALITIES.search(line)]


def test_the_pattern_finds_what_it_looks_for() -> None:
    assert (
        MODALITIES.search("if 'images' in batch") and MODALITIES.search("self.audio_rate") and not MODALITIES.search("context of imagery")
    )
