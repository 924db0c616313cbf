"""A suite is worth what it catches: a fault is planted in a mechanism, and the suite's own test must fail, as it must pass without it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ingot.hook.ema
import ingot.nn.router.bias_balanced
import ingot.optim._projection
import ingot.optim._quantize
import ingot.optim.lion
import ingot.train.state
import ingot.train.step
import ingot.transform._carry

TESTS = Path(__file__).resolve().parents[1]


def suite(path: str) -> Any:
    """A test file as a module."""
    found = importlib.util.spec_from_file_location(f"planted_{path.replace('/', '_')}", TESTS / f"{path}.py")
    assert found is not None and found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def matrix() -> Any:
    return suite("conformance/_matrix")


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """caught(test, owner, name, fault): the test holds, and no longer does with the fault in the owner's place of that name."""

    def check(test: Callable[[], None], owner: Any, name: str, fault: Any) -> None:
        test()
        monkeypatch.setattr(owner, name, fault)
        with pytest.raises(AssertionError):
            test()

    return check


def test_a_bias_that_moves_toward_the_load(caught: Any) -> None:
    def away(self: Any, totals: Mapping[str, Tensor]) -> dict[str, float]:
        found: dict[str, float] = super(type(self), self).counted(totals)
        with torch.no_grad():
            self.bias -= self.rate * torch.sign(totals["load"].double().mean() - totals["load"].double()).to(self.bias.dtype)
        return found | {"largest_bias": float(self.bias.abs().max())}

    routers = suite("nn/router/test_bias_balanced")
    caught(lambda: routers.test_loads_become_even("sigmoid"), ingot.nn.router.bias_balanced.BiasBalanced, "counted", away)


def test_an_update_that_goes_uphill(caught: Any) -> None:
    right = ingot.optim.lion.local_gradient
    caught(lambda: suite("conformance/test_optim").test_learns("lion"), ingot.optim.lion, "local_gradient", lambda weight: -right(weight))


def test_a_subspace_that_is_never_sought_again(caught: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    recorded = ([torch.randn(40, 64, generator=draw)], [[torch.randn(40, 64, generator=draw)] for _ in range(9)])
    caught(
        lambda: suite("optim/test_galore").test_subspace_is_sought_every_refresh_steps_and_kept_between(recorded),
        ingot.optim._projection.LowRankAdam,
        "due",
        lambda self, group, state: float(state["step"]) == 0,
    )


def test_an_average_that_is_not_carried(caught: Any, tiny_model: Any, batch_of: Any, matrix: Any) -> None:
    case = next(case for case in matrix.suite.cases("hook") if case.name == "ema")
    caught(
        lambda: suite("conformance/test_hook").test_resumes_to_the_bit(case, tiny_model, batch_of),
        ingot.hook.ema.EMA,
        "state_dict",
        lambda self: {},
    )


def test_a_state_that_growth_does_not_carry(caught: Any) -> None:
    growth = suite("optim/test_growth")
    nothing = lambda self, name, source, state: None  # noqa: E731
    caught(lambda: growth.test_wider_every_state_goes_along("adafactor"), ingot.transform._carry.Take, "_keep", nothing)


def test_a_moment_that_is_carried_whole_by_every_copy(caught: Any, matrix: Any) -> None:
    """Copies share the gradient; a momentum that each of them gets whole is twice what it should be."""
    right = ingot.transform._carry.through

    def whole(tensor: Tensor, maps: Any, factor: str, power: int = 1) -> Tensor:
        return right(tensor, maps, factor, 0 if factor == "gradient" else power)

    transforms = matrix.beside("test_transform")
    caught(transforms.test_the_moments_of_cloned_experts_are_their_gradients, ingot.transform._carry, "through", whole)


def test_codes_that_are_cleared_instead_of_grown(caught: Any) -> None:
    right = ingot.optim._quantize.KeepsCodes.in_codes

    def cleared(self: Any, held: Any, axes: Any, shape: Any) -> Any:
        return {key: torch.zeros_like(value) if key.endswith("_codes") else value for key, value in right(self, held, axes, shape).items()}

    growth = suite("optim/test_growth")
    owner = ingot.optim._quantize.KeepsCodes
    caught(lambda: growth.test_codes_are_those_of_the_moments_that_full_numbers_would_have(8), owner, "in_codes", cleared)


def equal(matrix: Any, name: str, column: str) -> None:
    """The assertion that the matrix makes of a cell; what is planted must not break the run itself."""
    part = next(part for part in matrix.parts() if part.name == name)
    assert matrix.Part(part.case).cell(column).verdict in ("equal", "tolerance")


def test_a_moment_that_a_checkpoint_forgets(caught: Any, matrix: Any) -> None:
    whole = ingot.train.state.State.tensors

    def halved(self: Any) -> dict[str, Tensor]:
        return {name: torch.zeros_like(value) if name.endswith("exp_avg") else value for name, value in whole(self).items()}

    caught(lambda: equal(matrix, "optim/adamw", "resume"), matrix, "trained", _forgetting(matrix.trained, halved))


def _forgetting(trained: Callable[..., Any], tensors: Any) -> Callable[..., Any]:
    """Training whose checkpoint, written where it is stopped, holds no first moments."""

    def train(setup: Any, folder: Path, stop: int | None = None) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if stop is not None:
                patch.setattr(ingot.train.state.State, "tensors", tensors)
            return trained(setup, folder, stop)

    return train


def test_a_load_that_is_counted_twice(caught: Any) -> None:
    right = ingot.train.step.collect_side

    def twice(model: Any) -> dict[str, dict[str, Tensor]]:
        return {
            path: {name: 2 * value if name.startswith("count/") else value for name, value in side.items()}
            for path, side in right(model).items()
        }

    caught(
        lambda: suite("train/test_side").test_counts_are_handed_out_once_a_step_however_often_the_layer_runs(True),
        ingot.train.step,
        "collect_side",
        twice,
    )


def test_a_mean_of_means(caught: Any, matrix: Any) -> None:
    """Every micro-batch divided by its own units: the last, partial one then weighs too much."""
    right = ingot.train.step.forward_backward

    def each_alone(model: Any, window: Any, layout: Any, side_weights: Any, **more: Any) -> Any:
        for micro in window[:-1]:
            right(model, [micro], layout, side_weights, **more)
        found = right(model, window[-1:], layout, side_weights, **more)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= len(window)
        return found

    caught(lambda: equal(matrix, "optim/sgd", "accumulation"), ingot.train.step, "forward_backward", each_alone)
