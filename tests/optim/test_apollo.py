"""APOLLO is apollo-torch's, given the same random matrices; these are never kept, and come back by name and refresh number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.resolve import spec
from ingot.optim._projection import gaussian

MINI = {"rank": 1, "scaling": "tensor", "scale": 128.0}


def ours(**knobs: Any) -> Any:
    def make(weights: list[nn.Parameter]) -> Any:
        names = [f"w{i}" for i in range(len(weights))]
        return spec("optim", "apollo", **{"lr": 0.01, "rank": 6, "refresh": 30} | knobs).build(params=[{"params": weights, "names": names}])

    return make


@pytest.mark.parametrize("knobs", [{}, {"scale": 4.0}, MINI])
def test_agrees_with_apollo_torch_on_recorded_gradients(compare: Any, knobs: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("apollo_torch.random_projector")
    apollo = pytest.importorskip("apollo_torch")
    indices = {1: 0, 2: 2}  # theirs counts parameters from 1, matrices first; of ours the matrices are w0 and w2

    def draw(shape: tuple[int, int], seed: int, device: Any = None, dtype: Any = None) -> torch.Tensor:
        index, number = indices[seed % 1000], seed // 1000
        right = index == 2  # kept as (rank, columns) there
        basis = gaussian(shape[::-1] if right else shape, f"w{index}", number, torch.zeros(1))
        return basis.T if right else basis

    monkeypatch.setattr(module, "stable_randn", draw)
    monkeypatch.setattr(module, "next_seed", lambda seed: seed + 1000)

    def theirs(weights: list[nn.Parameter]) -> Any:
        matrices, rest = [w for w in weights if w.dim() == 2], [w for w in weights if w.dim() == 1]
        chosen = {"rank": 6, "scaling": "channel", "scale": 1.0} | knobs
        projected = {
            "params": matrices,
            "rank": chosen["rank"],
            "update_proj_gap": 30,
            "scale": chosen["scale"],
            "proj": "random",
            "proj_type": "std",
            "scale_type": chosen["scaling"],
        }
        return apollo.APOLLOAdamW([projected, {"params": rest}], lr=0.01)

    assert compare(ours(**knobs), theirs, at="zero") < 1e-5


def test_random_matrix_is_drawn_by_name_and_number() -> None:
    like = torch.zeros(1)
    first = gaussian((40, 30), "blocks.0.up", 0, like)
    assert torch.equal(first, gaussian((40, 30), "blocks.0.up", 0, like))
    others = [gaussian((40, 30), name, number, like) for name, number in (("blocks.0.up", 1), ("blocks.1.up", 0))]
    assert all(abs(float((first * other).mean())) < 0.1 for other in others)
    assert abs(float(first.mean())) < 0.1 and abs(float(first.std()) - 1) < 0.1


def test_draws_follow_the_step_count_and_not_torchs_generator(recorded: Any) -> None:
    start, steps = recorded
    ends = []
    for seed, refresh in ((0, 2), (1, 2), (1, 1000)):
        torch.manual_seed(seed)
        weight = nn.Parameter(start[0].clone())
        optimizer = ours(refresh=refresh)([weight])
        for gradients in steps[:4]:
            weight.grad = gradients[0].clone()
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])  # a skipped refresh is another run


@pytest.mark.parametrize("index", [0, 2])
def test_direction_is_the_gradient_with_its_channels_scaled(recorded: Any, index: int) -> None:
    start, steps = recorded
    weight = nn.Parameter(start[index].clone())
    optimizer = ours()([weight])
    weight.grad = steps[0][index].clone()
    optimizer.step()
    ratio = (start[index] - weight.detach()) / steps[0][index]
    channels = ratio if weight.shape[0] >= weight.shape[1] else ratio.T  # one factor per entry of the longer side
    assert float((channels / channels.median(1, keepdim=True).values - 1).abs().median()) < 1e-3
    assert float(channels.median(1).values.min()) > 0 and float(channels.median(1).values.std()) > 0


def test_mini_has_one_factor_for_a_matrix(recorded: Any) -> None:
    start, steps = recorded
    weight = nn.Parameter(start[0].clone())
    optimizer = ours(**MINI)([weight])
    weight.grad = steps[0][0].clone()
    optimizer.step()
    moved = start[0] - weight.detach()
    cosine = float((moved * steps[0][0]).sum() / moved.norm() / steps[0][0].norm())
    assert cosine == pytest.approx(1, abs=1e-4)


def test_state_is_the_papers_formula() -> None:
    """Zhu et al. 2024, table 1: 2 n r + 2 for m <= n, and 2 n + 2 for APOLLO-Mini."""
    for knobs, rank in (({"rank": 8}, 8), (MINI, 1)):
        optimizer = ours(**knobs)([nn.Parameter(torch.zeros(64, 24))])
        assert optimizer.state_bytes((64, 24), torch.float32) == optimizer.state_bytes((24, 64), torch.float32) == 4 * (2 * 64 * rank + 2)
