"""Attention against transformers' Llama and against the definition; what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ingot.core.axes import axes_of
from ingot.core.parts import load
from ingot.core.resolve import spec
from ingot.nn.context import Context


def build(width: int = 32, **knobs: object) -> torch.nn.Module:
    return spec("nn.mixer", "attention", **knobs).build(width=width, linear=spec("nn.linear", "dense"), layer=0, depth=1, sequence=64)


def positions(rows: int, length: int) -> Tensor:
    return torch.arange(length).expand(rows, -1)


def definition(layer: torch.nn.Module, x: Tensor, allowed_BTT: Tensor) -> Tensor:
    """Softmax attention written out with loops over heads, in the input's dtype."""
    d, group = layer.head_dim, layer.heads // layer.kv_heads
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    heads = []
    for head in range(layer.heads):
        mine, shared = slice(head * d, (head + 1) * d), slice(head // group * d, (head // group + 1) * d)
        scores = q[..., mine] @ k[..., shared].mT * (layer.scale or d**-0.5)
        if layer.softcap:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        heads.append(scores.masked_fill(~allowed_BTT, -torch.inf).softmax(-1) @ v[..., shared])
    return layer.output(torch.cat(heads, dim=-1))


@pytest.mark.parametrize(
    "knobs",
    [{"heads": 4}, {"heads": 4, "kv_heads": 2}, {"heads": 4, "kv_heads": 1, "head_dim": 6, "bias": True, "scale": 0.3, "softcap": 2.0}],
)
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 4), (False, None), (False, 4)])
def test_the_definition_and_its_gradients_in_double_precision(knobs: dict[str, object], causal: bool, window: int | None) -> None:
    layer = build(position=None, window=window, **knobs).double()
    x = torch.randn(3, 19, 32, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([[1] * 19, [1] * 7 + [2] * 12, [1] * 3 + [2] * 9 + [3] * 7])
    distance = torch.arange(19)[:, None] - torch.arange(19)
    allowed = (
        (segments[:, :, None] == segments[:, None, :]) & ((distance >= 0) | (not causal)) & ((distance.abs() < window) if window else True)
    )
    found, expected = layer(x, Context(positions(3, 19), segments, causal)), definition(layer, x, allowed)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(found)
    leaves = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), leaves), torch.autograd.grad((expected * weights).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_against_transformers_llama(kv_heads: int) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=kv_heads, attention_bias=True
    )
    config._attn_implementation = "sdpa"
    reference, layer = llama.LlamaAttention(config, 0), build(heads=4, kv_heads=kv_heads, bias=True)
    pairs = [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "o_proj")]
    for mine, theirs in pairs:
        getattr(layer, mine).load_state_dict(getattr(reference, theirs).state_dict())
    x = torch.randn(2, 11, 32)
    found = layer(x, Context(positions(2, 11)))
    expected, _ = reference(x, position_embeddings=llama.LlamaRotaryEmbedding(config)(x, positions(2, 11)), attention_mask=None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in pairs:
        one, other = getattr(layer, mine).weight.grad, getattr(reference, theirs).weight.grad
        assert torch.linalg.norm(one - other) < 1e-5 * torch.linalg.norm(other)


def test_norms_on_queries_and_keys_bound_the_scores() -> None:
    layer = build(heads=2, qk_norm="rms", position=None)
    x = torch.randn(1, 9, 32)
    torch.testing.assert_close(layer(x, Context(positions(1, 9))), layer(x * 1.0, Context(positions(1, 9))))
    with torch.no_grad():
        before = layer(x, Context(positions(1, 9)))
        layer.query.weight *= 50
    torch.testing.assert_close(layer(x, Context(positions(1, 9))), before, rtol=1e-3, atol=1e-5)


def test_shared_angles_change_nothing() -> None:
    layer, x = build(heads=2), torch.randn(2, 9, 32)
    alone, shared = Context(positions(2, 9)), Context(positions(2, 9))
    layer.share(shared, x.dtype)
    assert len(shared.shared) == 1
    assert torch.equal(layer(x, alone), layer(x, shared))


def test_every_parameter_names_its_axes() -> None:
    axes = axes_of(build(heads=4, kv_heads=2, bias=True, qk_norm="layer"))
    assert axes["query.weight"].names == ("heads", "width") and axes["key.weight"].names == ("kv_heads", "width")
    assert axes["output.weight"].names == ("width", "heads") and axes["query_norm.weight"].names == ("head_dim",)
    assert axes["value.bias"] == (("kv_heads",), "bias")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"heads": 3}, "3 heads do not divide"),
        ({"heads": 4, "kv_heads": 3}, "3 kv_heads do not divide 4 heads"),
        ({"heads": 32}, "wants an even number"),
        ({"heads": 4, "position": "learned"}, "is added to the embedding"),
    ],
)
def test_wrong_combinations_are_refused_in_a_sentence(knobs: dict[str, object], message: str) -> None:
    found = list(load("nn.mixer", "attention").check(spec("nn.mixer", "attention", **knobs).knobs, {"width": 32, "sequence": 16}))
    assert len(found) == 1 and message in found[0]


def test_right_combinations_are_not() -> None:
    for knobs in ({"heads": 4}, {"heads": 3, "head_dim": 8}, {"heads": 32, "position": None}):
        assert not list(load("nn.mixer", "attention").check(spec("nn.mixer", "attention", **knobs).knobs, {"width": 32, "sequence": 16}))
