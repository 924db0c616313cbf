"""GaLore is galore-torch's; its subspace is sought when it is due and kept otherwise; its moments can be held in 8 bits."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.build.check import check
from ingot.core.axes import Axes
from ingot.core.resolve import spec

MATRIX = Axes(("hidden", "width"), "matrix")


def group(weights: list[nn.Parameter], **keys: Any) -> list[dict]:
    return [{"params": weights, "names": [f"w{i}" for i in range(len(weights))], "axes": [None] * len(weights)} | keys]


def ours(**knobs: Any) -> Any:
    return lambda weights: spec("optim", "galore", **{"lr": 0.01, "rank": 6, "refresh": 30} | knobs).build(params=group(weights))


def projector(basis: Tensor) -> Tensor:
    """The orthogonal projector on a basis, which has no signs and no order."""
    return basis @ torch.linalg.pinv(basis)


def test_agrees_with_galore_torch_on_recorded_gradients(compare: Any) -> None:
    galore = pytest.importorskip("galore_torch")
    apart: list[float] = []

    def theirs(weights: list[nn.Parameter]) -> Any:
        matrices, rest = [w for w in weights if w.dim() == 2], [w for w in weights if w.dim() == 1]
        projected = {"params": matrices, "rank": 6, "update_proj_gap": 30, "scale": 0.25, "proj_type": "std"}
        return galore.GaLoreAdamW([projected, {"params": rest}], lr=0.01, no_deprecation_warning=True)

    def each(step: int, mine: Any, reference: Any) -> None:
        weights = [w for w in mine.param_groups[0]["params"] if w.dim() == 2]
        for weight, twin in zip(weights, reference.param_groups[0]["params"]):
            basis, other = mine.state[weight]["projection"], reference.state[twin]["projector"].ortho_matrix
            other = other.T if other.shape != basis.shape else other
            apart.append(float((projector(basis) - projector(other)).norm()))

    assert compare(ours(), theirs, each=each, at="zero") < 1e-5
    assert max(apart) < 1e-4 and len(apart) == 400


def test_subspace_is_sought_every_refresh_steps_and_kept_between(recorded: Any) -> None:
    start, steps = recorded
    weight = nn.Parameter(start[0].clone())
    optimizer = ours(refresh=4)([weight])
    bases, phases = [], []
    for gradients in steps[:9]:
        phases.append(optimizer.phase)
        weight.grad = gradients[0].clone()
        optimizer.step()
        bases.append(optimizer.state[weight]["projection"].clone())
        if len(bases) in (1, 5, 9):  # B spans the leading singular vectors of this very gradient
            u = torch.linalg.svd(gradients[0], full_matrices=False).U[:, :6]
            torch.testing.assert_close(projector(bases[-1]), u @ u.T, rtol=0, atol=1e-4)
    assert [not torch.equal(a, b) for a, b in pairwise(bases)] == [False, False, False, True, False, False, False, True]
    assert [bool(phase) for phase in phases] == [True, False, False, False, True, False, False, False, True]


def test_update_lies_in_the_subspace_and_goes_downhill(recorded: Any) -> None:
    start, steps = recorded
    for index in (0, 2):
        weight = nn.Parameter(start[index].clone())
        optimizer = ours()([weight])
        weight.grad = steps[0][index].clone()
        optimizer.step()
        moved = weight.detach() - start[index]
        on = projector(optimizer.state[weight]["projection"])
        inside = moved @ on if moved.shape[0] >= moved.shape[1] else on @ moved
        torch.testing.assert_close(inside, moved, rtol=0, atol=1e-6)
        assert float((moved * weight.grad).sum()) < 0


@pytest.mark.parametrize("bits", [32, 8])
def test_resumes_between_and_on_refreshes(recorded: Any, bits: int) -> None:
    start, steps = recorded

    def make() -> tuple[list[nn.Parameter], Any]:
        weights = [nn.Parameter(tensor.clone()) for tensor in start]
        return weights, ours(refresh=5, state_bits=bits, smallest=0, subspace="randomized")(weights)

    def train(weights: list[nn.Parameter], optimizer: Any, span: range) -> None:
        for step in span:
            for weight, gradient in zip(weights, steps[step]):
                weight.grad = gradient.clone()
            optimizer.step()

    straight, optimizer = make()
    train(straight, optimizer, range(12))
    for at, spoiled in ((3, ""), (5, ""), (3, "projection"), (3, "step")):
        weights, first = make()
        train(weights, first, range(at))
        resumed, second = make()
        for weight, twin in zip(resumed, weights):
            weight.data.copy_(twin.data)
        second.init_state()
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert [v.dtype for s in second.state.values() for v in s.values()] == [v.dtype for s in first.state.values() for v in s.values()]
        if spoiled:  # what is not carried is noticed
            second.state[resumed[0]][spoiled].zero_()
        train(resumed, second, range(at, 12))
        assert torch.equal(straight[0], resumed[0]) == (not spoiled)
        assert all(torch.equal(a, b) for a, b in zip(straight[1:], resumed[1:]))


def test_randomized_subspace_is_nearly_the_exact_one(recorded: Any) -> None:
    """Of a gradient with a gap in its spectrum, and the same for the same name, another for another."""
    torch.manual_seed(0)
    for shape in ((50, 30), (30, 50)):
        signal = torch.randn(shape[0], 5) @ torch.randn(5, shape[1]) + 0.05 * torch.randn(shape)
        bases = {}
        for subspace, name in (("svd", "a"), ("randomized", "a"), ("randomized", "b")):
            weight = nn.Parameter(torch.zeros(shape))
            optimizer = spec("optim", "galore", lr=0.01, rank=5, subspace=subspace).build(params=group([weight], names=[name]))
            weight.grad = signal.clone()
            optimizer.step()
            bases[subspace, name] = optimizer.state[weight]["projection"]
        exact, near, other = bases.values()
        assert float((projector(exact) - projector(near)).norm()) < 1e-3
        assert not torch.equal(near, other)
        torch.testing.assert_close(near.T @ near, torch.eye(5), rtol=0, atol=1e-5)


def test_eight_bit_moments_follow_full_ones(recorded: Any) -> None:
    start, steps = recorded
    ends = []
    for bits in (32, 8):
        weights = [nn.Parameter(tensor.clone()) for tensor in start]
        optimizer = ours(state_bits=bits, smallest=0)(weights)
        for gradients in steps[:60]:
            for weight, gradient in zip(weights, gradients):
                weight.grad = gradient.clone()
            optimizer.step()
        ends.append([weight.detach() - tensor for weight, tensor in zip(weights, start)])
    assert all(state["exp_avg_codes"].dtype == torch.uint8 for weight, state in optimizer.state.items() if weight.dim() == 2)
    for full, short in zip(*ends):
        assert float((full - short).norm() / full.norm()) < 0.05
    assert not torch.equal(ends[0][0], ends[1][0])


def test_only_matrices_are_projected_and_experts_each_by_itself() -> None:
    torch.manual_seed(0)
    matrix, embedding, experts = nn.Parameter(torch.zeros(8, 6)), nn.Parameter(torch.zeros(10, 6)), nn.Parameter(torch.zeros(3, 8, 6))
    axes = [MATRIX, Axes(("vocabulary", "width"), "embedding"), Axes(("experts", "hidden", "width"), "matrix")]
    optimizer = spec("optim", "galore", lr=0.1, rank=2).build(params=group([matrix, embedding, experts], axes=axes))
    for weight in (matrix, embedding, experts):
        weight.grad = torch.randn_like(weight)
    experts.grad[1] = matrix.grad
    optimizer.step()
    assert [{k for k, v in optimizer.state[w].items() if k == "projection"} for w in (matrix, embedding, experts)] == [
        {"projection"},
        set(),
        {"projection"},
    ]
    assert optimizer.state[experts]["projection"].shape == (3, 6, 2) and optimizer.state[experts]["exp_avg"].shape == (3, 8, 2)
    torch.testing.assert_close(experts[1], matrix)


def test_state_is_the_papers_formula() -> None:
    """Zhao et al. 2024, table 1: m r + 2 n r for m <= n; and the step count."""
    for shape in ((64, 24), (24, 64)):
        optimizer = spec("optim", "galore", lr=0.1, rank=8).build(params=[nn.Parameter(torch.zeros(shape))])
        assert optimizer.state_bytes(shape, torch.float32, None) == 4 * (24 * 8 + 2 * 64 * 8) + 4
        assert optimizer.state_layout(None, shape) == {
            "step": "scalar",
            "projection": "projected",
            "exp_avg": "projected",
            "exp_avg_sq": "projected",
        }
    eight = spec("optim", "galore", lr=0.1, rank=256, state_bits=8).build(params=[nn.Parameter(torch.zeros(4))])
    assert eight.state_bytes((1024, 512), torch.float32) == 4 * 512 * 256 + 2 * (1024 * 256 + 4 * 1024) + 4
    assert eight.state_layout(None, (1024, 512))["exp_avg_sq_codes"] == "quantized"


def test_what_shapes_the_state_is_neither_scheduled_nor_changed_between_stages(tiny_recipe: Any) -> None:
    optimizer = {"name": "galore", "lr": 0.01, "rank": 4}
    first = {"budget": "2 steps", "batch": "8 rows", "optimizer": optimizer, "schedule": {"lr": {"name": "cosine"}}}
    for second, said in (
        ({}, []),
        ({"scale": 0.5, "lr": 0.1}, []),
        ({"rank": 8}, ["'rank' says what the optimizer keeps, and its state is carried on"]),
    ):
        _, problems = check(tiny_recipe({"stages": [first, first | {"optimizer": optimizer | second}]}))
        assert len(problems) == len(said) and all(words in str(problem) for words, problem in zip(said, problems))
    _, problems = check(tiny_recipe({"stages": [first | {"schedule": {"rank": {"name": "cosine"}}}]}))
    assert [("'rank'" in str(problem), "cannot be scheduled" in str(problem)) for problem in problems] == [(True, True)]
