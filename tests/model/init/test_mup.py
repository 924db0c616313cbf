"""Width transfer: activations move alike at every width under mup, and do not without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.build.check import check as check_recipe
from ingot.core.axes import axes_of
from ingot.core.resolve import spec
from ingot.model.coordinate_check import coordinate_check, spread
from ingot.model.graph import Model


def build(width: int, tied: bool = False) -> Model:
    wiring = {"width": width, "vocabulary": 64, "sequence": 32}
    mixer = {"name": "attention", "heads": width // 16, "bias": True}
    encoder = spec("model.encoder", "transformer", depth=2, mixer=mixer, feedforward="gelu").build(**wiring)
    return Model(
        embedding=spec("nn.embedding", "token").build(**wiring),
        encoder=encoder,
        objective=spec("objective", "causal_lm", tied=tied).build(**wiring),
    )


def check(name: str, **knobs: Any) -> dict[str, float]:
    batch = {"tokens": torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))}
    init = spec("model.init", name, **knobs).build()
    return spread(coordinate_check(lambda width: (build(width), init), [64, 128, 256, 512], batch, steps=4, lr=3e-3))


def test_coordinates_keep_their_size_over_widths() -> None:
    found = check("mup", base_width=64, zero_head=True)
    # Random overlaps of order 1/sqrt(width) are still seen in the logits at width 64; from 128 up they are within 1.3.
    assert found.pop("logits") < 1.7
    assert max(found.values()) < 1.3, found


def test_without_it_they_do_not() -> None:
    found = check("normal")
    assert found["mixer"] > 5 and found["feedforward"] > 5 and found["logits"] > 2.5


@pytest.mark.parametrize("tied", [True, False])
def test_at_the_base_width_it_is_normal(tied: bool) -> None:
    one, other = build(64, tied), build(64, tied)
    spec("model.init", "mup", base_width=64).build().apply(one, 3)
    spec("model.init", "normal").build().apply(other, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.objective.output_scale == 1.0


def test_rules_of_table_8() -> None:
    model, init = build(256), spec("model.init", "mup", base_width=64).build()
    init.apply(model, 0)
    axes, shapes = axes_of(model), {name: tuple(p.shape) for name, p in model.named_parameters()}
    scales = {name: init.lr_scale(name, axes[name], shapes[name]) for name in axes}
    for name in ("mixer.query.weight", "mixer.output.weight", "feedforward.up.weight", "feedforward.down.weight"):
        assert scales.pop(f"encoder.blocks.0.{name}") == 0.25
    for name in ("embedding.weight", "objective.head.weight", "encoder.blocks.1.mixer.query.bias", "encoder.norm.weight"):
        assert scales[name] == 1.0
    assert model.objective.output_scale == 0.25
    assert abs(float(model.encoder.blocks[0].mixer.query.weight.detach().std()) / 0.01 - 1) < 0.05
    assert abs(float(model.objective.head.weight.detach().std()) / 0.02 - 1) < 0.05
    muon = spec("model.init", "mup", base_width=64, scale_matrices=False).build()
    assert {muon.lr_scale(name, axes[name], shapes[name]) for name in axes} == {1.0}


SGD: dict[str, Any] = {"name": "sgd", "lr": 0.1}
MUON: dict[str, Any] = {"name": "muon", "lr": 0.1}


@pytest.mark.parametrize(
    ("optimizer", "knobs", "said"),
    [
        ({"name": "adamw", "lr": 0.1}, {}, ""),
        ({"name": "sam", "inner": {"name": "lion", "lr": 0.1}}, {}, ""),
        (SGD, {}, "Adam-like"),
        (SGD, {"scale_matrices": False}, "Adam-like"),
        (SGD, {"base_width": 32}, ""),
        ({"name": "sam", "inner": SGD}, {}, "'sgd'"),
        ({"name": "adafactor", "lr": 0.1}, {}, "Adam-like"),
        (MUON, {}, "set scale_matrices to false"),
        (MUON, {"scale_matrices": False}, ""),
        (MUON | {"rest": SGD}, {"scale_matrices": False}, "'sgd'"),
        (MUON | {"scale": "match_rms_adamw"}, {"scale_matrices": False}, "grow with the root of the width"),
        ({"name": "sgd_sai", "lr": 0.01}, {}, "'sgd_sai'"),
    ],
)
def test_optimizers_of_another_table_are_refused(tiny_recipe: Any, optimizer: dict[str, Any], knobs: dict[str, Any], said: str) -> None:
    """At the width it was tuned at, every optimizer is as under normal."""
    init = {"name": "mup", "base_width": 16} | knobs
    stage = {"budget": "2 steps", "batch": "8 rows", "optimizer": optimizer}
    _, problems = check_recipe(tiny_recipe({"model": {"init": init}, "stages": [stage]}))
    assert [said in problem.message and problem.where == "model.init" for problem in problems] == [True] * bool(said)
