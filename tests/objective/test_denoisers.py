"""What every denoiser asks of the stacks that it uses: room for what is read and what is asked, a head on what the decoder gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec

SPECIALS = {"end": 0, "pad": 1, "regular": 490, "sequential": 491, "extreme": 492} | {
    f"sentinel_{index}": 400 + index for index in range(90)
}
LEARNED = {"name": "token", "position": "learned"}
DECODER = {
    "name": "transformer",
    "depth": 1,
    "inner": 8,
    "mixer": {"name": "attention", "heads": 2},
    "cross": {"name": "cross_attention", "heads": 2},
}

pytestmark = pytest.mark.parametrize("name", ["span_corruption", "mixture_of_denoisers"])


def test_one_stack_has_room_for_both_parts(tiny_recipe: Any, name: str) -> None:
    tokens = torch.randint(2, 400, (64, 512), generator=torch.Generator().manual_seed(0))
    given = {"tokens": tokens, "segments": torch.ones(64, 512, dtype=torch.int32), "rows": torch.arange(64), "key": torch.tensor(2)}
    found = spec("objective", name, form="causal").build(width=8, vocabulary=500, specials=SPECIALS).prepare(given)
    need = found["tokens"].shape[1]
    assert found["positions"].max() < need

    def said(size: int | None) -> str:
        objective = {"name": name, "form": "causal", "sentinels": list(range(40))}
        embedding = LEARNED if size is None else LEARNED | {"position": {"name": "learned", "size": size}}
        mixer = {"name": "attention", "heads": 2, "position": None}
        patch = {"data": {"sequence": 512}, "model": {"objective": objective, "embedding": embedding, "encoder": {"mixer": mixer}}}
        return "\n".join(problem.message for problem in check(tiny_recipe(patch))[1])

    assert "embedding ends at 512" in said(None) and f"at least {need}" in said(need - 1) and "embedding ends" not in said(need)


def test_the_head_reads_what_the_decoder_gives(tiny_recipe: Any, name: str) -> None:
    objective = {"name": name, "sentinels": list(range(300, 400))}
    for tied in (True, False):
        found = check(tiny_recipe({"model": {"objective": objective | {"tied": tied}, "decoder": DECODER}}))[1]
        assert any("the decoder ends at 8" in problem.message for problem in found) == bool(found) == tied
    encoder = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}
    tree = {"width": 16, "embedding": "token", "encoder": encoder, "decoder": DECODER, "objective": objective | {"tied": False}}
    model = build_model(resolve(Recipe(tree), Graph), vocabulary=500, sequence=64, specials=SPECIALS, dtype=torch.float32)
    given = {"tokens": torch.randint(2, 300, (2, 64)), "rows": torch.arange(2), "key": torch.tensor(3)}
    loss = model(model.objective.prepare(given))["cross_entropy"]
    assert model.objective.head.weight.shape == (500, 8) and loss.isfinite().all()
