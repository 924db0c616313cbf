"""Every transform: a pure edit of the graph, a result that fits, a function preserved where that is claimed, state carried."""

from __future__ import annotations

import copy
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.build.schema import Graph
from ingot.core.parts import load, parts_in, plain, signature
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "transform"))
from _growth import MAKES, PLAIN, Growth

SLOTS = ["transform"]


def start(case: Any, tree: dict[str, Any], **others: Any) -> Growth:
    """A model that the transform applies to; ``example`` puts in what it edits, where a plain model does not have it."""
    return Growth(getattr(case.target, "example", lambda given: given)(copy.deepcopy(tree)), **others)


def fits(case: Any, growth: Growth) -> bool:
    try:
        case.build().graph(plain(growth.graph))
    except ValueError:
        return False
    return True


def test_the_graph_is_a_pure_edit_of_plain_data(case: Any) -> None:
    growth = start(case, PLAIN)
    tree = plain(growth.graph)
    before = copy.deepcopy(tree)
    after = case.build().graph(tree)
    assert tree == before and after != before and case.build().graph(copy.deepcopy(tree)) == after
    resolve(Recipe(after), Graph)


@pytest.mark.parametrize("make", list(MAKES))
def test_the_result_fits_and_keeps_the_function_where_that_is_claimed(case: Any, make: str) -> None:
    growth = start(case, MAKES[make])
    if not fits(case, growth):
        pytest.skip("refused, with a sentence")
    tied, before = growth.model.objective.head is None, growth.logits()
    (line,) = growth.grow(case.spec())
    after = growth.logits()
    assert torch.isfinite(after).all() and (growth.model.objective.head is None) == tied
    assert line["after"]["parameters"] == sum(item.numel() for item in growth.model.parameters())
    difference = float((after - before).abs().max())
    assert difference < 1e-10 or not line["preserves"], f"logits differ by {difference:.1e}"


def test_the_arguments_are_not_changed(case: Any) -> None:
    growth = start(case, PLAIN)
    growth.train(3)
    snapshot, target = growth.snapshot(), growth.target(case.spec())
    kept = copy.deepcopy((snapshot.weights, snapshot.state, target.weights))
    case.build()(snapshot, target)
    for old, new in zip(kept, (snapshot.weights, snapshot.state, target.weights), strict=True):
        assert old.keys() == new.keys()
        for name, value in old.items():
            assert (
                torch.equal(value, new[name])
                if isinstance(value, torch.Tensor)
                else all(torch.equal(value[key], new[name][key]) for key in value)
            )


def test_with_its_state_the_loss_does_not_jump(case: Any) -> None:
    """A trained model, grown, then one more step: at most 0.02 nats above the loss before growing."""
    growth = start(case, PLAIN, optimizer={"name": "adamw", "lr": 0.003})
    growth.train(60)
    before = growth.loss().item()
    (line,) = growth.grow(case.spec())
    if not line["preserves"]:
        pytest.skip("does not claim to preserve the function")
    assert growth.moments("exp_avg"), "no state was carried"
    growth.step(0)
    assert growth.loss().item() < before + 0.02


@pytest.mark.parametrize("linear", sorted(parts_in("nn.linear")))
def test_every_linear_is_carried_or_refused(case: Any, linear: str) -> None:
    needs = {name: 4 for name, (_, default) in signature(load("nn.linear", linear)).knobs.items() if default is inspect.Parameter.empty}
    growth = Growth({**PLAIN, "encoder": {**PLAIN["encoder"], "linear": {"name": linear, **needs}}})
    if not fits(case, growth):
        pytest.skip("refused, with a sentence")
    growth.train(3)
    before = growth.logits()
    (line,) = growth.grow(case.spec())
    assert float((growth.logits() - before).abs().max()) < 1e-10 or not line["preserves"]
    first = growth.loss()
    growth.train(12)
    assert growth.loss() < first


MIXTURES: dict[str, dict[str, Any]] = {
    "top_k": {},
    "biased, of every kind": {
        "router": "bias_balanced",
        "shared": {"name": "relu2", "hidden": 8},
        "capacity_factor": 1.0,
        "first_dense": 1,
    },
    "hash": {"router": "hash"},
    "gated": {"expert": {"name": "swiglu", "hidden": 10}, "router": {"name": "top_k", "top_k": 3, "normalize": False}},
}


def mixture(knobs: dict[str, Any]) -> dict[str, Any]:
    part = {"name": "moe", "experts": 4, "expert": {"name": "gelu", "bias": True, "hidden": 8}} | knobs
    return {**PLAIN, "encoder": {**PLAIN["encoder"], "feedforward": part}}


@pytest.mark.parametrize("mixture_of", list(MIXTURES))
@pytest.mark.parametrize("transform", ["widen", "hyperclone"])
def test_a_mixture_of_experts_grows_wider(transform: str, mixture_of: str) -> None:
    growth = Growth(mixture(MIXTURES[mixture_of]))
    growth.train(6)
    before = growth.logits()
    (line,) = growth.grow(transform)
    assert not line["notes"] and float((growth.logits() - before).abs().max()) < 1e-10
    first = growth.loss()
    growth.train(8)
    assert growth.loss() < first


def test_the_moments_of_cloned_experts_are_their_gradients() -> None:
    """Clones are equal, so the larger model's gradients are known: state that was the gradient and its square still is."""
    growth = Growth(mixture({"shared": {"name": "relu2", "hidden": 8}}) | {"objective": {"name": "causal_lm", "tied": False}})
    growth.remember_gradients()
    growth.grow("hyperclone")
    moments, squares, found = growth.moments("exp_avg"), growth.moments("exp_avg_sq"), growth.gradients()
    assert any(".experts." in name for name in found) and any(".router." in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(moments[name], gradient, rtol=1e-8, atol=1e-14)
        torch.testing.assert_close(squares[name], gradient**2, rtol=1e-8, atol=1e-20)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"shared": {"name": "relu2", "hidden": 16}}, "8 and 16 hidden units, which would not copy alike; give them one hidden size"),
        ({"router": "soft"}, "measures the lengths of vectors, which unequal copies change; grow in depth"),
    ],
)
def test_a_mixture_that_cannot_be_widened_is_told_what_to_do_instead(part: dict[str, Any], words: str) -> None:
    tree = mixture(part) | {"objective": {"name": "masked_lm", "rate": 0.4}}
    with pytest.raises(ValueError, match=words):
        load("transform", "widen")().graph(plain(resolve(Recipe(tree), Graph)))


@pytest.mark.parametrize("optimizer", sorted(parts_in("optim")))
def test_every_optimizer_goes_on(case: Any, optimizer: str) -> None:
    """With all of its state, or with what it could carry and a word about the rest; and learns on."""
    if case.number:
        pytest.skip("one case of each transform is enough")
    lr = {} if "lr" not in signature(load("optim", optimizer)).knobs else {"lr": 0.003}
    growth = start(case, PLAIN, optimizer={"name": optimizer, **lr})
    growth.train(8)
    held = {name for name, parameter in growth.model.named_parameters() if growth.state.optimizer.state.get(parameter)}
    (line,) = growth.grow(case.spec())
    first = growth.loss().item()
    kept = {name for name, parameter in growth.model.named_parameters() if growth.state.optimizer.state.get(parameter)}
    assert held & {name for name, _ in growth.model.named_parameters()} <= kept or line["notes"]
    growth.train(12)
    assert growth.loss().item() < first
