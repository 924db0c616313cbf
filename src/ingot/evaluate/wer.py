r"""Word and letter errors of what a model hears.   Levenshtein 1966; as reported since Graves et al. 2006.

    WER = sum of edits between words / sum of words said        CER: the same of letters

An edit is a word put in, left out or replaced. What is heard is the objective's ``heard`` (for ctc: the likeliest path, no language
model), through the tokenizer.   Cost: one forward per row; words said times words heard per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.evaluating import evaluating
from ..core.parts import part

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class WER:
    """lower: whether capitals count as their small letters."""

    reads = ("transcript",)

    def __init__(self, layout: Layout, *, lower: bool = False):
        self.layout, self.lower = layout, lower

    def __call__(self, model: nn.Module, *, windows: Iterable[list[dict[str, Tensor]]], tokenizer: Any, objective: Any) -> dict[str, float]:
        """wer and cer, shares that may exceed 1, and exact, the share of rows without an error."""
        if not hasattr(objective, "heard"):
            raise UserError("evaluate: wer wants an objective that transcribes, such as ctc")
        sums = torch.zeros(6, dtype=torch.float64)
        with evaluating(model):
            for window in windows:
                for micro in window:
                    heard = model(micro, ask="heard")
                    for row, said, found in zip(micro["rows"].tolist(), micro["transcript"].tolist(), heard.tolist(), strict=True):
                        if row >= 0:
                            sums += torch.tensor(
                                self._errors(self._text(tokenizer, said), self._text(tokenizer, found)), dtype=torch.float64
                            )
        words, said, letters, written, exact, rows = self.layout.total(sums).tolist()
        return {"wer": words / max(1.0, said), "cer": letters / max(1.0, written), "exact": exact / max(1.0, rows)}

    def _text(self, tokenizer: Any, ids: list[int]) -> str:
        text = (
            str(tokenizer.decode([item for item in ids if item >= 0]))
            if tokenizer is not None
            else " ".join(str(item) for item in ids if item >= 0)
        )
        return text.lower() if self.lower else text

    @staticmethod
    def _errors(said: str, heard: str) -> list[float]:
        words = said.split()
        return [edits(words, heard.split()), len(words), edits(said, heard), len(said), said == heard, 1]


def edits(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The fewest insertions, deletions and replacements that make one of the other."""
    before = list(range(len(other) + 1))
    for row, item in enumerate(one, 1):
        now = [row]
        for column, candidate in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (item != candidate)))
        before = now
    return before[-1]
