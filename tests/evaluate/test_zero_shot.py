"""Zero-shot classes: the nearest prompt's; templates are averaged, padding of a prompt is not seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.core.seams import Field

TOKENIZER = SimpleNamespace(end=0, encode=lambda texts: [np.array([ord(letter) % 32 for letter in text]) for text in texts])
FIELDS = {"tokens": Field((8,), "int64", 32), "label": Field((), "int64", 2)}


class TwoSides(nn.Module):
    """An image is a direction, a text the direction of its first letter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.objective: Any = SimpleNamespace(vectors=self.vectors)
        self.sizes: list[int] = []

    def vectors(self, model: Any, batch: dict[str, torch.Tensor], side: str) -> torch.Tensor:
        if side == "main":
            return batch["direction"]
        self.seen = batch
        self.sizes.append(len(batch["rows"]))
        return torch.stack([(batch["tokens"][:, 0] == 1).double(), (batch["tokens"][:, 0] == 2).double()], dim=1)

    def forward(self, batch: dict[str, torch.Tensor], *, ask: Any) -> Any:
        return ask(self, batch)


def measure(model: TwoSides, batch_rows: int = 16, **knobs: Any) -> dict[str, float]:
    direction = torch.tensor([[1.0, 0.2], [0.1, 1.0], [0.9, 0.5], [0.0, 1.0]], dtype=torch.float64)
    batch = {"rows": torch.tensor([0, 1, 2, -1]), "label": torch.tensor([0, 1, 1, 0]), "direction": direction}
    evaluator = spec("evaluate", "zero_shot", **knobs).build(layout=spec("parallel.layout", "single").build())
    found: dict[str, float] = evaluator(
        model, windows=[[batch]], objective=model.objective, tokenizer=TOKENIZER, fields=FIELDS, batch_rows=batch_rows
    )
    return found


def test_the_nearest_prompt_decides() -> None:
    model = TwoSides()
    assert measure(model, classes=["a", "b"], template=["{}", "{} is it"]) == {"accuracy": pytest.approx(2 / 3)}
    assert model.seen["tokens"].shape == (4, 8) and model.seen["segments"][0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert measure(model, classes=["b", "a"], template="{}") == {"accuracy": pytest.approx(1 / 3)}


def test_prompts_go_through_the_tower_piece_by_piece() -> None:
    model, knobs = TwoSides(), {"classes": ["a", "b"], "template": ["{}", "{} is it"]}
    assert measure(model, 3, **knobs) == measure(TwoSides(), **knobs) and model.sizes == [3, 1]


def test_one_sided_objectives_are_refused() -> None:
    with pytest.raises(UserError, match="objective such as clip"):
        spec("evaluate", "zero_shot", classes=["a", "b"]).build(layout=None)(
            nn.Identity(), windows=[], objective=object(), tokenizer=TOKENIZER, fields=FIELDS
        )
