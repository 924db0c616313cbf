"""What every evaluator keeps: numbers that repeat, and a model that is left as it was."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ingot.core.resolve import spec
from ingot.core.seams import Field

SLOTS = ["evaluate"]
VOCABULARY = 24
PAIRED = {"retrieval", "zero_shot"}  # need an objective of two sides
TOKENIZER = SimpleNamespace(
    end=1,
    decode=lambda ids: " ".join(map(str, ids)),
    encode=lambda texts: [np.array([4 + ord(letter) % 16 for letter in text]) for text in texts],
)
# The objective whose model and rows an evaluator is tried on, where these are not a classifier of pictures.
OBJECTIVES: dict[str, str] = {"forecast": "forecasting", "wer": "ctc"}


def measure(case: Any, model: Any, windows: list[list[dict[str, torch.Tensor]]]) -> dict[str, float]:
    """Called with what the run offers, as far as the evaluator asks for it."""
    evaluator = case.build(layout=spec("parallel.layout", "single").build())
    batch = windows[0][0]
    offered = {
        "windows": windows,
        "objective": model.objective,
        "training": lambda rows=None: windows,
        "looks": None,
        "seed": 0,
        "tokenizer": TOKENIZER,
        "fields": {
            key: Field(tuple(value.shape[1:]), str(value.dtype).removeprefix("torch.")) for key, value in batch.items() if value.dim()
        },
        "token_bytes": torch.ones(VOCABULARY, dtype=torch.float64),
    }
    wanted = inspect.signature(evaluator).parameters
    missing = [
        name for name, item in wanted.items() if item.kind is item.KEYWORD_ONLY and item.default is item.empty and name not in offered
    ]
    if missing:
        pytest.fail(f"evaluate {case.name!r} needs {', '.join(missing)}: offer it in {__file__}")
    found: dict[str, float] = evaluator(model, **{name: value for name, value in offered.items() if name in wanted})
    return found


def objective_for(case: Any, wanted: str) -> str:
    """One whose rows hold what the evaluator reads."""
    if case.name in PAIRED:
        return "clip"
    reads = set(getattr(case.target, "reads", ()))
    if case.name in OBJECTIVES or not reads:
        return OBJECTIVES.get(case.name, wanted)
    return (
        "classification"
        if reads <= {"label", "image"}
        else pytest.fail(f"evaluate {case.name!r} reads {sorted(reads)}: say in OBJECTIVES of {__file__} which objective's rows hold them")
    )


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_is_pure_and_repeats(case: Any, tiny_model: Any, batch_of: Any, objective: str) -> None:
    chosen = spec("objective", objective_for(case, objective))
    model = tiny_model(chosen, dropout=0.3)
    model.encoder.eval()
    windows = [[batch_of([0, 1, 2], chosen), batch_of([3, -1, -1], chosen)], [batch_of([4, 5, 6], chosen), batch_of([-1, -1, -1], chosen)]]
    name, first_weight = next(iter(model.named_parameters()))
    first_weight.grad = torch.ones_like(first_weight)
    before, generator = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    modes = {path: module.training for path, module in model.named_modules()}
    first = measure(case, model, windows)
    assert first == measure(case, model, windows) and first
    assert all(isinstance(value, float) and math.isfinite(value) for value in first.values())
    assert {path: module.training for path, module in model.named_modules()} == modes and torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state()) and bool((first_weight.grad == 1).all())
    assert all(parameter.grad is None for other, parameter in model.named_parameters() if other != name)


def test_does_not_depend_on_how_rows_are_batched(case: Any, tiny_model: Any, batch_of: Any) -> None:
    chosen = spec("objective", objective_for(case, "causal_lm"))
    model = tiny_model(chosen, torch.float64)
    whole = measure(case, model, [[batch_of(range(6), chosen)]])
    split = measure(case, model, [[batch_of([0, 1], chosen), batch_of([2, -1], chosen)], [batch_of([3, 4, 5, -1], chosen)]])
    assert whole.keys() == split.keys()
    assert all(split[name] == pytest.approx(value, rel=1e-12) for name, value in whole.items())
