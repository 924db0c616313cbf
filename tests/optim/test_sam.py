"""SAM and ASAM against their equations, and what a second call of the closure may and may not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ingot
from ingot.build.check import check
from ingot.core.axes import Axes
from ingot.core.resolve import spec

AXES = [Axes(("hidden", "width"), "matrix"), Axes(("hidden",), "bias"), Axes(("width",), "scale")]


def problem() -> tuple[list[nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in ((5, 4), (5,), (4,))]
    x, y = torch.randn(30, 4, generator=generator, dtype=torch.float64), torch.randn(30, 5, generator=generator, dtype=torch.float64)

    def loss() -> Tensor:
        return (torch.tanh((x * weights[2]) @ weights[0].T + weights[1]) - y).pow(4).mean()

    return weights, loss


def make(weights: list[nn.Parameter], inner: dict[str, Any], **knobs: Any) -> Any:
    return spec("optim", "sam", inner=inner, **knobs).build(params=[{"params": weights, "names": ["a", "b", "c"], "axes": AXES}])


def closure_of(weights: list[nn.Parameter], loss: Any, values: list[Tensor] | None = None) -> Any:
    def closure() -> Tensor:
        for weight in weights:
            weight.grad = None
        value = loss()
        value.backward()
        if values is not None:
            values.append(value.detach())
        return value

    return closure


@pytest.mark.parametrize("adaptive", [False, True])
def test_follows_the_papers_equations_for_200_steps(adaptive: bool) -> None:
    """The reference is written from the papers: e(w) = rho g / |g|, or rho T^2 g / |T g| with T = |w| + eta, 1 for biases; then SGD."""
    rho, eta = (0.5, 0.01) if adaptive else (0.05, 0.01)
    (weights, loss), (twins, other) = problem(), problem()
    optimizer = make(weights, {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}, rho=rho, adaptive=adaptive, eta=eta)
    reference = torch.optim.SGD(twins, lr=0.05, momentum=0.9, weight_decay=0.01)
    for _ in range(200):
        optimizer.step(closure_of(weights, loss))
        gradients = torch.autograd.grad(other(), twins)
        scales = [
            weight.detach().abs() + eta if adaptive and axes.role != "bias" else torch.ones_like(weight)
            for weight, axes in zip(twins, AXES)
        ]
        size = torch.cat([(scale * gradient).flatten() for scale, gradient in zip(scales, gradients)]).norm()
        steps = [rho * scale**2 * gradient / size for scale, gradient in zip(scales, gradients)]
        with torch.no_grad():
            torch._foreach_add_(twins, steps)
        for weight, gradient in zip(twins, torch.autograd.grad(other(), twins)):
            weight.grad = gradient
        with torch.no_grad():
            torch._foreach_sub_(twins, steps)
        reference.step()
        for weight, twin in zip(weights, twins):
            assert float((weight - twin).detach().norm() / twin.detach().norm()) < 1e-9
            weight.data.copy_(twin.data)  # rounding would be amplified: a step along the normalized gradient is chaotic near a minimum


def test_second_gradient_is_at_the_worst_point_and_the_weights_come_back() -> None:
    weights, loss = problem()
    optimizer, values = make(weights, {"name": "sgd", "lr": 1e-12, "momentum": 0.0}, rho=0.1), []
    before = [weight.detach().clone() for weight in weights]
    assert optimizer.step(closure_of(weights, loss, values)) == values[0]
    assert len(values) == 2 and values[1] > values[0], "uphill"
    assert all(torch.allclose(old, weight, rtol=0, atol=1e-10) for old, weight in zip(before, weights))


def test_weights_come_back_when_the_second_call_fails() -> None:
    weights, loss = problem()
    optimizer, calls = make(weights, {"name": "adamw", "lr": 0.1}), []
    before = [weight.detach().clone() for weight in weights]

    def closure() -> Tensor:
        calls.append(0)
        if len(calls) == 2:
            raise KeyError
        return closure_of(weights, loss)()

    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert all(torch.equal(old, weight) for old, weight in zip(before, weights))


def test_rates_and_rho_of_the_groups_are_what_counts() -> None:
    weights, loss = problem()
    optimizer = make(weights, {"name": "adamw", "lr": 0.1, "weight_decay": 0.3}, rho=0.2)
    assert [(group["base_lr"], group["weight_decay"], group["rho"]) for group in optimizer.param_groups] == [(0.1, 0.3, 0.2)]
    values: list[Tensor] = []
    for group in optimizer.param_groups:
        group["lr"], group["rho"] = 0.0, 0.0
    before = [weight.detach().clone() for weight in weights]
    optimizer.step(closure_of(weights, loss, values))
    assert values[0] == values[1] and all(torch.equal(old, weight) for old, weight in zip(before, weights))
    assert set(optimizer.state) == set(weights)


def test_the_step_logs_the_first_call_counts_both_and_clips_the_second(tiny_recipe: Any) -> None:
    def trained(optimizer: dict[str, Any], name: str) -> list[dict[str, Any]]:
        import json

        patch = {
            "stages": {
                0: {
                    "budget": "2 steps",
                    "optimizer": optimizer,
                    "schedule": {"lr": {"name": "constant", "warmup": 0}},
                    "hooks": [{"name": "clip", "max_norm": 1e-3}],
                }
            }
        }
        run = ingot.build(tiny_recipe(patch, name=name))
        run.train()
        lines = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
        return [line for line in lines if line["kind"] == "step"]

    plain = trained({"name": "sgd", "lr": 0.1, "momentum": 0.0}, "plain")
    sam = trained({"name": "sam", "rho": 0.5, "inner": {"name": "sgd", "lr": 0.1, "momentum": 0.0}}, "sam")
    assert sam[0]["loss"] == plain[0]["loss"] and sam[0]["grad_norm"] == plain[0]["grad_norm"]
    assert sam[0]["tokens"] == plain[0]["tokens"] and sam[0]["step_flops"] == pytest.approx(2 * plain[0]["step_flops"])
    assert sam[0]["hooks"]["clip.grad_norm"] != plain[0]["hooks"]["clip.grad_norm"] == pytest.approx(plain[0]["grad_norm"])
    # both moved by lr times a gradient of norm 1e-3, so little that the loss is nearly what it was
    assert abs(sam[1]["lr"] - 0.1) < 1e-12


def test_an_inner_optimizer_that_moves_the_weights_itself_is_refused(tiny_recipe: Any) -> None:
    for inner in ("sam", "schedule_free", "badam", "lisa"):
        chosen = {"name": inner, "lr": 0.1} if inner != "sam" else {"name": "sam"}
        _, problems = check(tiny_recipe({"stages": {0: {"optimizer": {"name": "sam", "inner": chosen}}}}))
        assert any("inner optimizer cannot be" in problem.message for problem in problems), inner
        _, problems = check(tiny_recipe({"stages": {0: {"optimizer": {"name": "muon", "lr": 0.1, "rest": chosen}}}}))
        assert any("the rest cannot be updated by" in problem.message for problem in problems), inner


def stages_of(*optimizers: dict[str, Any]) -> dict[str, Any]:
    return {"stages": [{"budget": "2 steps", "batch": "8 rows", "optimizer": optimizer} for optimizer in optimizers]}


@pytest.mark.parametrize(
    ("outer", "inside", "name", "knob", "values"),
    [
        ({"name": "sam"}, "inner", "galore", "rank", (4, 8)),
        ({"name": "muon", "lr": 0.01}, "rest", "adam8bit", "block", (256, 16)),
    ],
)
def test_what_shapes_the_state_of_an_optimizer_inside_does_not_change_between_stages(
    tiny_recipe: Any, outer: dict[str, Any], inside: str, name: str, knob: str, values: tuple[int, int]
) -> None:
    first, second = (outer | {inside: {"name": name, "lr": 0.01, knob: value}} for value in values)
    _, problems = check(tiny_recipe(stages_of(first, second)))
    assert [problem.message.startswith(f"{knob!r} says what the optimizer keeps") for problem in problems] == [True]
    for other in (first, outer | {inside: {"name": "adamw", "lr": 0.01}}, second[inside]):  # the same, or others, which begin anew
        assert not check(tiny_recipe(stages_of(first, other)))[1]
