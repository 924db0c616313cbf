"""The gradient noise scale: unbiased where the truth is known, the same for any cut, and refused where there is nothing to compare."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.hook.noise_scale import NoiseScale, distinct

WIDTH = 20


class Quadratic(nn.Module):
    """loss_b = units_b w . x_b: each unit of row b has the gradient x_b."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH, dtype=torch.float64))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (batch["x"] @ self.weight) * batch["units"]}


def step(hook: Any, model: nn.Module, x: Tensor, sizes: list[int], units: Tensor, closures: int = 1, pieces: int = 1) -> dict[str, float]:
    """A step over rows x cut into parts of these sizes, as the loop takes it; closures: how often the optimizer asks. pieces: of a row."""
    state = SimpleNamespace(model=model, extra={})
    cut = zip(torch.arange(len(x)).split(sizes), x.split(sizes), units.split(sizes))
    window = [{"rows": rows, "x": part, "units": count} for rows, part, count in cut]
    window = [{key: value.repeat_interleave(pieces, 0) for key, value in micro.items()} for micro in window]
    window = hook.select(state, [micro | {"units": micro["units"] // pieces} for micro in window])
    model.zero_grad()
    with torch.no_grad():
        model(window[0])  # another hook scores rows: no part of the step
    for _ in range(closures):
        model.zero_grad()
        for micro in window:
            (model(micro)["loss"].sum() / units.sum()).backward()
    found = hook.grads(state)
    model(window[0])["loss"].sum().backward()  # a second closure is not heard
    return found


def test_finds_the_true_noise_and_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    true, spread = torch.full((WIDTH,), 0.3, dtype=torch.float64), 2.0
    hook, model = spec("hook", "noise_scale", decay=0.999).build(), Quadratic()
    ones = torch.ones(16, dtype=torch.int64)
    for _ in range(2000):
        x = true + spread * torch.randn(16, WIDTH, generator=generator, dtype=torch.float64)
        found = step(hook, model, x, [4, 4, 4, 4], ones)
    assert found["noise"] == pytest.approx(WIDTH * spread**2, rel=0.03)
    assert found["signal"] == pytest.approx(float(true.square().sum()), rel=0.15)
    assert found["noise_scale"] == pytest.approx(found["noise"] / found["signal"])
    assert found["gain"] == pytest.approx(1 / (1 + found["noise_scale"] / 16))


def test_parts_of_any_size_agree_on_average_and_equal_ones_are_the_papers_pair() -> None:
    generator = torch.Generator().manual_seed(1)
    sums: dict[str, list[float]] = {"even": [], "uneven": []}
    for _ in range(200):
        x, ones = 0.5 + torch.randn(12, WIDTH, generator=generator, dtype=torch.float64), torch.ones(12, dtype=torch.int64)
        for name, sizes in (("even", [6, 6]), ("uneven", [1, 2, 9])):
            sums[name].append(step(spec("hook", "noise_scale", decay=0.0).build(), Quadratic(), x, sizes, ones)["noise"])
    small, big = ((x[:6].mean(0).square().sum() + x[6:].mean(0).square().sum()) / 2, x.mean(0).square().sum())
    assert sums["even"][-1] == pytest.approx(float((small - big) / (1 / 6 - 1 / 12)))
    for values in sums.values():
        assert sum(values) / 200 == pytest.approx(WIDTH, rel=0.06)


def test_rows_count_by_their_units() -> None:
    """Rows of more units pull the mean gradient as much as they pull the loss; a row without any pulls nothing."""
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hook = spec("hook", "noise_scale", decay=0.0).build()
    found = step(hook, Quadratic(), torch.cat([x, x[:1] * 100]), [1, 3, 1], torch.tensor([3, 1, 1, 1, 0]))
    first, rest = x[0], x[1:].mean(0)
    whole = (first + rest) / 2
    assert found["noise"] == pytest.approx(float(3 * first.square().sum() + 3 * rest.square().sum() - 6 * whole.square().sum()))


def test_an_optimizer_that_asks_twice_is_heard_once() -> None:
    x, ones = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64), torch.ones(4, dtype=torch.int64)
    once, twice = (step(spec("hook", "noise_scale").build(), Quadratic(), x, [2, 2], ones, closures) for closures in (1, 2))
    assert once == twice


def test_rows_cut_into_pieces_are_counted_once() -> None:
    generator = torch.Generator().manual_seed(3)
    x, units = 1 + torch.randn(4, WIDTH, generator=generator, dtype=torch.float64), torch.tensor([4, 2, 4, 4])
    whole, cut = (step(spec("hook", "noise_scale").build(), Quadratic(), x, [2, 2], units, pieces=pieces) for pieces in (1, 2))
    assert whole["noise_rows"] == pytest.approx(whole["noise_scale"] * 4 / 14) and cut == pytest.approx(whole)
    assert [int(distinct(torch.tensor(rows))) for rows in ([], [-1, -1], [5, 5, -1], [3, 0, 3, 0, 7])] == [0, 0, 1, 3]


def test_a_step_of_one_part_says_nothing_and_changes_nothing() -> None:
    """Such as the last one of data that is used up."""
    hook, ones = spec("hook", "noise_scale").build(), torch.ones(4, dtype=torch.int64)
    x = 1 + torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert step(hook, Quadratic(), x, [4], ones) == {} and hook.weight == 0
    step(hook, Quadratic(), x, [2, 2], ones)
    before = hook.state_dict()
    assert step(hook, Quadratic(), x, [4], ones) == {} and hook.state_dict() == before


def test_a_batch_that_grows_is_measured_once_it_has_two_parts(tiny_recipe: Any, runs: Any) -> None:
    stage = {"budget": "6 steps", "hooks": ["noise_scale"], "schedule": {"batch": {"name": "constant", "warmup": "50%"}}}
    found = runs.lines(runs.trained(tiny_recipe({"stages": {0: stage}})))
    assert [line["batch_rows"] > 4 for line in found] == ["noise_scale.noise" in line.get("hooks", {}) for line in found]
    assert found[0]["batch_rows"] < 4 and found[-1]["batch_rows"] == 8


def test_an_average_that_keeps_everything_is_refused() -> None:
    with pytest.raises(UserError, match="below 1"):
        spec("hook", "noise_scale", decay=1.0)


def test_averages_resume() -> None:
    def run(hook: Any, count: int, seed: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            found = step(
                hook, Quadratic(), torch.randn(4, WIDTH, generator=generator, dtype=torch.float64), [2, 2], torch.ones(4, dtype=torch.int64)
            )
        return found

    straight, broken = spec("hook", "noise_scale").build(), spec("hook", "noise_scale").build()
    run(straight, 3, 0), run(broken, 3, 0)
    resumed = spec("hook", "noise_scale").build()
    resumed.load_state_dict(broken.state_dict())
    assert run(straight, 2, 1) == run(resumed, 2, 1)


def test_in_a_run(tiny_recipe: Any, runs: Any) -> None:
    """Clipping comes first in the list and must not be seen: the norm is that of the gradient as it was."""
    stage = {"budget": "6 steps", "hooks": [{"name": "clip", "max_norm": 1e-3}, "noise_scale"]}
    found = runs.lines(runs.trained(tiny_recipe({"stages": {0: stage}, "micro_rows": 2})))
    for line in found:
        logged = line["hooks"]
        assert logged["noise_scale.noise"] > 0 and logged["noise_scale.signal"] < found[0]["grad_norm"] ** 2 * 4
        assert "noise_scale.noise_scale" not in logged or logged["noise_scale.noise_scale"] > 0
    assert found[0]["hooks"]["noise_scale.signal"] + found[0]["hooks"]["noise_scale.noise"] / found[0]["step_tokens"] == pytest.approx(
        found[0]["grad_norm"] ** 2, rel=0.05
    )


def test_one_part_is_refused(tiny_recipe: Any, runs: Any) -> None:
    stage = {"stages": {0: {"budget": "2 steps", "hooks": ["noise_scale"]}}}
    with pytest.raises(UserError, match="no two batch sizes to compare: stage 0 wants micro_rows below 8"):
        runs.trained(tiny_recipe(stage, {"micro_rows": 8}))
    with pytest.raises(UserError, match="slices of the gradient"):
        runs.trained(tiny_recipe(stage, {"layout": "fsdp"}))


def test_with_automatic_micro_batches_there_are_two(tiny_recipe: Any, runs: Any) -> None:
    run = runs.trained(tiny_recipe({"stages": {0: {"budget": "2 steps", "hooks": ["noise_scale"]}}, "micro_rows": "auto"}))
    assert run.choices["micro_rows"]["0"] <= 4


def test_losses_that_couple_rows_are_refused() -> None:
    """Parts of a step are compared as samples of one gradient, which those of a contrastive loss are not."""
    hook, coupled, plain = (
        SimpleNamespace(name=name, target=SimpleNamespace(couples_batch=name == "clip")) for name in ("noise_scale", "clip", "mlm")
    )
    for objective, refused in ((coupled, True), (plain, False)):
        run = SimpleNamespace(
            layout="replicate", micro_rows=2, stages=[SimpleNamespace(hooks=[hook])], objective_at=lambda index, found=objective: (0, found)
        )
        assert ["couples the rows" in line for line in NoiseScale.check({}, {"run": run})] == [True] * refused
