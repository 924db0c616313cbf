"""The whole graph: packing, splitting into micro-batches, precision, compilation, declared axes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ingot.core.axes import axes_of
from ingot.core.resolve import spec
from ingot.model.graph import Model

V, T = 61, 24


def build(width: int = 32, embedding: Any = "token", objective: Any = "causal_lm", **encoder: Any) -> Model:
    """A small model from parts given as a recipe would."""

    def chosen(slot: str, value: Any) -> Any:
        value = {"name": value} if isinstance(value, str) else dict(value)
        wiring = {"width": width, "vocabulary": V, "sequence": T, "specials": {"end": 0, "mask": 1}, "linear": spec("nn.linear", "dense")}
        return spec(slot, value.pop("name"), **value).build(**wiring)

    knobs = {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 4, "kv_heads": 2}} | encoder
    model = Model(
        embedding=chosen("nn.embedding", embedding), encoder=chosen("model.encoder", knobs), objective=chosen("objective", objective)
    )
    spec("model.init", "normal", std=0.1).build().apply(model, 0)
    return model


def packed(lengths: list[list[int]], seed: int = 0) -> dict[str, Tensor]:
    """Rows of documents of the given lengths, padded to T."""
    tokens = torch.randint(2, V, (len(lengths), T), generator=torch.Generator().manual_seed(seed))
    segments, positions = torch.zeros(len(lengths), T, dtype=torch.int32), torch.zeros(len(lengths), T, dtype=torch.int64)
    for row, documents in enumerate(lengths):
        start = 0
        for number, length in enumerate(documents, 1):
            segments[row, start : start + length] = number
            positions[row, start : start + length] = torch.arange(length)
            start += length
    return {
        "tokens": tokens,
        "segments": segments,
        "positions": positions,
        "rows": torch.arange(100, 100 + len(lengths)),
        "key": torch.tensor(5),
    }


def piece(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value if value.dim() == 0 else value[rows] for name, value in batch.items()}


@pytest.mark.parametrize(("objective", "causal"), [("causal_lm", True), ("masked_lm", False)])
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_a_document_does_not_see_its_neighbors(objective: str, causal: bool, position: str) -> None:
    mixer = {"name": "attention", "heads": 4, "position": "rotary" if position == "rotary" else None}
    model = (
        build(embedding={"name": "token", "position": "learned" if position == "learned" else None}, mixer=mixer, objective=objective)
        .eval()
        .double()
    )
    model.compute_dtype = torch.float64
    one, other = packed([[9, 10, 5]]), packed([[9, 10, 5]], seed=1)
    other["tokens"][:, 9:19] = one["tokens"][:, 9:19]
    assert not torch.equal(one["tokens"], other["tokens"])
    a, b = (model.logits(model.encode(batch, causal=causal)) for batch in (one, other))
    torch.testing.assert_close(a[:, 9:19], b[:, 9:19], rtol=1e-12, atol=1e-12)
    alone = {"tokens": one["tokens"][:, 9:19]}
    torch.testing.assert_close(a[:, 9:19], model.logits(model.encode(alone, causal=causal)), rtol=1e-11, atol=1e-11)


def test_packed_loss_is_the_sum_of_single_documents_losses() -> None:
    model = build(objective={"name": "causal_lm", "z_loss": 1e-3}).double()
    model.compute_dtype = torch.float64
    batch = model.objective.prepare(packed([[9, 10, 5], [20]]))
    losses = model(batch)
    assert batch["units"].tolist() == [8 + 9 + 4, 19]
    for row, spans in enumerate([[(0, 9), (9, 19), (19, 24)], [(0, 20)]]):
        singles = [model(model.objective.prepare({"tokens": batch["tokens"][row : row + 1, start:end]})) for start, end in spans]
        for name in ("cross_entropy", "z_loss"):
            torch.testing.assert_close(losses[name][row], sum(single[name][0] for single in singles), rtol=1e-11, atol=1e-11)


def test_loss_is_torch_cross_entropy_of_the_logits() -> None:
    for objective in (
        {"name": "causal_lm", "tied": False, "bias": True, "softcap": 5.0},
        {"name": "masked_lm", "rate": 0.4, "transform": "layer", "bias": True},
    ):
        model = build(objective=objective).double()
        model.compute_dtype = torch.float64
        batch = model.objective.prepare(packed([[9, 15], [20], []]))
        losses = model(batch)["cross_entropy"]
        logits = model.logits(model.encode(batch, causal=model.objective.causal))
        expected = F.cross_entropy(logits.transpose(1, 2), batch["targets"], ignore_index=-100, reduction="none")
        torch.testing.assert_close(losses, expected.sum(1), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(model.objective.token_losses(model, batch), expected, rtol=1e-11, atol=1e-11)
        names = [name for name, _ in model.named_parameters()]
        found = torch.autograd.grad(losses.sum(), list(model.parameters()), allow_unused=True)
        wanted = torch.autograd.grad(expected.sum(), list(model.parameters()), allow_unused=True)
        for name, one, other in zip(names, found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("objective", ["causal_lm", {"name": "masked_lm", "rate": 0.3, "transform": "rms"}])
def test_gradients_do_not_depend_on_how_rows_are_split_even_with_dropout(objective: Any) -> None:
    model = build(objective=objective, embedding={"name": "token", "dropout": 0.1}, dropout=0.2)
    batch = packed([[9, 10, 5], [24], [3, 4], [], [1, 1, 20]])
    gradients = []
    for parts in ([slice(0, 5)], [slice(0, 2), slice(2, 5)], [slice(i, i + 1) for i in range(5)]):
        model.zero_grad()
        for rows in parts:
            sum(loss.sum() for loss in model(model.objective.prepare(piece(batch, rows))).values()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert gradients[0].norm() > 1
    for other in gradients[1:]:
        assert (gradients[0] - other).norm() < 1e-6 * gradients[0].norm()


def test_padding_rows_add_nothing_and_no_nan() -> None:
    model = build(dropout=0.1)
    batch = model.objective.prepare(packed([[24], []]))
    losses = model(batch)["cross_entropy"]
    assert losses[1] == 0 and batch["units"][1] == 0
    losses.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_bf16_activations_fp32_masters() -> None:
    model, batch = build(), packed([[9, 15], [24]])
    exact = model(model.objective.prepare(batch))["cross_entropy"]
    model.compute_dtype = torch.bfloat16
    assert model.encode(batch, causal=True).dtype == torch.bfloat16
    rough = model(model.objective.prepare(batch))["cross_entropy"]
    assert rough.dtype == torch.float32 and (rough - exact).abs().max() < 0.01 * exact.max()
    rough.sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_checkpointing_and_compiled_blocks_give_the_same_gradients() -> None:
    batch, found = packed([[9, 15], [24]]), []
    for setting in ("plain", "checkpointing", "compiled", "both"):
        model = build(dropout=0.2)
        model.encoder.checkpointing = "full" if setting in ("checkpointing", "both") else "none"
        if setting in ("compiled", "both"):
            torch._dynamo.reset()
            model.compile_blocks(backend="aot_eager", fullgraph=True)
        model(model.objective.prepare(batch))["cross_entropy"].sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for other in found[1:]:
        assert (found[0] - other).norm() < 1e-6 * found[0].norm()


def test_all_blocks_compile_to_one_graph() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    model = build(depth=4, dropout=0.1)
    model.compile_blocks(backend=counter, fullgraph=True)
    for seed in range(3):
        model(model.objective.prepare(packed([[9, 15], [24]], seed=seed) | {"key": torch.tensor(seed)}))["cross_entropy"].sum().backward()
    assert counter.frame_count == 1


COMBINATIONS = list(
    itertools.product(
        ["token", "byte", {"name": "token", "position": "learned", "norm": "layer", "types": 2}],
        [
            {"name": "attention", "heads": 4},
            {"name": "attention", "heads": 4, "kv_heads": 1, "position": None, "bias": True, "qk_norm": "rms"},
        ],
        ["gelu", "swiglu", "relu2"],
        ["pre", "post", "hybrid"],
        ["rms", "layer"],
        ["causal_lm", {"name": "causal_lm", "tied": False, "bias": True}, {"name": "masked_lm", "transform": "layer", "bias": True}],
    )
)


@pytest.mark.parametrize("number", range(0, len(COMBINATIONS), 5))
def test_every_combination_runs_and_declares_its_axes(number: int) -> None:
    embedding, mixer, feedforward, block, norm, objective = COMBINATIONS[number]
    model = build(
        embedding=embedding,
        objective=objective,
        mixer=mixer,
        feedforward={"name": feedforward, "bias": number % 2 == 0} if number % 3 else feedforward,
        block=block,
        norm=norm,
    )
    assert set(axes_of(model)) == {name for name, _ in model.named_parameters()}
    loss = sum(losses.sum() for losses in model(model.objective.prepare(packed([[9, 15], [24]]))).values())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_names_of_parameters_are_as_documented() -> None:
    names = set(
        build(
            objective={"name": "causal_lm", "tied": False}, feedforward="swiglu", mixer={"name": "attention", "heads": 4, "qk_norm": "rms"}
        ).state_dict()
    )
    block = "encoder.blocks.1."
    assert {
        block + name
        for name in (
            "mixer_norm.weight",
            "mixer.query.weight",
            "mixer.key.weight",
            "mixer.value.weight",
            "mixer.output.weight",
            "mixer.query_norm.weight",
            "mixer.key_norm.weight",
            "feedforward_norm.weight",
            "feedforward.up.weight",
            "feedforward.gate.weight",
            "feedforward.down.weight",
        )
    } | {"embedding.weight", "encoder.norm.weight", "objective.head.weight"} <= names
    assert len(names) == 2 * 11 + 3
