"""The mixture: equal to a dense layer where it must be, to transformers' Mixtral, to itself however it is run; what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.axes import axes_of
from ingot.core.parts import load
from ingot.core.recipe import Recipe
from ingot.core.resolve import spec
from ingot.nn.context import Context

WIDTH, LENGTH = 16, 10
DENSE = spec("nn.linear", "dense")


def build(layer: int = 0, **knobs: Any) -> Any:
    module = spec("nn.feedforward", "moe", **{"experts": 4, "expert": {"name": "swiglu", "hidden": 24}} | knobs).build(
        width=WIDTH, linear=DENSE, layer=layer
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def context(rows: int = 3, segments: Tensor | None = None) -> Context:
    return Context(torch.arange(LENGTH).expand(rows, -1), segments, True, torch.arange(rows), torch.tensor(1))


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return float((one - other).detach().norm() / other.detach().norm()) < tolerance


@pytest.mark.parametrize("expert", ["gelu", "relu2", "swiglu"])
def test_one_expert_is_the_dense_layer(expert: str) -> None:
    part = {"name": expert, "hidden": 24, "bias": True}
    mixture = build(experts=1, expert=part, router={"name": "top_k", "top_k": 1}).double()
    dense = spec("nn.feedforward", **{"name": expert, "hidden": 24, "bias": True}).build(width=WIDTH, linear=DENSE).double()
    dense.load_state_dict(
        {name.removeprefix("experts."): value[0] for name, value in mixture.state_dict().items() if name.startswith("experts.")}
    )
    x, y = inputs().requires_grad_(), inputs().requires_grad_()
    found, expected = mixture(x, context()), dense(y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-11, atol=1e-11)
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(dict(mixture.named_parameters())[f"experts.{name}"].grad[0], parameter.grad, rtol=1e-11, atol=1e-11)


def test_against_transformers_mixtral() -> None:
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config = pytest.importorskip("transformers").MixtralConfig(
        hidden_size=WIDTH, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2
    )
    config._experts_implementation = "eager"
    theirs, mine = mixtral.MixtralSparseMoeBlock(config), build(router="top_k").float()
    with torch.no_grad():
        theirs.gate.weight.copy_(mine.router.weight)
        theirs.experts.gate_up_proj.copy_(torch.cat([mine.experts.gate.weight, mine.experts.up.weight], dim=1))
        theirs.experts.down_proj.copy_(mine.experts.down.weight)
    x, y = inputs(torch.float32).requires_grad_(), inputs(torch.float32).requires_grad_()
    found, expected = mine(x, context()), theirs(y)
    assert close(found, expected, 1e-6)
    pull = torch.linspace(-1, 1, found.numel()).view(found.shape)
    (found * pull).sum().backward()
    (expected * pull).sum().backward()
    pairs = [
        (x.grad, y.grad),
        (mine.router.weight.grad, theirs.gate.weight.grad),
        (mine.experts.down.weight.grad, theirs.experts.down_proj.grad),
        (torch.cat([mine.experts.gate.weight.grad, mine.experts.up.weight.grad], dim=1), theirs.experts.gate_up_proj.grad),
    ]
    for one, other in pairs:
        assert close(one, other, 1e-4)


def test_dropped_positions_pass_through_and_shared_experts_see_all() -> None:
    plain, shared = build(capacity_factor=0.25), build(capacity_factor=0.25, shared={"name": "relu2", "hidden": 8})
    x = inputs(torch.float32)[:, :1].expand(-1, LENGTH, -1)  # all want the same two of four: ceil(0.25 * 2 * 10 / 4) = 2 of them get in
    found = plain(x, context())
    assert found[:, :2].any() and not found[:, 2:].any()
    assert torch.equal(shared(x, context())[:, 2:], shared.shared(x)[:, 2:])
    assert plain.eval()(x, context())[:, 2:].any()


def test_which_layers_are_mixtures() -> None:
    kinds = [build(layer, every=2, first_dense=2).dense is None for layer in range(6)]
    assert kinds == [False, False, False, True, False, True]
    layer = build(0, first_dense=1, dense={"name": "gelu", "hidden": 40})
    assert layer.dense.up.weight.shape == (40, WIDTH) and layer(inputs(torch.float32), context()).shape == (3, LENGTH, WIDTH)


def test_axes_and_initial_values() -> None:
    """Experts start as the dense layer does: outputs into the residual stream smaller; mup by the width of an expert's inputs."""

    class Held(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.encoder = nn.Module()
            self.encoder.depth, self.encoder.width = 8, width  # type: ignore[assignment]
            knobs = {"experts": 4, "expert": {"name": "swiglu", "hidden": 4 * width}}
            self.encoder.feedforward = spec("nn.feedforward", "moe", **knobs).build(width=width, linear=DENSE, layer=0)
            self.objective = nn.Module()

    held = Held(64)
    axes = axes_of(held)
    assert axes["encoder.feedforward.experts.down.weight"] == (("experts", "width", "hidden"), "matrix")
    assert axes["encoder.feedforward.router.weight"] == (("experts", "width"), "matrix")
    spec("model.init", "normal").build().apply(held, seed=0)
    experts = held.encoder.feedforward.experts
    assert float(experts.up.weight.detach().std()) == pytest.approx(0.02, rel=0.02) and float(
        experts.down.weight.detach().std()
    ) == pytest.approx(0.005, rel=0.02)
    mup = spec("model.init", "mup", base_width=16).build()
    mup.apply(held, seed=0)
    assert float(experts.up.weight.detach().std()) == pytest.approx(0.01, rel=0.02) and float(
        experts.down.weight.detach().std()
    ) == pytest.approx(0.0025, rel=0.02)
    shapes = {name: tuple(parameter.shape) for name, parameter in held.named_parameters()}
    assert {mup.lr_scale(name, axes[name], shapes[name]) for name in axes} == {0.25}


def test_muon_orthogonalizes_every_expert_by_itself() -> None:
    module = build()
    groups = [
        {
            "params": list(module.parameters()),
            "names": [name for name, _ in module.named_parameters()],
            "axes": list(axes_of(module).values()),
            "lr_scale": 1.0,
            "decay": True,
        }
    ]
    before = module.experts.up.weight.detach().clone()
    optimizer = spec("optim", "muon", lr=1.0, momentum=0.0, nesterov=False).build(params=groups)
    module(inputs(torch.float32), context()).square().sum().backward()
    optimizer.step()
    for change in module.experts.up.weight.detach() - before:
        values = torch.linalg.svdvals(change / (24 / WIDTH) ** 0.5)
        assert float(values.max()) < 1.3 and float(values.median()) > 0.5


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"router": {"name": "top_k", "top_k": 5}}, "chooses 5 of 4 experts"),
        ({"expert": {"name": "moe", "experts": 2}}, "cannot itself be a mixture"),
        ({"router": "soft", "capacity_factor": 1.0}, "sets each expert's load itself"),
    ],
)
def test_wrong_combinations_are_refused_in_a_sentence(knobs: dict[str, Any], message: str) -> None:
    found = list(load("nn.feedforward", "moe").check(spec("nn.feedforward", "moe", **{"experts": 4} | knobs).knobs, {"width": 16}))
    assert len(found) == 1 and message in found[0]


MIXTURE = {"name": "moe", "experts": 4}
STACK = {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 2}}
DECODER = {
    "objective": "span_corruption",
    "target_embedding": "token",
    "decoder": STACK | {"cross": {"name": "cross_attention", "heads": 2}},
}
TOWER = {"towers": {"text": {"embedding": "token", "encoder": STACK}}}


@pytest.mark.parametrize("where", ["encoder", "decoder", "towers.text.encoder"])
@pytest.mark.parametrize("linear", ["encoder", "decoder", "towers.text.encoder"])
def test_the_linears_are_those_of_the_stack_around_it(tiny_recipe: Any, where: str, linear: str) -> None:
    """A mixture wants dense linears of its own stack; those of the others are free."""
    from ingot.build.check import check

    tree = tiny_recipe({"model": copy.deepcopy(DECODER | TOWER)}).tree
    for place, key, value in ((where, "feedforward", MIXTURE), (linear, "linear", {"name": "low_rank", "rank": 4})):
        stack = tree["model"]
        for word in place.split("."):
            stack = stack[word]
        stack[key] = value
    said = [one for one in check(Recipe(tree))[1] if "stacks of dense matrices" in one.message]
    assert [one.where for one in said] == ([f"model.{where}.feedforward"] if where == linear else [])


@pytest.mark.parametrize(("knobs", "refused"), [({}, False), ({"every": 2}, False), ({"every": 3}, True), ({"first_dense": 2}, True)])
def test_a_stack_without_any_mixture_is_refused(tiny_recipe: Any, knobs: dict[str, Any], refused: bool) -> None:
    from ingot.build.check import check

    problems = check(tiny_recipe({"model": {"encoder": {"feedforward": MIXTURE | knobs}}}))[1]
    assert [("leave no mixture among the 2 layers" in one.message, one.where) for one in problems] == [
        (True, "model.encoder.feedforward")
    ] * refused


def test_a_side_loss_that_no_layer_leaves_is_refused(tiny_recipe: Any) -> None:
    from ingot.build.check import check

    mixture = {"model": {"encoder": {"feedforward": {"name": "moe", "experts": 4}}}}
    assert not check(tiny_recipe(mixture, {"stages": {0: {"side": {"balance": 0.01, "router_z": 0.001}}}}))[1]
    (problem,) = check(tiny_recipe(mixture, {"stages": {0: {"side": {"balnce": 0.01}}}}))[1]
    assert "Did you mean 'balance'" in problem.message
    assert "There are: none" in check(tiny_recipe({"stages": {0: {"side": {"balance": 0.01}}}}))[1][0].message


def model(**knobs: Any) -> Any:
    from ingot.model.graph import Model

    wiring = {"width": WIDTH, "vocabulary": 24, "sequence": 32, "specials": {}, "linear": DENSE}
    feedforward = {"name": "moe", "experts": 4, "expert": {"name": "swiglu", "hidden": 24}} | knobs
    encoder = spec("model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, feedforward=feedforward).build(
        **wiring
    )
    built = Model(
        embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=spec("objective", "causal_lm").build(**wiring)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return built


@pytest.mark.parametrize(
    "router",
    [{"name": "top_k", "jitter": 0.1}, {"name": "bias_balanced"}, {"name": "hash"}, {"name": "expert_choice", "leak_future": True}],
)
def test_generation_with_a_cache_says_the_same(router: dict[str, Any]) -> None:
    from ingot.model.generate import caches, generate

    built = model(router=router, **({} if router["name"] == "expert_choice" else {"capacity_factor": 0.5}))
    assert caches(built.encoder) == (router["name"] != "expert_choice"), "expert choice needs whole rows"
    texts = [list(generate(built, [3, 5, 7], max_new=12, temperature=0, cached=cached)) for cached in (True, False)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


def test_activation_checkpointing_counts_a_load_once_and_keeps_the_gradient() -> None:
    from ingot.train.step import forward_backward

    built, layout = model(), spec("parallel.layout", "single").build()
    batch = {
        "rows": torch.arange(3),
        "tokens": torch.randint(0, 24, (3, 12), generator=torch.Generator().manual_seed(1)),
        "key": torch.tensor(1),
    }
    gradients, loads = [], []
    for checkpointing in (False, True):
        built.encoder.checkpointing = checkpointing
        built.zero_grad()
        found = forward_backward(built, [built.objective.prepare(batch)], layout, {"balance": 0.5, "router_z": 0.1})
        gradients.append([parameter.grad.clone() for parameter in built.parameters()])
        loads.append([int(counts["load"].sum()) for counts in found.counts.values()])
    assert loads == [[3 * 12 * 2] * 2] * 2
    assert all(torch.equal(one, other) for one, other in zip(*gradients))


def test_a_plan_tells_active_parameters_apart() -> None:
    from ingot.ledger.forecast import active_parameters

    built = model(router={"name": "top_k", "top_k": 1})
    every = sum(parameter.numel() for parameter in built.parameters())
    experts = sum(parameter.numel() for name, parameter in built.named_parameters() if ".experts." in name)
    assert active_parameters(built) == every - experts * 3 // 4


def test_a_forecast_counts_what_the_meter_counts() -> None:
    from ingot.ledger.flops import FlopCount
    from ingot.ledger.forecast import forecast
    from ingot.ops.flops import register

    register()
    built = model(shared={"name": "swiglu", "hidden": 8})
    batch = {
        "rows": torch.arange(3),
        "tokens": torch.randint(0, 24, (3, 12)),
        "key": torch.tensor(1),
        "segments": torch.ones(3, 12, dtype=torch.int32),
        "positions": torch.arange(12).expand(3, -1),
    }
    batch = built.objective.prepare(batch)
    predicted = forecast(built, batch, lambda twin: torch.optim.SGD(twin.parameters(), lr=0.1))
    with FlopCount(built) as count:
        torch.stack([loss.sum() for loss in built(batch).values()]).sum().backward()
    assert predicted.flops_by_component["encoder"] == count.by_component["encoder"]
