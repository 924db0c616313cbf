"""What a checkpoint holds: complete, each tensor once, and put back so that training goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.errors import UserError
from ingot.train.checkpoint import Checkpoints
from ingot.train.state import State


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(11, 4), nn.Linear(4, 4), nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.idle = nn.Parameter(torch.ones(2))
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("derived", torch.arange(3), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(tokens))))


class Composite(torch.optim.Optimizer):
    """Momentum for matrices and AdamW for the rest, which shares this optimizer's groups and state, as a composite part would.

    It keeps what real optimizers keep: lazy tensors, a whole number, a tensor of another shape, and a number in the group.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float = 0.05) -> None:
        super().__init__(groups, {"lr": lr, "estimate": 1e-6, "betas": (0.9, 0.95)})
        self.inner = torch.optim.AdamW([group for group in self.param_groups if not group["matrix"]], lr=lr)
        self.inner.state = self.state

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for group in self.param_groups:
            group["estimate"] *= 1.5
            for parameter in group["params"] if group["matrix"] else ():
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {
                        "momentum": torch.zeros_like(parameter),
                        "rows": torch.zeros(parameter.shape[0], dtype=torch.bfloat16),
                        "count": 0,
                    }
                state["count"] += 1
                state["momentum"].mul_(0.9).add_(parameter.grad)
                state["rows"].add_(parameter.grad.sum(dim=1).bfloat16())
                with torch.no_grad():
                    parameter.sub_(group["lr"] * state["momentum"] * (1 + group["estimate"]))
        self.inner.step()
        return loss


def groups(model: nn.Module) -> list[dict[str, Any]]:
    named = dict(model.named_parameters())
    split = {True: [name for name in named if name == "hidden.weight"], False: [name for name in named if name != "hidden.weight"]}
    return [
        {"params": [named[name] for name in names], "names": names, "axes": [object()] * len(names), "matrix": matrix}
        for matrix, names in split.items()
    ]


OPTIMIZERS = {
    "composite": lambda model: Composite(groups(model)),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.3, amsgrad=True),
    "sgd without state": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "muon": lambda model: torch.optim.Muon([model.hidden.weight], lr=0.02),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters(), lr=0.02),
    "tensor lr": lambda model: torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.02)),
}


def fresh(make: Any, seed: int) -> State:
    torch.manual_seed(seed)
    model = Tied()
    return State(model, make(model))


def train(state: State, steps: int) -> None:
    for _ in range(steps):
        generator = torch.Generator().manual_seed(state.progress.total_steps)
        tokens = torch.randint(11, (8,), generator=generator)
        nn.functional.cross_entropy(state.model(tokens), tokens.flip(0)).backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.progress.total_steps += 1


def everything(state: State) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in state.tensors().items()} | {
        "plain": state.plain(),
        "progress": state.progress.as_dict(),
    }


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) and value.dtype == other[name].dtype if isinstance(value, Tensor) else value == other[name]
        assert same, name


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_resumes_bit_for_bit(tmp_path: Path, name: str, steps: int) -> None:
    state = fresh(OPTIMIZERS[name], 1)
    train(state, steps)
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(state, recipe_hash="", recipe={})
    saved = everything(state)
    train(state, 4)
    other = fresh(OPTIMIZERS[name], 2)
    checkpoints.load(other, path)
    assert_equal(everything(other), saved)
    assert other.model.head.weight is other.model.embedding.weight
    assert all(parameter.grad is None for parameter in other.model.parameters())
    train(other, 4)
    assert_equal(everything(other), everything(state))
    train(other, 2)
    checkpoints.load(other, path)  # back again, over state that exists
    assert_equal(everything(other), saved)


def test_names_and_omissions() -> None:
    state = fresh(OPTIMIZERS["adamw"], 1)
    train(state, 1)
    names = set(state.tensors())
    assert {"model.embedding.weight", "model.hidden.bias", "model.kept", "model.idle", "optim.hidden.weight.exp_avg"} <= names
    assert not {"model.head.weight", "model.derived", "optim.idle.exp_avg"} & names


def test_creating_state_changes_nothing_else() -> None:
    state = fresh(OPTIMIZERS["composite"], 1)
    weights = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
    before = state.plain()["groups"]
    state.model.idle.grad = mark = torch.ones(2)
    state.create_optimizer_state()
    assert state.optimizer.state[state.model.hidden.weight]["momentum"].shape == (4, 4)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in state.model.named_parameters())
    assert state.plain()["groups"] == before and state.model.idle.grad is mark and state.model.hidden.weight.grad is None


class Counter:
    def __init__(self) -> None:
        self.count, self.mean = 0, torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean.of.it": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean = state["count"], state["mean.of.it"].clone()


def test_hooks_receive_their_state_when_attached(tmp_path: Path) -> None:
    state = fresh(OPTIMIZERS["adamw"], 1)
    counter = Counter()
    counter.count, counter.mean = 7, torch.tensor([0.1, 0.2])
    state.attach_hooks({"counter": counter})
    state.extra["choices"] = {"micro_rows": 4, "ratio": 0.1}
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(state, recipe_hash="", recipe={})
    other = fresh(OPTIMIZERS["adamw"], 2)
    checkpoints.load(other, path)
    again = checkpoints.save(other, recipe_hash="", recipe={})  # not attached yet, and not lost
    checkpoints.load(other, again)
    late = Counter()
    other.attach_hooks({"counter": late, "stateless": object()})
    assert late.count == 7 and torch.equal(late.mean, counter.mean) and other.extra == state.extra
    late.count = 0
    checkpoints.load(other, again)
    assert late.count == 7


def test_other_groups_are_refused(tmp_path: Path) -> None:
    state = fresh(OPTIMIZERS["composite"], 1)
    path = Checkpoints(tmp_path).save(state, recipe_hash="", recipe={})
    other = fresh(OPTIMIZERS["muon"], 1)
    with pytest.raises(UserError, match="1 parameter groups are not the 2"):
        Checkpoints(tmp_path).load(other, path)


def test_values_that_a_checkpoint_cannot_hold() -> None:
    state = fresh(OPTIMIZERS["adamw"], 1)
    state.extra["when"] = object()
    with pytest.raises(TypeError, match=r"state\.extra"):
        state.plain()
    state = fresh(OPTIMIZERS["adamw"], 1)
    state.optimizer.state[state.model.idle] = {"history.1": torch.zeros(2)}
    with pytest.raises(TypeError, match="without dots"):
        state.tensors()
