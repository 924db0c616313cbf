"""Progressive sequence length: a cut row is its pieces as rows of their own, with no token lost, and the schedule is a function of progress."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec


def hook(share: float, shortest: int = 1, sequence: int = 0) -> Any:
    return spec("hook", "sequence_length", share=share, shortest=shortest).build(sequence=sequence)


@pytest.mark.parametrize(
    ("length", "share", "shortest", "wanted"),
    [
        (512, 1.0, 64, 512),
        (512, 0.99, 64, 256),
        (512, 0.25, 64, 128),
        (512, 0.2, 64, 64),
        (512, 0.01, 64, 64),
        (60, 0.6, 7, 30),
        (60, 0.4, 7, 20),
        (60, 0.05, 7, 10),
        (7, 0.5, 2, 7),
        (12, 0.7, 1, 6),
    ],
)
def test_the_length(length: int, share: float, shortest: int, wanted: int) -> None:
    assert length // hook(share, shortest).pieces(length) == wanted


def batch(told: Any) -> dict[str, torch.Tensor]:
    (micro,) = told.window([3, 5], 3, length=8)
    micro["segments"] = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 2], [1] * 8, [0] * 8], dtype=torch.int32)
    micro["positions"] = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], list(range(8)), [0] * 8])
    return micro


def test_pieces_hold_every_token_target_and_unit_once(told: Any) -> None:
    micro = batch(told)
    (found,) = hook(0.5).select(told.state(torch.nn.Identity()), [micro])
    assert found["tokens"].shape == (6, 4) and torch.equal(found["tokens"].reshape(3, 8), micro["tokens"])
    assert torch.equal(found["targets"].reshape(3, 8), micro["targets"])
    assert found["rows"].tolist() == [3, 3, 5, 5, -1, -1] and found["source"].tolist() == [1, 1, 1, 1, 0, 0]
    assert torch.equal(found["units"].view(3, 2).sum(1), micro["units"]) and found["key"] is micro["key"]
    assert found["positions"].tolist()[:4] == [[0, 1, 2, 0], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert hook(1.0).select(told.state(torch.nn.Identity()), [micro]) == [micro]


def test_a_cut_row_is_computed_as_a_row_with_as_many_documents(tiny_recipe: Any, runs: Any) -> None:
    """Cutting equals telling attention that the pieces are different documents, which costs a long row: SkyLadder's mask."""
    import ingot

    run = ingot.build(tiny_recipe({"precision": "fp64"}))
    model = run.model
    windows = run.windows(run.data_of(0).train, start=0, rows=4, micro_rows=4)
    prepared = model.objective.prepare(next(iter(windows))[0])
    windows.close()
    masked = prepared | {"segments": prepared["segments"] * 4 + torch.arange(32)[None] // 8 * (prepared["segments"] > 0)}
    gradients = []
    for given in (masked, hook(0.25).select(None, [prepared])[0]):
        model.zero_grad()
        model(given)["cross_entropy"].sum().backward()
        gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
    assert all(float((gradients[1][name] - value).norm() / value.norm()) < 1e-10 for name, value in gradients[0].items())


STAGE = {
    "budget": "10 steps",
    "hooks": [{"name": "sequence_length", "shortest": 4}],
    "schedule": {"hooks.sequence_length.share": {"name": "constant", "warmup": "80%"}},
}


def test_a_run_lengthens_counts_the_same_tokens_and_resumes_to_the_bit(tiny_recipe: Any, runs: Any) -> None:
    straight = runs.trained(tiny_recipe({"stages": {0: STAGE}}, name="straight"))
    plain = runs.lines(runs.trained(tiny_recipe({"stages": {0: STAGE | {"hooks": [], "schedule": {"lr": "constant"}}}}, name="plain")))
    found = runs.lines(straight)
    lengths = [line["hooks"]["sequence_length.length"] for line in found]
    assert lengths == sorted(lengths) and lengths[0] == 4 and lengths[-1] == 32 and len(set(lengths)) > 2
    assert [line["step_tokens"] for line in found] == [line["step_tokens"] for line in plain]
    assert [line["rows"] for line in found] == [line["rows"] for line in plain]
    attention = [line["flops_by_component"]["encoder"] for line in found]
    assert attention[0] < attention[-1] == pytest.approx(plain[-1]["flops_by_component"]["encoder"], rel=0.01)  # documents differ a little
    assert len(set(attention)) == len(set(lengths))
    for stop in (2, 6):
        runs.trained(tiny_recipe({"stages": {0: STAGE}}, name="broken"), stop=stop)
    resumed = runs.trained(tiny_recipe({"stages": {0: STAGE}}, name="broken"))
    wanted, got = runs.weights(straight), runs.weights(resumed)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert [line["step_flops"] for line in runs.lines(resumed)] == [line["step_flops"] for line in found]


def test_composes_with_selection(tiny_recipe: Any, runs: Any) -> None:
    """Cut first, pieces are chosen; either way as many tokens are trained on."""
    for order in (["sequence_length", "online_selection"], ["online_selection", "sequence_length"]):
        hooks = [{"name": name} | ({"share": 0.5, "shortest": 4} if name == "sequence_length" else {"keep": 0.5}) for name in order]
        found = runs.lines(runs.trained(tiny_recipe({"stages": {0: {"budget": "3 steps", "hooks": hooks}}}, name="-".join(order))))
        assert all(200 < line["step_tokens"] <= 256 and line["read_rows"] == 16 for line in found)


def test_refusals(tiny_recipe: Any, runs: Any) -> None:
    with pytest.raises(UserError, match="share 1 cuts nothing"):
        runs.trained(tiny_recipe({"stages": {0: {"hooks": ["sequence_length"]}}}))
    with pytest.raises(UserError, match="pieces of 64 tokens or more cannot be cut from rows of 32"):
        runs.trained(tiny_recipe({"stages": {0: {"hooks": [{"name": "sequence_length", "share": 0.5}]}}}))
