"""Every kind of linear trains models of images, sound, series and tables: what reads their values, and heads, stay dense."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.parts import load, parts_in, signature
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.nn.linear.dense import Dense

MIXER = {"name": "attention", "heads": 2, "position": None}
WAVEFORM = {"name": "waveform", "channels": 8, "kernels": [4, 2], "strides": [4, 2], "neighbors": 4, "groups": 2}
IMAGE = {"name": "patch", "patch": 4, "image": 8, "channels": 1}
DECODER = {"name": "transformer", "depth": 1, "inner": 8, "cross": None, "mixer": MIXER}
ROWS: dict[str, dict[str, Any]] = {
    "image": {"embedding": IMAGE, "objective": "masked_patches", "decoder": DECODER},
    "sound": {"embedding": WAVEFORM, "objective": {"name": "wav2vec2", "code": 8, "units": 8, "entries": 4}},
    "series": {
        "embedding": {"name": "series_patch", "patch": 4, "length": 16, "channels": 2},
        "objective": {"name": "forecasting", "horizon": 3},
    },
    "narrow table": {"embedding": {"name": "token", "inner": 8}, "objective": {"name": "causal_lm", "tied": False}},
    "latent": {"embedding": {"name": "latent", "size": 8}, "objective": {"name": "classification", "classes": 3}},
}


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "rows": torch.arange(4),
        "key": torch.tensor(1),
        "image": torch.randn(4, 1, 8, 8, generator=draw),
        "waveform": torch.randn(4, 160, generator=draw),
        "series": torch.randn(4, 16, 2, generator=draw),
        "future": torch.randn(4, 3, 2, generator=draw),
        "latent": torch.randn(4, 8, generator=draw),
        "tokens": torch.randint(3, 24, (4, 12), generator=draw),
        "label": torch.arange(4) % 3,
    }


@pytest.mark.parametrize("rows", list(ROWS))
@pytest.mark.parametrize("linear", sorted(parts_in("nn.linear")))
def test_it_trains(linear: str, rows: str) -> None:
    needs = {name: 4 for name, (_, default) in signature(load("nn.linear", linear)).knobs.items() if default is inspect.Parameter.empty}
    encoder = {"name": "transformer", "depth": 2, "mixer": MIXER, "linear": {"name": linear, **needs}}
    graph = resolve(Recipe({"width": 16, "encoder": encoder} | ROWS[rows]), Graph)
    model = build_model(graph, vocabulary=24, sequence=16, specials={"mask": 2}, fields={}, dtype=torch.float32)
    assert type(model.embedding.project) is Dense
    assert (type(model.encoder.blocks[0].mixer.query) is Dense) == (linear == "dense")
    sum(loss.sum() for loss in model(model.objective.prepare(batch())).values()).backward()  # type: ignore[union-attr, operator]
    assert float(model.embedding.project.weight.grad.norm()) > 0
