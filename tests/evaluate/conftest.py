"""A small image model and windows of drawn pictures, for evaluators that learn from labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec


@dataclass
class Setting:
    """model; windows(), training(rows): windows of micro-batches of eight, held-out and training rows of four classes."""

    model: Any
    fields: dict[str, Any]
    layout: Any
    held: Any
    learn: Any

    def windows(self, rows: int = 40) -> Iterator[list[dict[str, Tensor]]]:
        return self._windows(self.held, rows)

    def training(self, rows: int | None = None) -> Iterator[list[dict[str, Tensor]]]:
        return self._windows(self.learn, min(rows or 96, 96))

    def _windows(self, source: Any, rows: int) -> Iterator[list[dict[str, Tensor]]]:
        for start in range(0, rows, 8):
            ids = np.arange(start, start + 8)
            found = {key: torch.from_numpy(value) for key, value in source.rows(ids % len(source), ids).items()}
            found["rows"] = torch.where(torch.from_numpy(ids) < rows, found["rows"], -1)
            yield [found | {"key": torch.tensor(0)}]

    def measure(self, evaluator: Any, **given: Any) -> dict[str, float]:
        import inspect

        offered = {
            "windows": self.windows(),
            "training": self.training,
            "fields": self.fields,
            "seed": 0,
            "looks": None,
            "objective": self.model.objective,
        } | given
        return evaluator(
            self.model,
            **{name: offered[name] for name, item in inspect.signature(evaluator).parameters.items() if item.kind is item.KEYWORD_ONLY},
        )


@pytest.fixture
def setting() -> Setting:
    sources = [spec("data.source", "synthetic_images", count=200, size=8, seed=seed).build() for seed in (0, 1)]
    tree = {
        "width": 16,
        "embedding": {"name": "patch", "patch": 4},
        "encoder": {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 2}, "dropout": 0.1},
        "objective": "classification",
    }
    model = build_model(
        resolve(Recipe(tree), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32, fields=sources[0].fields()
    )
    spec("model.init", "normal", std=0.2).build().apply(model, 0)
    return Setting(model, sources[0].fields(), spec("parallel.layout", "single").build(), sources[1], sources[0])
