"""What every optimizer keeps, whatever its rule: parametrized over all parts of the slot."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn import functional as F

import ingot
from ingot.core.axes import Axes
from ingot.core.parts import load, parts_in, signature
from ingot.core.resolve import spec

NAMES = list(parts_in("optim"))
WORKER = Path(__file__).with_name("_sharded_optim.py")
# What the defaults would leave untried in weights this small.
TINY: dict[str, dict] = {name: {"rank": 4, "refresh": 2} for name in ("apollo", "fira", "galore")} | {
    "online_subspace_descent": {"rank": 4},
    "adam8bit": {"smallest": 0, "block": 8},
    "adam4bit": {"smallest": 0, "block": 8},
}
every = pytest.mark.parametrize("name", NAMES)


class Attention(nn.Module):
    """A small causal transformer block over tokens: matrices, norms, biases, an embedding."""

    def __init__(self, width: int = 16, vocabulary: int = 12):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embedding(tokens_BT)
        h = self.norm(x)
        x = x + self.output(F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h), is_causal=True))
        x = x + self.down(F.gelu(self.up(x)))
        return x @ self.embedding.weight.T


def axes_of(name: str, weight: Tensor) -> Axes:
    if name.startswith("embedding"):
        return Axes(("vocabulary", "width"), "embedding")
    return Axes(("width", "width"), "matrix") if weight.dim() == 2 else Axes(("width",), "bias")


def groups_of(model: nn.Module, **keys: object) -> list[dict]:
    named = list(model.named_parameters())
    decayed = [pair for pair in named if pair[1].dim() == 2]
    plain = [pair for pair in named if pair[1].dim() == 1]
    return [
        {
            "params": [w for _, w in part],
            "names": [n for n, _ in part],
            "axes": [axes_of(n, w) for n, w in part],
            "lr_scale": 1.0,
            "decay": decay,
        }
        | keys
        for part, decay in ((decayed, True), (plain, False))
    ]


def make(name: str, params: object, lr: float = 0.01, **knobs: object) -> torch.optim.Optimizer:
    knobs = {"lr": lr} | TINY.get(name, {}) | knobs
    if "lr" not in signature(load("optim", name)).knobs:  # it is that of the optimizer inside
        knobs = {"inner": {"name": "adamw"} | knobs}
    return spec("optim", name, **knobs).build(params=params)


def problem(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The model and its loss: each token is the sum of the two before it, modulo the vocabulary."""
    torch.manual_seed(0)
    model = Attention().to(dtype)
    tokens = torch.randint(12, (8, 2))
    for _ in range(10):
        tokens = torch.cat([tokens, (tokens[:, -1:] + tokens[:, -2:-1]) % 12], 1)

    def loss() -> Tensor:
        model.zero_grad()
        value = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        value.backward()
        return value

    return model, loss


def weights(model: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


@every
def test_learns(name: str) -> None:
    model, loss = problem()
    optimizer = make(name, groups_of(model))
    first = loss().item()
    for _ in range(80):
        optimizer.step(loss)
    assert loss().item() < 0.75 * first


@every
def test_closure_is_called_as_declared_and_its_first_loss_returned(name: str) -> None:
    model, loss = problem()
    optimizer = make(name, groups_of(model))
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        calls.append(loss())
        return calls[-1]

    assert optimizer.step(closure) is calls[0]
    assert len(calls) == optimizer.closure_calls
    assert optimizer.step() is None


@every
@pytest.mark.parametrize("groups", ["as saved", "tensors alone"])
def test_resumes_to_the_bit(name: str, groups: str) -> None:
    model, loss = problem()
    optimizer = make(name, groups_of(model))
    for _ in range(5):
        optimizer.step(loss)
    saved, saved_weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    if groups == "tensors alone":
        saved["param_groups"] = [{"params": group["params"]} for group in saved["param_groups"]]
    for _ in range(5):
        optimizer.step(loss)
    other, other_loss = problem()
    resumed = make(name, groups_of(other))
    resumed.init_state()
    other.load_state_dict(saved_weights)
    resumed.load_state_dict(saved)
    for _ in range(5):
        resumed.step(other_loss)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other)))
    assert [group["names"] for group in resumed.param_groups] == [group["names"] for group in optimizer.param_groups]


@every
def test_state_travels_by_name_through_distributed_state_dicts(name: str) -> None:
    (model, loss), (other, other_loss) = problem(), problem()
    optimizer, resumed = make(name, groups_of(model)), make(name, groups_of(other))
    for _ in range(3):
        optimizer.step(loss)
    flat = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    flat = {key: value.clone() if torch.is_tensor(value) else value for key, value in flat.items()}
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed.init_state()
    set_optimizer_state_dict(other, resumed, flat, options=StateDictOptions(flatten_optimizer_state_dict=True))
    for _ in range(3):
        optimizer.step(loss)
        resumed.step(other_loss)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other)))


@every
def test_deep_copy_goes_on_by_itself(name: str) -> None:
    model, loss = problem()
    optimizer = make(name, groups_of(model))
    optimizer.step(loss)
    model2, optimizer2 = copy.deepcopy((model, optimizer))
    before = weights(model)
    for weight, twin in zip(model.parameters(), model2.parameters()):
        twin.grad = weight.grad.clone()
    optimizer2.step()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(model2)))


@every
def test_ready_state_changes_no_weight_and_no_update(name: str) -> None:
    (model, loss), (other, other_loss) = problem(), problem()
    ready, lazy = make(name, groups_of(model)), make(name, groups_of(other))
    before = weights(model)
    ready.init_state()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))
    for _ in range(3):
        ready.step(loss)
        lazy.step(other_loss)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other)))
    assert [set(state) for state in ready.state.values()] == [set(ready.state[w]) for w in ready.state]


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_is_as_declared(name: str, dtype: torch.dtype) -> None:
    model, loss = problem(dtype)
    optimizer = make(name, groups_of(model))
    for moment in (optimizer.init_state, lambda: optimizer.step(loss)):
        moment()
        for key, weight in model.named_parameters():
            axes, state = axes_of(key, weight), optimizer.state.get(weight, {})
            layout = optimizer.state_layout(axes, tuple(weight.shape))
            assert set(state) == set(layout)
            assert sum(value.nbytes for value in state.values()) == optimizer.state_bytes(tuple(weight.shape), dtype, axes)
            assert all(state[k].shape == weight.shape for k, kind in layout.items() if kind == "elementwise")
            assert all(state[k].shape == () for k, kind in layout.items() if kind == "scalar")


@every
def test_weight_decay_acts_where_it_is_asked_for(name: str) -> None:
    model, _ = problem()
    groups = groups_of(model)
    optimizer = make(name, groups, lr=0.1, weight_decay=0.5)
    before = weights(model)
    for group in optimizer.param_groups:
        assert group["base_weight_decay"] == group["weight_decay"] and group["base_lr"] > 0
        assert group["decay"] or group["weight_decay"] == 0
        group["weight_decay"] = 0.5 if group["decay"] else 0.0
        group["lr"] = 0.1
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for old, weight in zip(before, model.parameters()):
        expected = old * (1 - 0.1 * 0.5) if weight.dim() == 2 else old
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=0)


@every
def test_learning_rate_of_the_group_is_what_counts(name: str) -> None:
    moves = []
    for scale in (1.0, 0.5):
        model, loss = problem(torch.float64)
        optimizer = make(name, groups_of(model, lr_scale=scale), weight_decay=0.0)
        assert all(group["lr"] == group["base_lr"] * scale for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            if "rule" not in group:
                group["weight_decay"] = 0.0
        before = weights(model)
        optimizer.step(loss)
        moves.append([new - old for old, new in zip(before, weights(model))])
    for whole, half in zip(*moves):
        torch.testing.assert_close(half, whole / 2, rtol=1e-7, atol=1e-12)


@every
def test_learning_rate_zero_changes_no_weight(name: str) -> None:
    model, loss = problem()
    optimizer = make(name, groups_of(model))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = weights(model)
    optimizer.step(loss)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))


@every
def test_double_precision_follows_single(name: str) -> None:
    ends = []
    for dtype in (torch.float32, torch.float64):
        model, loss = problem(dtype)
        optimizer = make(name, groups_of(model), lr=1e-3)
        optimizer.step(loss)
        assert all(weight.dtype == dtype for weight in model.parameters())
        ends.append(weights(model))
    signs = name == "lion"  # a gradient of rounding error has no sign to agree on
    for single, double in zip(*ends):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=2.1e-3 if signs else 2e-4)


@every
def test_weights_without_gradient_stay(name: str) -> None:
    model, loss = problem()
    optimizer = make(name, groups_of(model), weight_decay=0.1)
    frozen = {"query.weight", "norm.bias"}
    before = dict(zip(dict(model.named_parameters()), weights(model)))
    for step in range(3):
        loss()
        for key, weight in model.named_parameters():
            if key in frozen and step < 2:
                weight.grad = None
        optimizer.step()
        if step == 1:
            assert all(torch.equal(before[key], weight) == (key in frozen) for key, weight in model.named_parameters())
    assert not any(torch.equal(before[key], weight) for key, weight in model.named_parameters())


@every
def test_weight_by_weight_is_the_same_update(name: str) -> None:
    """What updating inside the backward pass rests on; an optimizer that cannot says why."""
    (model, loss), (other, other_loss) = problem(), problem()
    whole, single = make(name, groups_of(model)), make(name, groups_of(other))
    if whole.whole_gradient:
        pytest.skip(f"{name} {whole.whole_gradient}")

    def closure() -> None:
        other_loss()
        for group in reversed(single.param_groups):
            for weight in reversed(group["params"]):
                single.update_one(group, weight)
                weight.grad = None

    for _ in range(3):
        whole.step(loss)
        single.step(closure)
        for weight, twin in zip(model.parameters(), other.parameters()):
            torch.testing.assert_close(weight, twin, rtol=1e-6, atol=1e-7)


@every
def test_a_step_can_be_pretended(name: str) -> None:
    """What forecasts of memory rest on: two steps on tensors without contents, from which nothing can be read."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Attention()
        optimizer = make(name, groups_of(model))

        def closure() -> Tensor:
            for weight in model.parameters():
                weight.grad = torch.ones_like(weight)
            return torch.zeros(())

        for _ in range(2):
            optimizer.step(closure)
        sizes = {key: sum(value.nbytes for value in optimizer.state.get(weight, {}).values()) for key, weight in model.named_parameters()}
        shapes = {key: (tuple(weight.shape), axes_of(key, weight)) for key, weight in model.named_parameters()}
    if sum(sizes.values()):
        assert sum(sizes.values()) == sum(optimizer.state_bytes(shape, torch.float32, axes) for shape, axes in shapes.values())
    model, loss = problem()
    make(name, groups_of(model)).step(loss)  # and nothing pretended is left behind
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


@every
def test_takes_plain_tensors_and_refuses_twins(name: str) -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    optimizer = make(name, [weight])
    (weight**2).sum().backward()
    before = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, weight)
    with pytest.raises(ingot.core.errors.UserError, match="twice"):
        make(name, [{"params": [weight]}, {"params": [weight]}])
    with pytest.raises(ingot.core.errors.UserError, match="no weights"):
        make(name, [])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """Results of every optimizer on one process, and on two FSDP2 ranks."""
    folder = tmp_path_factory.mktemp("sharded")
    environment = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    results, given = [], [f"{name}={json.dumps(TINY.get(name, {}))}" for name in NAMES]
    for ranks in (1, 2):
        result = folder / f"result{ranks}"
        commands = [
            [sys.executable, str(WORKER), str(rank), str(ranks), str(folder / f"store{ranks}"), str(result), *given]
            for rank in range(ranks)
        ]
        processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
        errors = [process.communicate(timeout=170)[1] for process in processes]
        assert result.exists(), "\n".join(errors)
        results.append(torch.load(result, weights_only=True))
    return results[0], results[1]


@every
def test_two_sharded_ranks_agree_with_one_process(name: str, sharded: tuple[dict, dict]) -> None:
    one, two = (result[name] for result in sharded)
    for key, weight in one["weights"].items():
        assert float((two["weights"][key] - weight).norm() / weight.norm()) < 1e-6, key
    # rank 0 holds the larger half of an uneven cut
    assert two["bytes"] <= 0.65 * one["bytes"]
