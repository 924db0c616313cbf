"""What every layer, block and encoder keeps, whatever it computes: parametrized over all parts of these slots."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ingot.core.axes import axes_of
from ingot.core.resolve import spec
from ingot.nn.context import Cache, Context
from ingot.ops.attention import attention

SLOTS = ["nn.mixer", "nn.feedforward", "nn.norm", "nn.block", "nn.linear", "nn.position", "nn.embedding", "model.encoder", "model.decoder"]
MIXING = ["nn.mixer", "nn.block", "model.encoder", "model.decoder"]
TAKES_VECTORS = [slot for slot in SLOTS if slot != "nn.embedding"]
COMPILED = [slot for slot in TAKES_VECTORS if slot != "nn.position"]  # blocks, and what they hold
WIDTH, LENGTH, ROWS, OUTPUTS = 16, 12, 3, 10
WIRING = {
    "width": WIDTH,
    "linear": spec("nn.linear", "dense"),
    "layer": 0,
    "depth": 2,
    "sequence": LENGTH,
    "head_dim": 8,
    "heads": 2,
    "vocabulary": 24,
    "norm": spec("nn.norm", "rms"),
    "dropout": 0.2,
    "inputs": WIDTH,
    "outputs": OUTPUTS,
    "bias": True,
    "axes": ("hidden", "width"),
    "role": "matrix",
}


class Layer(nn.Module):
    """Any part as a function of x (B, T, D) and a Context; an embedding, whatever it reads, as a function of the Context's rows."""

    def __init__(self, case: Any, rows_of: Any):
        super().__init__()
        self.slot, self.make = case.slot, rows_of.batch
        wiring = WIRING | {"fields": rows_of.fields(rows_of.FIELDS)}
        if case.slot == "nn.block":
            wiring["mixer"] = spec("nn.mixer", "attention", heads=2).build(**wiring)
            wiring["feedforward"] = spec("nn.feedforward", "gelu").build(**wiring)
        if case.slot == "nn.norm":
            wiring.pop("axes")
        self.part = case.build(**wiring)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        if self.slot == "nn.embedding":
            return self.embedded(context)
        if getattr(type(self.part), "looks_ahead", False):
            context = replace(context, causal=False)
        if context.memory_BSD is not None:
            context = replace(context, memory_BSD=context.memory_BSD.to(x_BTD.dtype))
        if self.slot == "nn.position" and getattr(type(self.part), "rotates", False):
            heads = x_BTD.view(*x_BTD.shape[:2], 2, 8).transpose(1, 2)
            return self.part(heads, self.part.angles(context.positions_BT, x_BTD.dtype)).transpose(1, 2).reshape(x_BTD.shape)
        if self.slot == "nn.position" and getattr(type(self.part), "biases", False):
            heads, bias = x_BTD.view(*x_BTD.shape[:2], 2, 8).transpose(1, 2), self.part.bias(replace(context, shared={}), x_BTD.dtype)
            return (
                attention(heads, heads, heads, causal=context.causal, segments_BT=context.segments_BT, bias_HTS=bias)
                .transpose(1, 2)
                .reshape(x_BTD.shape)
            )
        if self.slot == "nn.position":
            return x_BTD + self.part(context.positions_BT).to(x_BTD.dtype)
        return self.part(x_BTD) if self.slot in ("nn.norm", "nn.linear") else self.part(x_BTD, context)

    def embedded(self, context: Context) -> Tensor:
        """Tokens are placed as the Context says; other values say themselves where they stand."""
        assert context.rows_B is not None
        batch = self.make(context.rows_B.tolist(), self.part.reads)
        wide = next(self.parameters()).dtype
        batch = {key: value.to(wide) if value.is_floating_point() else value for key, value in batch.items()}
        if set(self.part.reads) == {"tokens"}:
            return self.part(batch | {"tokens": tokens_of(context)}, context)
        return self.part(batch, Context(causal=context.causal, rows_B=context.rows_B, key=context.key))


def tokens_of(context: Context) -> Tensor:
    """Token ids that depend on row and position alone."""
    assert context.rows_B is not None
    return (context.rows_B[:, None] * 7 + context.positions_BT * 5) % 19


def context_of(
    rows: list[int] | None = None, *, causal: bool = True, segments: Tensor | None = None, length: int = LENGTH, start: int = 0
) -> Context:
    """start: where in the row the positions are cut out of; the memory is cut alike, and has the segments that the row has."""
    numbers = torch.tensor(rows or list(range(ROWS)))
    positions = torch.arange(length).expand(len(numbers), -1)
    if segments is not None:
        positions = positions - torch.where(segments == 2, (segments == 1).sum(1, keepdim=True), 0)
    memory = torch.randn(8, LENGTH, WIDTH, generator=torch.Generator().manual_seed(6), dtype=torch.float64)[numbers, start : start + length]
    return Context(positions, segments, causal, numbers, torch.tensor(3), memory_BSD=memory, memory_segments_BS=segments)


def values(dtype: torch.dtype = torch.float64, length: int = LENGTH, seed: int = 1) -> Tensor:
    return torch.randn(ROWS, length, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def layer(case: Any, randomized: Any, rows_of: Any) -> Layer:
    return randomized(Layer(case, rows_of)).double()


def gradients(module: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """Of a fixed function of the output, by parameter."""
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    module.zero_grad()
    (output * weight).sum().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_shape_and_dtype(case: Any, randomized: Any, rows_of: Any, dtype: torch.dtype) -> None:
    """Parameters are masters in their own dtype; what comes out has the dtype of what went in."""
    layer = randomized(Layer(case, rows_of))
    layer = layer.double() if dtype == torch.float64 else layer
    layer.requires_grad_(False)
    output = layer(values(dtype), context_of())
    length = getattr(layer.part, "longest", LENGTH) if case.slot == "nn.embedding" else LENGTH
    assert output.shape == (ROWS, length, OUTPUTS if case.slot == "nn.linear" else WIDTH)
    assert output.isfinite().all()
    if case.slot != "nn.embedding":  # the graph casts what the embedding gives
        assert output.dtype == dtype
        exact = layer.double()(values(dtype).double(), context_of())
        assert (
            float((output.double() - exact).norm() / exact.norm())
            < {torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.float64: 1e-15}[dtype]
        )


def test_every_parameter_is_labeled_and_learns(case: Any, layer: Layer) -> None:
    axes = axes_of(layer)
    assert {name: len(label.names) for name, label in axes.items()} == {
        name: parameter.dim() for name, parameter in layer.named_parameters()
    }
    found = gradients(layer, layer(values().requires_grad_(), context_of()))
    for name, parameter in layer.named_parameters():
        assert parameter.requires_grad == (name in found), name
        assert not parameter.requires_grad or (found[name].isfinite().all() and found[name].any()), name


def test_gradients_are_right_in_double_precision(case: Any, layer: Layer) -> None:
    if getattr(case.target, "rounds", False):
        pytest.skip("what it rounds has a gradient by decree, which its own test holds")
    if getattr(layer.part, "checkpointing", "") == "selective":
        pytest.skip("what it keeps serves one backward pass, and this asks for several; test_recompute compares its gradients")
    names, parameters = zip(*layer.named_parameters()) if dict(layer.named_parameters()) else ((), ())
    x, context = (
        values(length=6).requires_grad_(),
        context_of(length=6, segments=torch.tensor([[1] * 6, [1] * 2 + [2] * 4, [1] * 3 + [2] * 2 + [0]])),
    )

    def call(x_BTD: Tensor, *held: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, held)), (x_BTD, context))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True, atol=1e-6)


def test_a_row_does_not_depend_on_the_others(case: Any, layer: Layer) -> None:
    """Dropout is on: what it zeroes belongs to the row, not to the batch."""
    x, segments = values(), torch.tensor([[1] * 12, [1] * 5 + [2] * 7, [1] * 9 + [0] * 3])
    whole = layer(x, context_of(segments=segments))
    for rows in ([1], [2, 0]):
        alone = layer(x[rows], context_of(rows, segments=segments[rows]))
        torch.testing.assert_close(alone, whole[rows], rtol=1e-12, atol=1e-13)


@pytest.mark.slots(*TAKES_VECTORS)
def test_a_position_sees_what_it_may(case: Any, layer: Layer) -> None:
    """Causal parts do not look ahead; parts that do not mix positions look nowhere else."""
    if getattr(case.target, "looks_ahead", False):
        pytest.skip("refuses to be causal, which its own test holds")
    x = values()
    other = x.clone()
    other[:, 7] = values(seed=2)[:, 7]
    before, after = layer(x, context_of()), layer(other, context_of())
    changed = (before - after).abs().amax(dim=(0, 2)) > 1e-12
    assert not changed[:7].any() and changed[7]
    assert changed[8] == (
        (case.slot in MIXING or getattr(case.target, "biases", False)) and getattr(case.target, "attends", "") not in ("memory", "nothing")
    )


@pytest.mark.slots(*MIXING)
@pytest.mark.parametrize("causal", [True, False])
def test_segments_do_not_leak(case: Any, layer: Layer, causal: bool) -> None:
    """A document within a row is computed as if it were alone; padding gives numbers."""
    layer.eval()
    x, segments = values(), torch.tensor([1] * 5 + [2] * 5 + [0] * 2).expand(ROWS, -1)
    whole = layer(x, context_of(segments=segments, causal=causal))
    assert whole.isfinite().all()
    torch.testing.assert_close(whole[:, 5:10], layer(x[:, 5:10], context_of(length=5, start=5, causal=causal)), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(whole[:, :5], layer(x[:, :5], context_of(length=5, causal=causal)), rtol=1e-12, atol=1e-13)


@pytest.mark.slots(*COMPILED)
def test_compiles_to_one_graph(case: Any, randomized: Any, rows_of: Any) -> None:
    plain = randomized(Layer(case, rows_of))
    x, segments = values(torch.float32), torch.tensor([[1] * 12, [1] * 5 + [2] * 7, [1] * 9 + [0] * 3])
    expected = plain(x, context_of(segments=segments))
    wanted = gradients(plain, expected)
    torch.compiler.reset()
    if hasattr(plain.part, "compile_blocks"):
        plain.part.compile_blocks(backend="aot_eager", fullgraph=True)
    else:
        plain.part.compile(backend="aot_eager", fullgraph=True)
    found = plain(x, context_of(segments=segments))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(plain, found).items():
        assert float((gradient - wanted[name]).norm() / wanted[name].norm()) < 1e-5, name


@pytest.mark.slots(*TAKES_VECTORS)
def test_recomputed_activations_give_the_same_gradients(case: Any, layer: Layer) -> None:
    x = values().requires_grad_()
    wanted = gradients(layer, layer(x, context_of()))
    wanted_x, x.grad = x.grad, None
    wanted = {name: gradient.clone() for name, gradient in wanted.items()}
    found = gradients(layer, checkpoint(layer, x, context_of(), use_reentrant=False, preserve_rng_state=False))
    assert torch.equal(x.grad, wanted_x) and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_state_dict_round_trip(case: Any, layer: Layer, randomized: Any, rows_of: Any) -> None:
    other = randomized(Layer(case, rows_of), seed=9).double()
    context = context_of()
    if dict(layer.named_parameters()):
        assert not torch.equal(layer(values(), context), other(values(), context))
    other.load_state_dict(copy.deepcopy(layer.state_dict()), strict=True)
    assert torch.equal(layer(values(), context), other(values(), context))
    assert torch.equal(layer(values(), context), copy.deepcopy(layer)(values(), context))


def test_touches_no_global_randomness(case: Any, layer: Layer) -> None:
    before = torch.get_rng_state()
    first = layer(values(), context_of())
    assert torch.equal(first, layer(values(), context_of()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slots("nn.mixer")
def test_a_cache_gives_what_the_whole_gives(case: Any, layer: Layer) -> None:
    if not getattr(case.target, "caches", False):
        pytest.skip("keeps no cache")
    whole = layer(values(), context_of())
    cache = Cache(LENGTH)
    pieces = []
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 12)):
        context = Context(
            torch.arange(start, end).expand(ROWS, -1),
            None,
            True,
            torch.arange(ROWS),
            torch.tensor(3),
            cache,
            memory_BSD=context_of().memory_BSD,
        )
        pieces.append(layer(values()[:, start:end], context))
        cache.advance(end - start)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-12, atol=1e-13)
