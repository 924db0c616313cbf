"""What every way of initializing keeps: values from (seed, name) alone, a learning rate for every parameter."""

from __future__ import annotations

from typing import Any

import torch

from ingot.core.axes import axes_of
from ingot.core.resolve import spec

SLOTS = ["model.init"]


def filled(case: Any, model: Any, seed: int = 7) -> dict[str, torch.Tensor]:
    case.build().apply(model, seed=seed)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_values_come_from_seed_and_name_alone(case: Any, tiny_model: Any) -> None:
    """Not from what was there, from torch's generator, or from which other parameters there are."""
    models = [tiny_model(), tiny_model(seed=3), tiny_model()]
    before = torch.get_rng_state()
    first, again, other = (filled(case, model, seed) for model, seed in zip(models, (7, 7, 8)))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    random = [name for name in first if first[name].std() > 0]
    assert "embedding.weight" in random and len(random) > 5
    assert not any(torch.equal(first[name], other[name]) for name in random)
    assert len({float(first[name].flatten()[0]) for name in random}) == len(random)
    larger = filled(case, tiny_model(spec("objective", "causal_lm", tied=False, bias=True)))
    assert larger.keys() > first.keys() and all(torch.equal(first[name], larger[name]) for name in first)


def test_values_are_sound(case: Any, tiny_model: Any) -> None:
    model = tiny_model(spec("objective", "masked_lm", tied=False, bias=True, transform="layer"))
    axes = axes_of(model)
    for name, value in filled(case, model).items():
        assert value.isfinite().all() and value.abs().max() < 4, name
        if axes[name].role in ("scale", "bias"):
            assert bool((value == (axes[name].role == "scale")).all()), name
    batch = model.objective.prepare({"tokens": torch.randint(4, 20, (2, 8)), "rows": torch.arange(2), "key": torch.tensor(1)})
    assert all(loss.isfinite().all() for loss in model(batch).values())


def test_every_parameter_has_a_learning_rate(case: Any, tiny_model: Any) -> None:
    model, initializer = tiny_model(), case.build()
    axes = axes_of(model)
    for name, parameter in model.named_parameters():
        assert 0 < initializer.lr_scale(name, axes[name], tuple(parameter.shape)) < 100
    assert initializer.output_scale(16) > 0
