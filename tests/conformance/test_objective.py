"""What every objective keeps: sums per row, units per row, pure corruption, one gradient however rows are split; and it learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.build.parity import worst_difference
from ingot.core.axes import axes_of
from ingot.core.resolve import spec
from ingot.train.step import forward_backward

SLOTS = ["objective"]
ROWS = list(range(8))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def take(batch: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {key: value[rows] if value.dim() else value for key, value in batch.items()}


def test_declares_itself(case: Any, tiny_model: Any) -> None:
    objective = tiny_model(case.spec()).objective
    assert isinstance(objective.causal, bool) and isinstance(objective.couples_batch, bool)


def test_prepare_is_pure(case: Any, tiny_model: Any, batch_of: Any) -> None:
    """The same rows and key give the same corruption in any batch; where it is random, other rows and keys give another."""
    objective = tiny_model(case.spec()).objective
    batch = batch_of(ROWS)
    kept, generator = copy.deepcopy(batch), torch.get_rng_state()
    prepared = objective.prepare(batch)
    assert same(batch, kept) and torch.equal(generator, torch.get_rng_state())
    assert same(prepared, objective.prepare(batch))
    assert same(take(prepared, [5, 2]), objective.prepare(take(batch, [5, 2])))
    other_key, other_rows = objective.prepare(batch | {"key": torch.tensor(6)}), objective.prepare(batch | {"rows": batch["rows"] + 100})
    differs = [
        not same(prepared | {"key": batch["key"], "rows": batch["rows"]}, other | {"key": batch["key"], "rows": batch["rows"]})
        for other in (other_key, other_rows)
    ]
    assert differs in ([True, True], [False, False])


def test_units_are_what_is_scored(case: Any, tiny_model: Any, batch_of: Any) -> None:
    model = tiny_model(case.spec())
    batch = model.objective.prepare(batch_of([0, 1, -1, 2, -1]))
    units = batch["units"]
    assert units.shape == (5,) and units.dtype == torch.int64
    assert units[[0, 1, 3]].min() > 0 and not units[[2, 4]].any()
    if "targets" in batch:
        assert torch.equal(units, (batch["targets"] >= 0).flatten(1).sum(1))
    losses = model(batch)
    for loss in losses.values():
        assert loss.shape == (5,) and loss.isfinite().all() and not loss[[2, 4]].any()
    sum(loss.sum() for loss in losses.values()).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_only_padding_gives_zero(case: Any, tiny_model: Any, batch_of: Any) -> None:
    """What a rank without rows computes."""
    model = tiny_model(case.spec())
    losses = model(model.objective.prepare(batch_of([-1, -1])))
    sum(loss.sum() for loss in losses.values()).backward()
    assert not any(loss.any() for loss in losses.values())
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_every_parameter_is_labeled_and_learns(case: Any, tiny_model: Any, batch_of: Any) -> None:
    model = tiny_model(case.spec())
    assert axes_of(model).keys() == dict(model.named_parameters()).keys()
    sum(loss.sum() for loss in model(model.objective.prepare(batch_of(ROWS))).values()).backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()), (
            name
        )


def test_losses_and_gradients_add_up_over_any_split(case: Any, tiny_model: Any, batch_of: Any) -> None:
    model = tiny_model(case.spec(), torch.float64, dropout=0.1)
    if model.objective.couples_batch:
        pytest.skip("rows are compared with each other: see the test below")
    batch = model.objective.prepare(batch_of(ROWS))
    whole = model(batch)
    sum(loss.sum() for loss in whole.values()).backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    for rows in ([3], [0, 1, 2], [4, 5, 6, 7]):
        losses = model(take(batch, rows))
        sum(loss.sum() for loss in losses.values()).backward()
        for name, loss in losses.items():
            torch.testing.assert_close(loss, whole[name][rows], rtol=1e-12, atol=1e-12)
    for name, parameter in ((name, held) for name, held in model.named_parameters() if held.requires_grad):
        assert float((parameter.grad - wanted[name]).norm() / wanted[name].norm()) < 1e-12, name


def test_coupled_losses_have_one_gradient_over_any_split(case: Any, tiny_model: Any, batch_of: Any) -> None:
    """Rows that are compared: accumulation goes through train/coupled.py, and gives the gradient of the whole."""
    model, layout = tiny_model(case.spec(), torch.float64, dropout=0.1), spec("parallel.layout", "single").build()
    if not model.objective.couples_batch:
        pytest.skip("rows are scored one by one")
    batch = model.objective.prepare(batch_of([0, 1, 2, 3, 4, -1, 5, 6]))
    whole = forward_backward(model, [batch], layout, {})
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    split = forward_backward(model, [take(batch, rows) for rows in ([0], [1, 2, 3], [4, 5], [6, 7])], layout, {})
    for name, share in whole.shares.items():
        torch.testing.assert_close(split.shares[name], share, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat(split.rows), torch.cat(whole.rows))
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert worst_difference(wanted, found)[0] < 1e-11, worst_difference(wanted, found)


def test_half_precision_follows_single(case: Any, tiny_model: Any, batch_of: Any) -> None:
    single, half = (tiny_model(case.spec(), dtype) for dtype in (torch.float32, torch.bfloat16))
    batch = single.objective.prepare(batch_of(ROWS))
    for name, loss in half(batch).items():
        torch.testing.assert_close(loss.float(), single(batch)[name], rtol=0.1, atol=0.1)
        loss.sum().backward(retain_graph=True)
    assert all(
        parameter.dtype == torch.float32 and (not parameter.requires_grad or parameter.grad.isfinite().all())
        for parameter in half.parameters()
    )


def test_learns_a_small_problem_in_thirty_steps(case: Any, tiny_model: Any, batch_of: Any) -> None:
    model = tiny_model(case.spec())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)

    def mean() -> Tensor:
        batch = model.objective.prepare(batch_of(ROWS))
        return sum(loss.sum() for loss in model(batch).values()) / batch["units"].sum()

    first = float(mean())
    for _ in range(30):
        optimizer.zero_grad()
        mean().backward()
        optimizer.step()
    assert float(mean()) < 0.6 * first


def test_state_dict_round_trip(case: Any, tiny_model: Any, batch_of: Any) -> None:
    model, other = tiny_model(case.spec()), tiny_model(case.spec(), seed=4)
    batch = model.objective.prepare(batch_of(ROWS))
    assert not same(model(batch), other(batch))
    other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    assert same(model(batch), other(batch))


def test_scores_have_the_promised_shape(case: Any, tiny_model: Any, batch_of: Any) -> None:
    model = tiny_model(case.spec()).eval()
    if not hasattr(model.objective, "vocabulary") or model.decoder is not None:
        pytest.skip("has no scores over a vocabulary")
    batch = model.objective.prepare(batch_of(ROWS))
    if "targets" not in batch or len(model(batch)) > 2:
        pytest.skip("its loss is not that of one target per position")
    scores = model.logits(model.encode(batch, causal=model.objective.causal))
    assert scores.shape == (*batch["tokens"].shape, model.embedding.vocabulary) and scores.dtype == torch.float32
    nll = torch.nn.functional.cross_entropy(scores.mT, batch["targets"].clamp(min=0), reduction="none") * (batch["targets"] >= 0)
    torch.testing.assert_close(nll.sum(1), next(iter(model(batch).values())), rtol=1e-4, atol=1e-4)


def test_vitals_belong_to_rows_and_have_bands(case: Any, tiny_model: Any, batch_of: Any) -> None:
    """What health watches: per row, whatever other rows are beside it, without a trace; every measure with its band."""
    model = tiny_model(case.spec()).eval()
    if not hasattr(model.objective, "vitals"):
        pytest.skip("watches nothing of its own")
    batch = model.objective.prepare(batch_of(ROWS))
    with torch.no_grad():
        whole, some = model.objective.vitals(model, batch), model.objective.vitals(model, take(batch, [5, 2]))
    for name, value in whole.items():
        assert len(value) == len(ROWS) and value.isfinite().all(), name
        torch.testing.assert_close(some[name], value[[5, 2]], rtol=1e-4, atol=1e-5)
    found = model.objective.bands({name: value.double().mean(dim=0) for name, value in whole.items()})
    assert bool(found) == bool(whole) and all(least <= most for _, least, most in found.values())
    assert all(torch.tensor(value).isfinite() for value, _, _ in found.values()) and not any(
        getattr(module, "side", None) for module in model.modules()
    )
