"""What becomes of an optimizer's state when the model grows: carried, or begun anew where the optimizer declares that it must be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.resolve import spec
from ingot.optim._quantize import quantize

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "transform"))
from _growth import PLAIN, Growth

LOW_RANK: dict[str, dict[str, Any]] = {
    "apollo": {"rank": 4, "refresh": 3},
    "fira": {"rank": 4, "refresh": 3},
    "galore": {"rank": 4, "refresh": 3},
    "online_subspace_descent": {"rank": 4},
}
OTHERS: dict[str, dict[str, Any]] = {
    "adafactor": {},
    "adam4bit": {"smallest": 0, "block": 8},
    "adam8bit": {"smallest": 0, "block": 8},
    "adamw": {},
    "lion": {},
    "muon": {"normalize": "neurons"},
    "muon with few bits": {"rest": {"name": "adam8bit", "lr": 0.003, "smallest": 0}},
    "sam": {"inner": {"name": "muon", "lr": 0.003, "rest": {"name": "adam8bit", "lr": 0.003, "smallest": 0}}},
    "schedule_free": {},
    "sgd": {},
    "sgd_sai": {},
}
EVERY = OTHERS | LOW_RANK | {"galore in 8 bits": LOW_RANK["galore"] | {"state_bits": 8, "smallest": 0}}
UNTIED = {**PLAIN, "objective": {"name": "causal_lm", "tied": False}}


def grown(name: str, steps: int = 8, tree: dict[str, Any] = PLAIN) -> Growth:
    """A model trained for some steps."""
    found = Growth(tree, optimizer={"name": name.partition(" ")[0]} | ({} if "inner" in EVERY[name] else {"lr": 0.003}) | EVERY[name])
    found.train(steps)
    return found


def states(growth: Growth) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: value.clone() for key, value in growth.state.optimizer.state[parameter].items()}
        for name, parameter in growth.model.named_parameters()
        if growth.state.optimizer.state.get(parameter)
    }


@pytest.mark.parametrize("name", EVERY)
def test_deeper_every_block_has_a_state_to_the_bit_or_without_its_momentum(name: str) -> None:
    growth = grown(name)
    before = states(growth)
    (line,) = growth.grow(spec("transform", "identity_depth", depth=4, place="end"))
    after, powers = states(growth), growth.snapshot().powers
    assert not line["notes"] and after.keys() == dict(growth.model.named_parameters()).keys()
    for key, held in before.items():
        assert all(torch.equal(value, after[key][part]) for part, value in held.items()), key
    for key in after.keys() - before.keys():  # new blocks are copies of the last one
        copied = before[key.replace("blocks.2", "blocks.1").replace("blocks.3", "blocks.1")]
        for part, value in after[key].items():
            if powers[part] == "weight":
                assert torch.equal(value, copied[part]) or not value.any()
            else:
                assert not value.any() if powers[part] == 1 else torch.equal(value, copied[part]), (key, part)
    growth.train(4)


@pytest.mark.parametrize("name", OTHERS)
def test_wider_every_state_goes_along(name: str) -> None:
    growth = grown(name)
    (line,) = growth.grow("widen")
    assert not line["notes"] and states(growth).keys() == dict(growth.model.named_parameters()).keys()
    growth.train(4)


@pytest.mark.parametrize("name", LOW_RANK)
def test_wider_what_is_projected_begins_anew_and_says_so(name: str) -> None:
    growth = grown(name)
    (line,) = growth.grow("widen")
    kept = states(growth).keys()
    matrices = {key for key in dict(growth.model.named_parameters()) if ".mixer." in key or ".feedforward." in key}
    assert len(line["notes"]) == 1 and "is projected" in line["notes"][0]
    assert "embedding.weight" in kept and not kept & matrices
    growth.train(4)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon", *LOW_RANK])
def test_experts_begin_with_the_dense_state(name: str) -> None:
    growth = grown(name)
    before = states(growth)
    (line,) = growth.grow(spec("transform", "upcycle", experts=3))
    after, powers = states(growth), growth.snapshot().powers
    assert not line["notes"]
    for key in (key for key in after if ".experts." in key):
        for part, value in after[key].items():
            old, power = before[key.replace(".experts.", ".")][part], powers[part]
            share = 3.0 ** -(power if isinstance(power, int) else 2 if power in ("rows", "columns") else 0)
            wanted = old * share if value.dim() == old.dim() == 0 else (old * share).expand_as(value)
            torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    growth.train(4)


@pytest.mark.parametrize("transform", [{"name": "hyperclone"}, {"name": "hyperclone", "times": 3}])
def test_adafactors_means_are_those_of_the_larger_models_gradient(transform: dict[str, Any]) -> None:
    """Clones are equal, so the gradient of the larger model is known: the means of its squares, where the state had the smaller one's."""
    growth = grown("adafactor", 1, UNTIED)
    found = growth.gradients()
    for name, parameter in growth.model.named_parameters():
        held = growth.state.optimizer.state[parameter]
        if "row" in held:
            held["row"].copy_(found[name].square().mean(1))
            held["column"].copy_(found[name].square().mean(0))
    growth.grow(spec("transform", **transform))
    found, after = growth.gradients(), states(growth)
    for name, held in after.items():
        if "row" in held:
            torch.testing.assert_close(held["row"], found[name].square().mean(1), rtol=1e-8, atol=1e-18)
            torch.testing.assert_close(held["column"], found[name].square().mean(0), rtol=1e-8, atol=1e-18)


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_are_those_of_the_moments_that_full_numbers_would_have(bits: int) -> None:
    """The same moments in AdamW's state and as codes: after growing, the codes are within one level of the codes of AdamW's."""
    codes = grown(f"adam{bits}bit")
    plain = Growth(PLAIN, optimizer={"name": "adamw", "lr": 0.003})
    plain.state.optimizer.init_state()
    whole = codes.snapshot().full
    assert whole is not None
    twins = dict(plain.model.named_parameters())
    for name, parameter in codes.model.named_parameters():
        held = whole(codes.state.optimizer.state[parameter], None, tuple(parameter.shape))
        for key in ("exp_avg", "exp_avg_sq"):
            plain.state.optimizer.state[twins[name]][key].copy_(held[key])
    for growth in (codes, plain):
        growth.grow("widen")
    found, wanted, kept = states(codes), states(plain), codes.state.optimizer.kept
    for name, parameter in codes.model.named_parameters():
        for key, codec in kept(tuple(parameter.shape)).items():
            theirs, scales = quantize(wanted[name][key].view(len(parameter), -1), codec)
            mine = found[name][f"{key}_codes"]
            halves = ((mine >> 4, theirs >> 4), (mine & 15, theirs & 15)) if bits == 4 else ((mine, theirs),)
            assert all(int((one.int() - other.int()).abs().max()) <= 1 for one, other in halves), name
            torch.testing.assert_close(found[name][f"{key}_scales"], scales, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["adam8bit", "adam4bit"])
def test_a_weight_that_grows_large_enough_is_kept_in_codes_from_then_on(name: str) -> None:
    growth = Growth(PLAIN, optimizer={"name": name, "lr": 0.003, "smallest": 2000})
    growth.train(6)
    key = "encoder.blocks.0.feedforward.up.weight"  # 64 x 16, then 128 x 32
    assert "exp_avg" in states(growth)[key]
    (line,) = growth.grow("widen")
    assert not line["notes"] and "exp_avg_codes" in states(growth)[key]


@pytest.mark.parametrize("name", ["fira", "apollo"])
def test_a_zero_gradient_does_not_hold_back_the_next(name: str) -> None:
    """As of a weight behind one that begins at zero: the limit on a direction's growth is no limit where there was none."""
    draw = torch.Generator().manual_seed(0)
    gradient, moved = torch.randn(12, 8, generator=draw), []
    for before in (0.0, 1.0):
        weight = torch.nn.Parameter(torch.zeros(12, 8))
        optimizer = spec("optim", name, lr=0.01, rank=4).build(params=[weight])
        weight.grad = before * torch.randn(12, 8, generator=draw)
        optimizer.step()
        at = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        moved.append(float((weight.detach() - at).norm()))
    assert moved[0] > 0.3 * moved[1]
