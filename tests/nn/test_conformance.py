"""What every layer found in a slot must keep: gradients, dtypes, declared axes, independent rows and documents."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.axes import axes_of
from ingot.core.parts import load, parts_in, signature
from ingot.core.resolve import spec
from ingot.nn.context import Context

WIDTH, LENGTH = 8, 6


def build(slot: str, name: str) -> nn.Module:
    """The part with its defaults; knobs without one are sizes and become 2."""
    knobs = {knob: 2 for knob, (_, default) in signature(load(slot, name)).knobs.items() if default is inspect.Parameter.empty}
    linear, norm = spec("nn.linear", "dense"), spec("nn.norm", "rms")
    wiring: dict[str, Any] = {"width": WIDTH, "head_dim": WIDTH, "linear": linear, "norm": norm, "layer": 0, "depth": 1, "sequence": LENGTH}
    wiring |= {"inputs": WIDTH, "outputs": WIDTH, "bias": True, "axes": ("hidden", "width"), "role": "matrix"}
    if slot == "nn.block":
        wiring |= {"mixer": build("nn.mixer", "attention"), "feedforward": build("nn.feedforward", "gelu")}
    torch.manual_seed(0)
    module: nn.Module = spec(slot, name, **knobs).build(**wiring)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def context(rows: int, segments: Tensor | None = None) -> Context:
    memory = torch.randn(1, LENGTH, WIDTH, generator=torch.Generator().manual_seed(2)).expand(rows, -1, -1)  # the same for every row
    return Context(torch.arange(LENGTH).expand(rows, -1), segments, rows_B=torch.arange(rows), key=torch.tensor(1), memory_BSD=memory, memory_segments_BS=segments)


def call(slot: str, layer: nn.Module, x: Tensor, where: Context) -> Tensor:
    where.memory_BSD = where.memory_BSD.to(x.dtype)
    result: Tensor = layer(x) if slot in ("nn.norm", "nn.linear") else layer(x, where)
    return result


LAYERS = [(slot, name) for slot in ("nn.norm", "nn.linear", "nn.feedforward", "nn.mixer", "nn.block") for name in parts_in(slot)]
every = pytest.mark.parametrize(("slot", "name"), LAYERS, ids=[f"{slot}.{name}" for slot, name in LAYERS])


@every
def test_gradients_are_right(slot: str, name: str) -> None:
    layer = build(slot, name).double()
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values, *_: call(slot, layer, values, context(2)), (x, *layer.parameters()), atol=1e-5)


@every
def test_bf16_in_bf16_out_near_fp32(slot: str, name: str) -> None:
    layer, x = build(slot, name), torch.randn(2, LENGTH, WIDTH)
    exact, rough = call(slot, layer, x, context(2)), call(slot, layer, x.bfloat16(), context(2))
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


@every
def test_parameters_name_their_axes(slot: str, name: str) -> None:
    layer = build(slot, name)
    assert set(axes_of(layer)) == {path for path, _ in layer.named_parameters()}


@every
def test_rows_are_independent(slot: str, name: str) -> None:
    layer, x = build(slot, name).double(), torch.randn(3, LENGTH, WIDTH, dtype=torch.float64)
    whole = call(slot, layer, x, context(3))
    torch.testing.assert_close(whole[1:2], call(slot, layer, x[1:2], context(1)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in parts_in("nn.mixer") if getattr(load("nn.mixer", name), "attends", "") != "memory"])
@pytest.mark.parametrize("causal", [True, False])
def test_mixers_keep_documents_apart_and_causal_ones_the_future_out(name: str, causal: bool) -> None:
    layer = build("nn.mixer", name).double()
    segments, positions = torch.tensor([[1, 1, 2, 2, 2, 0]]), torch.tensor([[0, 1, 0, 1, 2, 0]])
    x = torch.randn(1, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
    y = layer(x, Context(positions, segments, causal))
    for position in range(5):
        (gradient,) = torch.autograd.grad(y[0, position].sum(), x, retain_graph=True)
        for source in range(LENGTH):
            seen = bool(segments[0, source] == segments[0, position]) and (source <= position or not causal)
            assert bool(gradient[0, source].any()) == seen, (position, source)
