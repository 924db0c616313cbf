"""State of the economical optimizers against AdamW's: at the shape of LLaMA-1B without memory, at a small shape with real tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.axes import Axes
from ingot.core.resolve import spec

# (optimizer, knobs, saved of AdamW's bytes at least, at most)
CLAIMS: list[tuple[str, dict[str, Any], float, float]] = [
    ("galore", {"rank": 512}, 0.60, 0.65),
    ("galore", {"rank": 512, "state_bits": 8}, 0.80, 0.88),
    ("fira", {"rank": 512}, 0.60, 0.65),
    ("apollo", {"rank": 256}, 0.78, 0.80),
    ("apollo", {"rank": 1, "scaling": "tensor", "scale": 128.0}, 0.89, 0.91),  # what is left is the embedding and the head
    ("online_subspace_descent", {"rank": 512, "projection_rule": "sgd"}, 0.60, 0.65),
    ("sgd_sai", {}, 0.4999, 0.5001),
    ("adafactor", {}, 0.999, 1.0),
    ("adam8bit", {}, 0.74, 0.75),
    ("adam4bit", {}, 0.865, 0.875),
]
each_claim = pytest.mark.parametrize(("name", "knobs", "least", "most"), CLAIMS, ids=lambda value: value if isinstance(value, str) else "")


def llama(width: int, hidden: int, depth: int, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...], Axes]]:
    """Parameters of a LLaMA: name, shape, axes."""
    yield "embedding.weight", (vocabulary, width), Axes(("vocabulary", "width"), "embedding")
    for layer in range(depth):
        for name in ("query", "key", "value", "output"):
            yield f"blocks.{layer}.{name}", (width, width), Axes(("heads", "width"), "matrix")
        for name in ("up", "gate"):
            yield f"blocks.{layer}.{name}", (hidden, width), Axes(("hidden", "width"), "matrix")
        yield f"blocks.{layer}.down", (width, hidden), Axes(("width", "hidden"), "matrix")
        for name in ("mixer_norm", "feedforward_norm"):
            yield f"blocks.{layer}.{name}", (width,), Axes(("width",), "scale")
    yield "norm", (width,), Axes(("width",), "scale")
    yield "head.weight", (vocabulary, width), Axes(("vocabulary", "width"), "head")


def built(name: str, knobs: dict[str, Any], shapes: list[tuple[str, tuple[int, ...], Axes]], device: str) -> Any:
    names, sizes, axes = zip(*shapes)
    weights = [nn.Parameter(torch.zeros(size, device=device)) for size in sizes]
    return spec("optim", name, lr=1e-3, **knobs).build(params=[{"params": weights, "names": list(names), "axes": list(axes)}])


def held_bytes(optimizer: Any) -> int:
    return sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())


def declared_bytes(optimizer: Any, shapes: list[tuple[str, tuple[int, ...], Axes]]) -> int:
    return sum(optimizer.state_bytes(shape, torch.float32, axes) for _, shape, axes in shapes)


@each_claim
def test_saves_what_is_claimed_at_the_shape_of_llama_1b(name: str, knobs: dict[str, Any], least: float, most: float) -> None:
    shapes = list(llama(2048, 5461, 24, 32000))  # the "1B" of GaLore's paper: 1.34 billion parameters, rank 512
    assert sum(torch.Size(shape).numel() for _, shape, _ in shapes) == 1_339_082_752
    optimizer = built(name, knobs, shapes, "meta")
    optimizer.init_state()
    assert held_bytes(optimizer) == declared_bytes(optimizer, shapes)
    adamw = declared_bytes(built("adamw", {}, shapes, "meta"), shapes)
    assert least <= 1 - held_bytes(optimizer) / adamw <= most


def numbers(shapes: list[tuple[str, tuple[int, ...], Axes]], *roles: str) -> int:
    return sum(torch.Size(shape).numel() for _, shape, axes in shapes if axes.role in roles)


def others_of(shapes: list[tuple[str, tuple[int, ...], Axes]]) -> int:
    """AdamW on what is no matrix: two fp32 numbers each, and a step count for every weight."""
    return 8 * numbers(shapes, "embedding", "head", "scale") + 4 * sum(axes.role != "matrix" for _, _, axes in shapes)


def rows_of(shapes: list[tuple[str, tuple[int, ...], Axes]]) -> int:
    return sum(shape[0] for _, shape, axes in shapes if axes.role == "matrix")


def blocks_of(shapes: list[tuple[str, tuple[int, ...], Axes]], prefixes: tuple[str, ...], outside: bool) -> int:
    """AdamW on some blocks, and on what is outside of all where that is said."""
    chosen = [shape for name, shape, _ in shapes if name.startswith(prefixes) or (outside and not name.startswith("blocks."))]
    return sum(8 * torch.Size(shape).numel() + 4 for shape in chosen)


# What the papers say is kept, of these shapes; four bytes a number.
FORMULAS: list[tuple[str, dict[str, Any], Any]] = [
    # Jordan et al. 2024: one momentum for a matrix, AdamW for the rest
    ("muon", {}, lambda shapes: 4 * numbers(shapes, "matrix") + others_of(shapes)),
    # Li et al. 2025 (NorMuon), Algorithm 1: a number for each row more
    ("muon", {"normalize": "neurons"}, lambda shapes: 4 * (numbers(shapes, "matrix") + rows_of(shapes)) + others_of(shapes)),
    # Defazio et al. 2024, Algorithm 1: z and v; and t, the sum of weights and the largest rate
    ("schedule_free", {}, lambda shapes: sum(8 * torch.Size(shape).numel() + 12 for _, shape, _ in shapes)),
    # Pan et al. 2024, Algorithm 1: AdamW on gamma layers of N, embedding and head; all layers of a LLaMA are alike
    ("lisa", {"layers": 1}, lambda shapes: blocks_of(shapes, ("blocks.0.",), True)),
    ("lisa", {"layers": 3}, lambda shapes: blocks_of(shapes, ("blocks.0.", "blocks.1.", "blocks.2."), True)),
    # Luo et al. 2024 (BAdam), section 2: Adam on the block alone, from the first one on
    ("badam", {"order": "descending"}, lambda shapes: blocks_of(shapes, ("blocks.3.",), False)),
]


@pytest.mark.parametrize(("name", "knobs", "formula"), FORMULAS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_step_leaves_what_the_papers_formula_says(name: str, knobs: dict[str, Any], formula: Any) -> None:
    shapes = list(llama(32, 88, 4, 100))
    optimizer = built(name, knobs, shapes, "cpu")
    for weight in optimizer.param_groups[0]["params"] if name != "muon" else [w for g in optimizer.param_groups for w in g["params"]]:
        weight.grad = torch.randn(weight.shape)
    optimizer.step()
    assert held_bytes(optimizer) == formula(shapes)


@each_claim
def test_real_tensors_after_a_step_hold_what_is_declared(name: str, knobs: dict[str, Any], least: float, most: float) -> None:
    shapes = list(llama(64, 170, 2, 300))
    small = {"rank": max(1, knobs["rank"] // 32)} if "rank" in knobs else {}
    optimizer = built(name, knobs | small, shapes, "cpu")
    for weight in optimizer.param_groups[0]["params"]:
        weight.grad = torch.randn(weight.shape)
    optimizer.step()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for tensor in state.values()
    }
    assert sum(storages.values()) == held_bytes(optimizer) == declared_bytes(optimizer, shapes)
