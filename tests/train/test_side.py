"""What layers leave beside the loss: values per row, measures, and counts, whatever the accumulation, padding and recomputation."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ingot.core.errors import RunError
from ingot.core.resolve import spec
from ingot.train.step import Outcome, step

WEIGHT = 0.3


class Leaving(nn.Module):
    """A layer that leaves a value per row, a measure of the micro-batch, and counts what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.side: dict[str, Tensor] | None = None
        self.forwards = 0
        self.totals: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.linear(x))
        self.forwards += 1
        self.side = {
            "size": h.square().sum(dim=1),
            "measure": h.detach().abs().mean(),
            "count/seen": torch.ones(2, dtype=torch.int64) * len(x),
        }
        return h

    def counted(self, totals: dict[str, Tensor]) -> dict[str, float]:
        self.totals.append({name: value.clone() for name, value in totals.items()})
        return {"seen": float(totals["seen"].sum())}


class Net(nn.Module):
    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.recompute = Leaving(), recompute

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h = checkpoint(self.layer, batch["x"], use_reentrant=False) if self.recompute else self.layer(batch["x"])
        return {"loss": h.sum(dim=1) * (batch["rows"] >= 0)}


def window_of(cuts: list[int], padding: int = 0) -> list[dict[str, Tensor]]:
    """Eight rows in micro-batches of these sizes; then so many rows of padding in the last."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    found = [{"rows": rows, "x": x[rows], "units": torch.full_like(rows, 5)} for rows in torch.arange(8).split(cuts)]
    last = found[-1]
    found[-1] = {
        "rows": torch.cat([last["rows"], torch.full((padding,), -1)]),
        "x": torch.cat([last["x"], torch.full((padding, 3), 7.0)]),
        "units": torch.cat([last["units"], torch.zeros(padding, dtype=torch.int64)]),
    }
    return found


def run(model: Net, window: list[dict[str, Tensor]], weights: dict[str, float]) -> tuple[Outcome, dict[str, Tensor]]:
    """One step of plain SGD with rate 1, so that the movement is the gradient."""
    optimizer = spec("optim", "sgd", lr=1.0, momentum=0.0).build(params=list(model.parameters()))
    state = SimpleNamespace(model=model, optimizer=optimizer, extra={})
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    outcome = step(
        state,
        window,
        spec("parallel.layout", "single").build(),
        side_weights=weights,
        hooks={},
        judge=lambda found: True,
        stop=lambda: False,
        phase=lambda name: nullcontext(),
    )
    return outcome, {name: before[name] - weight.detach() for name, weight in model.named_parameters()}


def test_a_value_per_row_enters_the_loss_as_its_mean_over_real_rows() -> None:
    model = Net().double()
    window = [{name: value.double() if value.is_floating_point() else value for name, value in micro.items()} for micro in window_of([8])]
    weight, bias = model.layer.linear.weight.detach().clone().requires_grad_(), model.layer.linear.bias.detach().clone().requires_grad_()
    h = torch.tanh(window[0]["x"] @ weight.T + bias)
    side = h.square().sum(dim=1).mean()
    (h.sum() / 40 + WEIGHT * side).backward()
    outcome, moved = run(model, window, {"size": WEIGHT})
    torch.testing.assert_close(moved["layer.linear.weight"], weight.grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(moved["layer.linear.bias"], bias.grad, rtol=1e-12, atol=1e-14)
    assert outcome.side["size"] == pytest.approx(float(side.detach()), rel=1e-12)
    assert outcome.loss == pytest.approx(float(h.detach().sum() / 40), rel=1e-12), "the loss of the objective is logged without it"


@pytest.mark.parametrize("cuts", [[3, 5], [2, 2, 2, 2], [7, 1]], ids=str)
@pytest.mark.parametrize("padding", [0, 3])
def test_neither_accumulation_nor_padding_changes_it(cuts: list[int], padding: int) -> None:
    outcome, moved = run(Net(), window_of([8]), {"size": WEIGHT})
    other, found = run(Net(), window_of(cuts, padding), {"size": WEIGHT})
    for name, gradient in moved.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
    assert other.side["size"] == pytest.approx(outcome.side["size"], rel=1e-6)
    unweighted, plain = run(Net(), window_of([8]), {})
    assert unweighted.side["size"] == pytest.approx(outcome.side["size"]) and not torch.allclose(
        plain["layer.linear.weight"], moved["layer.linear.weight"], rtol=1e-3
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_counts_are_handed_out_once_a_step_however_often_the_layer_runs(recompute: bool) -> None:
    model = Net(recompute)
    outcome, moved = run(model, window_of([3, 3, 2]), {"size": WEIGHT})
    assert model.layer.forwards == (6 if recompute else 3), "the activations were computed again"
    assert [totals["seen"].tolist() for totals in model.layer.totals] == [[8, 8]]
    assert outcome.side["layer.seen"] == 16 and model.layer.side is None
    _, plain = run(Net(), window_of([3, 3, 2]), {"size": WEIGHT})
    assert all(torch.allclose(moved[name], plain[name], rtol=1e-6, atol=1e-8) for name in plain), "a recomputed side loss has its gradient"


def test_counts_of_the_second_call_and_of_skipped_steps_are_dropped() -> None:
    model = Net()
    state = SimpleNamespace(
        model=model, optimizer=spec("optim", "sam", inner={"name": "sgd", "lr": 0.1}).build(params=list(model.parameters())), extra={}
    )
    layout = spec("parallel.layout", "single").build()
    step(
        state,
        window_of([4, 4]),
        layout,
        side_weights={},
        hooks={},
        judge=lambda found: True,
        stop=lambda: False,
        phase=lambda name: nullcontext(),
    )
    assert model.layer.forwards == 4 and [totals["seen"].tolist() for totals in model.layer.totals] == [[8, 8]]
    before = model.layer.linear.weight.detach().clone()
    step(
        state,
        window_of([4, 4]),
        layout,
        side_weights={},
        hooks={},
        judge=lambda found: False,
        stop=lambda: False,
        phase=lambda name: nullcontext(),
    )
    assert len(model.layer.totals) == 1 and torch.equal(model.layer.linear.weight, before)


def test_one_number_for_a_micro_batch_can_be_logged_but_not_weighted() -> None:
    outcome, _ = run(Net(), window_of([4, 4]), {})
    assert math.isfinite(outcome.side["measure"]) and 0 < outcome.side["measure"] < 1
    with pytest.raises(RunError, match="layer leaves 'measure' as one number"):
        run(Net(), window_of([4, 4]), {"measure": 0.1})


def test_hooks_see_the_gradients_of_the_last_call_and_a_broken_second_one_is_judged() -> None:
    """An optimizer that takes the gradient twice updates by the second, so that is the one to clip and to look at."""
    model, seen, judged = Net(), [], []
    state = SimpleNamespace(
        model=model,
        optimizer=spec("optim", "sam", rho=5.0, inner={"name": "sgd", "lr": 0.1}).build(params=list(model.parameters())),
        extra={},
    )
    layout = spec("parallel.layout", "single").build()
    hook = SimpleNamespace(grads=lambda state: seen.append(float(layout.clip_norm(state.model.parameters()))))

    def judge(outcome: Outcome) -> bool:
        judged.append(outcome.gradient_norm)
        return math.isfinite(outcome.gradient_norm)

    def once(window: list[dict[str, Tensor]]) -> Outcome:
        return step(
            state, window, layout, side_weights={}, hooks={"hook": hook}, judge=judge, stop=lambda: False, phase=lambda name: nullcontext()
        )

    outcome = once(window_of([8]))
    assert len(seen) == 1 and len(judged) == 1 and outcome.gradient_norm == judged[0] != seen[0] == state.extra["gradient_norm"]
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    forward, calls = model.forward, []

    def breaking(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(0)
        return {name: loss * (math.inf if len(calls) == 2 else 1.0) for name, loss in forward(batch).items()}

    model.forward = breaking  # type: ignore[method-assign]
    once(window_of([8]))
    assert len(calls) == 2 and not math.isfinite(judged[-1])
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters()), "a skipped update leaves the weights"
