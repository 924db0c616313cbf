"""Muon: its update is nearly orthogonal, it is torch's where settings coincide, and it claims every weight once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.axes import Axes
from ingot.core.resolve import spec
from ingot.ops import bf16
from ingot.optim._orthogonal import orthogonalize, polynomials

MATRIX = Axes(("hidden", "width"), "matrix")


def group(*pairs: tuple[Tensor, Axes], **keys: object) -> dict:
    return {"params": [w for w, _ in pairs], "names": [f"w{i}" for i in range(len(pairs))], "axes": [a for _, a in pairs]} | keys


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (48, 160), (160, 48), (200, 300)])
def test_update_is_nearly_orthogonal(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    # after division by the Frobenius norm these span what the five iterations lift into the band
    matrix = u @ torch.diag(torch.logspace(0, -1.5, min(shape), dtype=torch.float64)) @ v
    result = orthogonalize(matrix.to(dtype)[None])[0].double()
    slack = 0.02 if dtype == torch.bfloat16 else 0.005
    values = torch.linalg.svdvals(result)
    assert 0.68 - slack <= float(values.min()) and float(values.max()) <= 1.14 + slack
    if dtype != torch.bfloat16:
        # it keeps the singular vectors: u' X v is diagonal
        core = u.T @ result @ v.T
        assert float((core - torch.diag(core.diag())).abs().max()) < (1e-9 if dtype == torch.float64 else 1e-4)


def test_stacked_matrices_are_orthogonalized_one_by_one() -> None:
    torch.manual_seed(0)
    for shape in [(3, 20, 50), (3, 150, 140)]:
        stack = torch.randn(shape, dtype=torch.float64)
        alone = torch.stack([orthogonalize(matrix[None])[0] for matrix in stack])
        torch.testing.assert_close(orthogonalize(stack), alone, rtol=1e-10, atol=1e-12)
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_torch_with_its_iteration_in_double(scale: str, nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.to(torch.float64, copy=True))  # torch iterates in bf16 only
    torch.manual_seed(0)
    start = [torch.randn(12, 30, dtype=torch.float64), torch.randn(30, 12, dtype=torch.float64), torch.randn(12, 30, dtype=torch.float64)]
    ours, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    optimizer = spec("optim", "muon", lr=0.02, nesterov=nesterov, scale=scale, weight_decay=0.1, momentum=0.9).build(params=ours)
    reference = torch.optim.Muon(theirs, lr=0.02, nesterov=nesterov, adjust_lr_fn=scale, weight_decay=0.1, momentum=0.9)
    for _ in range(6):
        for weight, twin in zip(ours, theirs):
            weight.grad = torch.randn_like(weight)
            twin.grad = weight.grad.clone()
        optimizer.step()
        reference.step()
    for weight, twin in zip(ours, theirs):
        torch.testing.assert_close(weight, twin, rtol=1e-9, atol=1e-11)


def test_agrees_with_torch_on_recorded_gradients(compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.float().clone())  # torch iterates in bf16 only
    knobs = {"lr": 0.02, "weight_decay": 0.1}
    ours = lambda weights: spec("optim", "muon", **knobs).build(params=weights)  # noqa: E731
    assert compare(ours, lambda weights: torch.optim.Muon(weights, **knobs), chosen=(0, 2)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_polar_express_is_nearer_to_orthogonal_and_converges(dtype: torch.dtype) -> None:
    """Amsel et al. 2025: five iterations bring singular values from 0.002 upward to 0.87 .. 1.13, and more converge."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(40, 90, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -2, 40, dtype=torch.float64)  # 0.005 of the Frobenius norm at least
    matrix = (u @ torch.diag(values) @ v).to(dtype)[None]
    slack = {torch.float64: 0.0, torch.float32: 0.001, torch.bfloat16: 0.05}[dtype]
    found = torch.linalg.svdvals(orthogonalize(matrix, 5, "polar_express")[0].double())
    assert 0.87 - slack <= float(found.min()) and float(found.max()) <= 1.13 + slack
    error, original = (float((orthogonalize(matrix, 5, kind)[0].double() - u @ v).norm()) for kind in ("polar_express", "original"))
    assert error < original / 2
    if dtype == torch.float64:
        assert float((orthogonalize(matrix, 9, "polar_express")[0] - u @ v).norm()) < 1e-8
        assert float((orthogonalize(matrix, 9, "original")[0] - u @ v).norm()) > 0.5
    assert len(polynomials("polar_express", 12)) == 12 and polynomials("polar_express", 12)[-1] == (1.875, -1.25, 0.375)


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_neurons_follow_normuons_algorithm(scale: str) -> None:
    """Li et al. 2025, Algorithm 1, step by step, for a wide and a tall matrix."""
    for shape in [(6, 20), (20, 6)]:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
        optimizer = spec(
            "optim", "muon", lr=0.02, momentum=0.9, nesterov=False, weight_decay=0.1, scale=scale, normalize="neurons", neuron_beta=0.8
        ).build(params=[weight])
        w, m, n = weight.detach().clone(), torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.float64)
        for _ in range(6):
            weight.grad = torch.randn(shape, dtype=torch.float64) * torch.logspace(-2, 1, shape[0], dtype=torch.float64)[:, None]
            m = 0.9 * m + 0.1 * weight.grad
            o = orthogonalize(m[None])[0]
            n = 0.8 * n + 0.2 * o.square().mean(dim=1)
            hat = o / (n.sqrt() + 1e-10)[:, None]
            size = (
                0.2 * math.sqrt(shape[0] * shape[1])
                if scale == "match_rms_adamw"
                else float(o.norm()) * math.sqrt(max(1, shape[0] / shape[1]))
            )
            w = w - 0.02 * 0.1 * w - 0.02 * size * hat / hat.norm()
            optimizer.step()
            torch.testing.assert_close(weight.detach(), w, rtol=1e-8, atol=1e-10)
        assert optimizer.state[weight]["neurons"].shape == (1, shape[0])
        held = sum(value.nbytes for value in optimizer.state[weight].values())
        assert held == optimizer.state_bytes(shape, torch.float64) == (shape[0] * shape[1] + shape[0]) * 8


def test_neurons_even_out_the_rows() -> None:
    """The claim: orthogonalized updates of a tall matrix leave rows of very different size; normalized ones do not."""
    spreads = {}
    for normalize in ("none", "neurons"):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(200, 10))
        optimizer = spec("optim", "muon", lr=1.0, normalize=normalize).build(params=[weight])
        weight.grad = torch.randn(200, 10) * torch.logspace(-2, 0, 200)[:, None]
        optimizer.step()
        rows = weight.detach().norm(dim=1)
        spreads[normalize] = float(rows.max() / rows.min())
    assert spreads["neurons"] < 1.01 and spreads["none"] > 20


def test_cautious_decay_acts_where_update_and_weight_agree() -> None:
    """Chen et al. 2025, Algorithm 1."""
    torch.manual_seed(0)
    start, gradient, ends = torch.randn(8, 12, dtype=torch.float64), torch.randn(8, 12, dtype=torch.float64), {}
    for cautious, decay in [(False, 0.0), (False, 0.5), (True, 0.5)]:
        weight = nn.Parameter(start.clone())
        optimizer = spec("optim", "muon", lr=0.1, cautious=cautious, weight_decay=decay).build(params=[weight])
        weight.grad = gradient.clone()
        optimizer.step()
        ends[cautious, decay] = weight.detach().clone()
    agrees = (start - ends[False, 0.0]) * start >= 0  # the update is what was subtracted
    assert 20 < int(agrees.sum()) < 76
    torch.testing.assert_close(ends[True, 0.5], torch.where(agrees, ends[False, 0.5], ends[False, 0.0]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("native", [True, False])
def test_fast_is_bf16_only_where_the_processor_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "cpu_has_bf16", lambda: native)

    def updated(dtype: str, weight: torch.Tensor) -> torch.Tensor:
        ours = nn.Parameter(weight.clone())
        ours.grad = torch.linspace(-1, 1, ours.numel(), dtype=weight.dtype).sin().view_as(weight)
        spec("optim", "muon", lr=0.02, iteration_dtype=dtype).build(params=[ours]).step()
        return ours.detach()

    weight = torch.ones(6, 4)
    assert torch.equal(updated("fast", weight), updated("bf16" if native else "fp32", weight))
    assert not torch.equal(updated("bf16", weight), updated("fp32", weight))
    assert torch.equal(updated("fast", weight.double()), updated("auto", weight.double()))  # fp64 stays what it is


def test_agrees_with_torch_in_bf16_to_its_precision() -> None:
    torch.manual_seed(0)
    start = torch.randn(40, 64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = spec("optim", "muon", lr=0.02, iteration_dtype="bf16").build(params=[ours])
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.0)
    ours.grad = torch.randn(40, 64)
    theirs.grad = ours.grad.clone()
    optimizer.step()
    reference.step()
    assert ((ours - theirs).norm() / (ours - start).norm()).item() < 0.02


def test_match_rms_gives_the_rms_of_adamw() -> None:
    torch.manual_seed(0)
    for shape in [(64, 64), (32, 200), (200, 32)]:
        weight = nn.Parameter(torch.zeros(shape))
        optimizer = spec("optim", "muon", lr=1.0, scale="match_rms_adamw").build(params=[weight])
        weight.grad = torch.randn(shape)
        optimizer.step()
        assert 0.13 < float(weight.detach().square().mean().sqrt()) < 0.24


def test_claims_by_role_and_gives_the_rest_to_the_other() -> None:
    torch.manual_seed(0)
    matrix, embedding, bias = (nn.Parameter(torch.randn(shape)) for shape in ((8, 6), (10, 6), (8,)))
    groups = [
        group((matrix, MATRIX), (embedding, Axes(("vocabulary", "width"), "embedding")), lr_scale=0.5),
        group((bias, Axes(("hidden",), "bias")), decay=False),
    ]
    optimizer = spec("optim", "muon", lr=0.02, rest={"name": "lion", "lr": 1e-3, "weight_decay": 0.2}).build(params=groups)
    found = [(g.get("rule"), g["params"], g["base_lr"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [("muon", [matrix], 0.02, 0.01, 0.0), (None, [embedding], 1e-3, 5e-4, 0.2), (None, [bias], 1e-3, 1e-3, 0.0)]
    before = embedding.detach().clone()
    for weight in (matrix, embedding, bias):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(embedding.detach(), before - 5e-4 * (1 + 0.2 * before))
    assert set(optimizer.state) == {matrix, embedding, bias}
    with pytest.raises(RuntimeError, match="build a new one"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))]})


def test_rest_follows_the_groups_after_loading() -> None:
    def make() -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        torch.manual_seed(0)
        pair = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))]
        return pair, spec("optim", "muon", lr=0.02).build(params=pair)

    (_, bias), optimizer = make()
    optimizer.init_state()
    _, other = make()
    other.init_state()
    optimizer.load_state_dict(other.state_dict())
    before = bias.detach().clone()
    for g in optimizer.param_groups:
        g["lr"] = 0.0
    bias.grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(before, bias)
    assert float(optimizer.state[bias]["step"]) == 1.0


def test_works_with_only_matrices_and_with_none() -> None:
    for weight in (nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))):
        optimizer = spec("optim", "muon", lr=0.02).build(params=[weight])
        weight.grad = torch.randn_like(weight)
        before = weight.detach().clone()
        optimizer.step()
        assert not torch.equal(before, weight)


def test_experts_are_separate_matrices_and_kernels_are_flattened() -> None:
    torch.manual_seed(0)
    experts, kernel = nn.Parameter(torch.zeros(4, 12, 20)), nn.Parameter(torch.zeros(10, 3, 5))
    groups = [group((experts, Axes(("experts", "hidden", "width"), "matrix")), (kernel, Axes(("width", "inputs", "taps"), "matrix")))]
    optimizer = spec("optim", "muon", lr=1.0).build(params=groups)
    experts.grad, kernel.grad = torch.randn_like(experts), torch.randn_like(kernel)
    experts.grad[0] *= 1e4  # each expert is normalized by itself
    optimizer.step()
    for matrix in (*experts.detach(), kernel.detach().reshape(10, 15)):
        values = torch.linalg.svdvals(matrix) / math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
        assert values.min().item() > 0.5 and values.max().item() < 1.21


def test_large_sets_are_cut_into_stacks_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for chunk in (10**9, 1):
        monkeypatch.setattr("ingot.optim.muon._CHUNK", chunk)
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(8, 5, dtype=torch.float64)) for _ in range(5)]
        optimizer = spec("optim", "muon", lr=0.1).build(params=weights)
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        ends.append(torch.stack([weight.detach() for weight in weights]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)
