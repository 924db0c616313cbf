"""Word and letter errors: edits counted by hand, sums over rows before the division, padding rows left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.resolve import spec
from ingot.evaluate.wer import edits


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("abcd", "bd", 2), ("ab", "ba", 2)],
)
def test_edits(one: str, other: str, wanted: int) -> None:
    assert edits(one, other) == edits(other, one) == wanted


class Heard(torch.nn.Module):
    def __init__(self, texts: list[str]):
        super().__init__()
        self.texts = texts

    def heard(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return padded(self.texts)

    def forward(self, batch: dict[str, torch.Tensor], ask: str) -> torch.Tensor:
        return getattr(self, ask)(self, batch)


def padded(texts: list[str]) -> torch.Tensor:
    return torch.tensor([list(text.encode()) + [-100] * (20 - len(text)) for text in texts])


def test_sums_before_the_division() -> None:
    said, heard = ["one two three", "four", "x"], ["one too three", "four five", "yyyy"]
    model = Heard(heard)
    evaluator = spec("evaluate", "wer").build(layout=spec("parallel.layout", "single").build())
    batch = {"rows": torch.tensor([0, 1, -1]), "transcript": padded(said)}
    found = evaluator(model, windows=[[batch]], tokenizer=spec("data.tokenizer", "bytes").build(), objective=model)
    assert found == {"wer": pytest.approx(2 / 4), "cer": pytest.approx((1 + 5) / (13 + 4)), "exact": 0.0}
