"""What every evaluator keeps: numbers that repeat, and a model that is left as it was."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

from ingot.core.resolve import spec

SLOTS = ["evaluate"]


def measure(case: Any, model: Any, windows: list[list[dict[str, torch.Tensor]]]) -> dict[str, float]:
    """Called with what the run offers, as far as the evaluator asks for it."""
    evaluator = case.build(layout=spec("parallel.layout", "single").build())
    offered = {"windows": windows, "objective": model.objective, "token_bytes": torch.ones(model.embedding.vocabulary, dtype=torch.float64)}
    wanted = inspect.signature(evaluator).parameters
    missing = [name for name, item in wanted.items() if item.kind is item.KEYWORD_ONLY and item.default is item.empty and name not in offered]
    if missing:
        pytest.fail(f"evaluate {case.name!r} needs {', '.join(missing)}: offer it in {__file__}")
    found: dict[str, float] = evaluator(model, **{name: value for name, value in offered.items() if name in wanted})
    return found


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_is_pure_and_repeats(case: Any, tiny_model: Any, batch_of: Any, objective: str) -> None:
    model = tiny_model(spec("objective", objective), dropout=0.3)
    model.encoder.eval()
    windows = [[batch_of([0, 1, 2]), batch_of([3, -1, -1])], [batch_of([4, 5, 6]), batch_of([-1, -1, -1])]]
    model.embedding.weight.grad = torch.ones_like(model.embedding.weight)
    before, generator = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    modes = {path: module.training for path, module in model.named_modules()}
    first = measure(case, model, windows)
    assert first == measure(case, model, windows) and first
    assert all(isinstance(value, float) and math.isfinite(value) for value in first.values())
    assert {path: module.training for path, module in model.named_modules()} == modes and torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state()) and bool((model.embedding.weight.grad == 1).all())
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "embedding.weight")


def test_does_not_depend_on_how_rows_are_batched(case: Any, tiny_model: Any, batch_of: Any) -> None:
    model = tiny_model(None, torch.float64)
    whole = measure(case, model, [[batch_of(range(6))]])
    split = measure(case, model, [[batch_of([0, 1]), batch_of([2, -1])], [batch_of([3, 4, 5, -1])]])
    assert whole.keys() == split.keys()
    assert all(split[name] == pytest.approx(value, rel=1e-12) for name, value in whole.items())
