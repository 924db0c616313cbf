"""The decoder in a whole model: it reads the encoder's output, writes causally, and answers with a cache as without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.axes import axes_of
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.model.generate import answer
from ingot.model.graph import Model

V, S, U = 31, 9, 6
STACK = {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 2}, "norm": "layer"}


def model(objective: Any = "causal_lm", **decoder: Any) -> Model:
    tree = {
        "width": 16,
        "embedding": "token",
        "encoder": STACK,
        "decoder": STACK | {"cross": {"name": "cross_attention", "heads": 2}} | decoder,
        "objective": objective,
    }
    built = build_model(resolve(Recipe(tree), Graph), vocabulary=V, sequence=32, specials={"end": 0}, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return built.double().eval()


def batch(rows: int = 2) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    segments = torch.ones(rows, S, dtype=torch.int32)
    segments[-1, 5:] = 0
    return {
        "rows": torch.arange(rows),
        "key": torch.tensor(1),
        "tokens": torch.randint(1, V, (rows, S), generator=draw),
        "segments": segments,
        "positions": torch.arange(S).expand(rows, -1),
        "decoder_tokens": torch.randint(1, V, (rows, U), generator=draw),
    }


def decoded(built: Model, given: dict[str, Tensor]) -> Tensor:
    return built.decode(given, *built.encoded(given, causal=False))


def test_it_looks_back_and_at_the_row_but_not_ahead_nor_at_padding() -> None:
    built, given = model(), batch()
    before = decoded(built, given)
    assert before.shape == (2, U, 16)
    later = given | {"decoder_tokens": given["decoder_tokens"].clone()}
    later["decoder_tokens"][:, 3] = 7
    moved = (decoded(built, later) - before).abs().amax(dim=(0, 2)) > 1e-9
    assert moved.tolist() == [False] * 3 + [True] * 3
    other = given | {"tokens": given["tokens"].clone()}
    other["tokens"][0, 2] += 1
    other["tokens"][1, 7] = 3
    moved_BU = (decoded(built, other) - before).abs().amax(dim=2) > 1e-9
    assert moved_BU[0].all() and not moved_BU[1].any()


def test_every_parameter_learns_through_it() -> None:
    built, given = model(), batch()
    decoded(built, given).square().sum().backward()
    assert axes_of(built).keys() == dict(built.named_parameters()).keys()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in built.parameters())


def test_an_answer_is_the_same_with_a_cache() -> None:
    built, given = model(), batch()
    one = {name: value[1:] if value.dim() else value for name, value in given.items()}
    plain, cached = (list(answer(built, one, start=[4], max_new=8, cached=cached)) for cached in (False, True))
    assert plain == cached and len(plain) == 8 and len(set(plain)) > 1
    assert list(answer(built, one, start=[4], max_new=8, end=plain[-1])) == plain[: plain.index(plain[-1])]


def test_a_light_decoder_has_a_width_of_its_own_and_need_not_look_at_the_encoder() -> None:
    built, given = model(inner=8, cross=None), batch()
    assert decoded(built, given).shape == (2, U, 8) and built.decoder.width == 8
    changed = given | {"tokens": (given["tokens"] + 1) % V}
    assert torch.equal(decoded(built, given), decoded(built, changed))
    assert model(inner=8).decoder.blocks[0].cross.key.weight.shape == (8, 16)


def test_recomputed_blocks_give_the_same_gradient() -> None:
    built, given = model().train(), batch()
    grads = []
    for checkpointing in (False, True):
        built.zero_grad()
        built.decoder.checkpointing = checkpointing
        decoded(built, given).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in built.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads))


def test_what_does_not_fit_is_refused() -> None:
    tree = {
        "name": "x",
        "data": {"train": "python_library", "tokenizer": "bytes"},
        "stages": [{"budget": "1 steps", "batch": "1 rows", "optimizer": {"name": "adamw", "lr": 1e-3}}],
        "model": {
            "width": 16,
            "embedding": "token",
            "encoder": STACK,
            "objective": "causal_lm",
            "decoder": STACK | {"cross": {"name": "attention", "heads": 2}},
        },
    }
    _, problems = check(Recipe(tree))
    assert any("wants a mixer over the encoder's output" in str(problem) for problem in problems)
    with pytest.raises(ValueError, match="has no decoder"):
        built = model()
        built.decoder = None
        decoded(built, batch())
    with pytest.raises(UserError, match="one row"):
        answer(model(), batch(), start=[1], max_new=2)
