"""Initial values: their spread, and that each depends on (seed, name) alone."""

from __future__ import annotations

import torch

from ingot.core.resolve import spec
from ingot.model.graph import Model


def build(depth: int, seed: int = 0, **knobs: object) -> dict[str, torch.Tensor]:
    wiring = {"width": 64, "vocabulary": 200, "sequence": 8}
    encoder = spec("model.encoder", "transformer", depth=depth, mixer={"name": "attention", "heads": 2, "bias": True}, norm="layer").build(
        **wiring
    )
    model = Model(
        embedding=spec("nn.embedding", "token").build(**wiring),
        encoder=encoder,
        objective=spec("objective", "causal_lm", tied=False).build(**wiring),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(torch.nan)
    spec("model.init", "normal", **knobs).build().apply(model, seed)
    return {name: p.detach() for name, p in model.named_parameters()}


def test_spread_by_role() -> None:
    found = build(depth=8)
    assert abs(float(found["embedding.weight"].std()) / 0.02 - 1) < 0.03
    assert abs(float(found["encoder.blocks.3.mixer.query.weight"].std()) / 0.02 - 1) < 0.05
    for name in ("mixer.output", "feedforward.down"):
        assert abs(float(found[f"encoder.blocks.3.{name}.weight"].std()) / (0.02 / 4) - 1) < 0.05
    assert torch.equal(found["encoder.norm.weight"], torch.ones(64)) and not found["encoder.blocks.0.mixer.query.bias"].any()
    assert abs(float(build(depth=8, residual=False)["encoder.blocks.3.mixer.output.weight"].std()) / 0.02 - 1) < 0.05


def test_a_value_depends_on_seed_and_name_alone() -> None:
    few, many = build(depth=2, residual=False), build(depth=4, residual=False)
    assert all(torch.equal(few[name], many[name]) for name in few)
    assert not torch.equal(few["encoder.blocks.0.mixer.query.weight"], few["encoder.blocks.1.mixer.query.weight"])
    other = build(depth=2, seed=1)
    assert not torch.equal(few["embedding.weight"], other["embedding.weight"])


def test_a_module_may_offer_its_own_values() -> None:
    from ingot.core.axes import label
    from ingot.model.init._draw import fill

    class Gate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(3))
            label(self, "bias", "gates", role="bias")

        def initial(self, name: str, generator: torch.Generator) -> torch.Tensor:
            return torch.full((3,), -2.0)

    gate = Gate()
    fill(gate, 0, lambda name, axes, shape: 1.0)
    assert gate.bias.tolist() == [-2.0] * 3
