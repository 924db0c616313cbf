"""Cross attention: against the definition, its masks, and its fixed keys and values in generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.build.check import check
from ingot.core.resolve import spec
from ingot.nn.context import Cache, Context

WIDTH, MEMORY, T, S = 16, 24, 5, 7


def mixer(**knobs: object) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = spec("nn.mixer", "cross_attention", **({"heads": 4} | knobs)).build(
        width=WIDTH, linear=spec("nn.linear", "dense"), layer=0, memory_width=MEMORY
    )
    return built.double()


def given(seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, T, WIDTH, generator=draw, dtype=torch.float64), torch.randn(2, S, MEMORY, generator=draw, dtype=torch.float64)


def test_equals_torchs_own_attention_layer() -> None:
    layer, (x, memory) = mixer(bias=True), given()
    theirs = nn.MultiheadAttention(WIDTH, 4, kdim=MEMORY, vdim=MEMORY, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(layer.query.weight)
        theirs.k_proj_weight.copy_(layer.key.weight)
        theirs.v_proj_weight.copy_(layer.value.weight)
        theirs.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key.bias, layer.value.bias]))
        theirs.out_proj.weight.copy_(layer.output.weight)
        theirs.out_proj.bias.copy_(layer.output.bias)
    real = torch.tensor([[1] * S, [1] * 4 + [0] * 3], dtype=torch.int32)
    expected, _ = theirs(x, memory, memory, key_padding_mask=real == 0)
    found = layer(x, Context(torch.arange(T).expand(2, -1), memory_BSD=memory, memory_segments_BS=real))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_packed_document_sees_its_own_memory_alone() -> None:
    layer, (x, memory) = mixer(), given()
    segments = torch.tensor([[1, 1, 2, 2, 0]]).expand(2, -1)
    context = Context(
        torch.arange(T).expand(2, -1),
        segments,
        memory_BSD=memory.requires_grad_(),
        memory_segments_BS=torch.tensor([[1, 1, 1, 2, 2, 2, 0]]).expand(2, -1),
    )
    y = layer(x, context)
    for position, seen in ((0, [True] * 3 + [False] * 4), (3, [False] * 3 + [True] * 3 + [False])):
        (gradient,) = torch.autograd.grad(y[0, position].sum(), memory, retain_graph=True)
        assert gradient[0].any(dim=-1).tolist() == seen


def test_in_generation_the_memory_is_projected_once() -> None:
    layer, (x, memory) = mixer(), given()
    whole = layer(x, Context(memory_BSD=memory))
    cache, calls = Cache(T), []
    layer.key.register_forward_hook(lambda *_: calls.append(1))
    pieces = [layer(x[:, at : at + 1], Context(cache=cache, memory_BSD=memory)) for at in range(T)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-12, atol=1e-12)
    assert calls == [1]


def test_outside_a_decoder_it_says_so() -> None:
    with pytest.raises(ValueError, match="belongs into a decoder"):
        mixer()(given()[0], Context())


def test_heads_that_do_not_divide_the_width_are_refused(tiny_recipe: Any) -> None:
    def said(**knobs: Any) -> str:
        decoder = {
            "name": "transformer",
            "depth": 1,
            "mixer": {"name": "attention", "heads": 1},
            "cross": {"name": "cross_attention"} | knobs,
        }
        model = {"objective": {"name": "span_corruption", "sentinels": [3, 4, 5]}, "decoder": decoder | {"inner": 24}}
        return "\n".join(problem.message for problem in check(tiny_recipe({"model": model}))[1])

    assert "5 heads do not divide the width 24" in said(heads=5)
    assert "do not divide" not in said(heads=3) and "do not divide" not in said(heads=5, head_dim=4)
