"""Models trained apart become experts of one: their feed-forwards are kept, everything else is averaged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ingot
from ingot.core.errors import UserError
from ingot.train.checkpoint import read_tensors


def branches(tiny_recipe: Any, names: tuple[str, ...] = ("first", "second"), width: int = 32) -> list[str]:
    for seed, name in enumerate(names):
        ingot.build(tiny_recipe({"model": {"width": width}, "stages": {0: {"budget": "2 steps"}}, "seed": seed}, name=name)).train()
    return [f"runs/{name}" for name in names]


def mixed(tiny_recipe: Any, paths: list[str]) -> Any:
    stages = [
        {"budget": "2 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}},
        {
            "budget": "2 steps",
            "batch": "8 rows",
            "optimizer": {"name": "adamw", "lr": 0.003},
            "transforms": [{"name": "from_checkpoints", "paths": paths}],
        },
    ]
    return ingot.build(tiny_recipe({"stages": stages, "checkpoint": {"every": "100%"}}, name="mixed"))


def test_every_branch_is_an_expert_and_the_rest_is_the_mean(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = branches(tiny_recipe)
    run, seen = mixed(tiny_recipe, paths), {}
    inner = run.program.save

    def save(state: Any, metrics: Any) -> Any:
        seen[state.progress.stage, state.progress.steps] = {
            name: value.detach().clone() for name, value in state.model.state_dict().items()
        }
        return inner(state, metrics)

    monkeypatch.setattr(run.program, "save", save)
    run.train()
    parts = [
        seen[0, 2],
        *(read_tensors(run.checkpoints.folder.parent.parent / path.split("/")[1] / "checkpoints" / "step-00000002") for path in paths),
    ]
    found = seen[1, 0]
    for name in ("embedding.weight", "encoder.blocks.1.mixer.query.weight", "encoder.norm.weight"):
        torch.testing.assert_close(found[name], sum(part[name] for part in parts) / 3)
    for index, part in enumerate(parts):
        assert torch.equal(found["encoder.blocks.0.feedforward.experts.up.weight"][index], part["encoder.blocks.0.feedforward.up.weight"])


def test_a_branch_of_another_make_is_refused(tiny_recipe: Any) -> None:
    run = mixed(tiny_recipe, branches(tiny_recipe, ("other",), width=16))
    with pytest.raises(UserError, match="not of the same make"):
        run.train()


def test_a_missing_branch_is_refused(tiny_recipe: Any) -> None:
    with pytest.raises(UserError, match="nothing to read at nowhere"):
        mixed(tiny_recipe, ["nowhere"]).train()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"encoder": {"norm": {"name": "rms", "eps": 0.5}}}}, r"encoder\.norm\.eps=0\.5"),
        ({"model": {"objective": {"name": "causal_lm", "softcap": 3.0}}}, r"objective\.softcap=3\.0"),
    ],
)
def test_a_branch_that_computes_something_else_is_refused(tiny_recipe: Any, change: dict[str, Any], said: str) -> None:
    """Its weights have the same names and shapes, and would be averaged."""
    stage = {"stages": {0: {"budget": "1 steps"}}}
    ingot.build(tiny_recipe(change | stage, name="other")).train()
    with pytest.raises(UserError, match=f"runs/other is not of the same make as the model at hand: it has .*{said}"):
        mixed(tiny_recipe, ["runs/other"]).train()


def test_a_branch_of_another_tokenizer_is_refused(tiny_recipe: Any) -> None:
    other = tiny_recipe({"data": {"tokenizer": {"name": "bpe", "vocabulary": 300}}, "model": {"vocabulary": 400}}, name="other")
    ingot.build(other).train()
    run = mixed(tiny_recipe, ["runs/other"])
    run.section.model.vocabulary = run.graph.vocabulary = 400
    with pytest.raises(UserError, match="another tokenizer"):
        run.train()
