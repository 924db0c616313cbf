"""A checkpoint written by any number of ranks is loaded by any other, bit for bit, in every layout; also while training goes on."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.errors import RunError, UserError
from ingot.core.progress import Progress
from ingot.train.checkpoint import Checkpoints, read_tensors
from ingot.train.state import State

found = importlib.util.spec_from_file_location("gradients_task", Path(__file__).with_name("test_gradients.py"))
assert found is not None and found.loader is not None
window_task = importlib.util.module_from_spec(found)
found.loader.exec_module(window_task)


class Average:
    """A hook with one replicated tensor and one plain value."""

    def __init__(self, value: float) -> None:
        self.tensor, self.seen = torch.full((3, 2), value, dtype=torch.bfloat16), int(value)

    def state_dict(self) -> dict[str, Any]:
        return {"tensor": self.tensor, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensor.copy_(state["tensor"])
        self.seen = state["seen"]


def forbid_unpickling(patch: Any = None) -> None:
    """torch.load and pickle.load raise from here on; the collectives of torch use pickle.Unpickler between live processes."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        patch.setattr(owner, name, refuse) if patch else setattr(owner, name, refuse)


def fresh(layout: Any, seed: int) -> tuple[State, Average]:
    """A model of several dtypes with an optimizer that has no state yet."""
    torch.manual_seed(seed)
    model = window_task.StandIn()
    model.register_buffer("counter", torch.arange(4) * seed)
    model.register_buffer("narrow", torch.randn(3, 5).bfloat16())
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    model.encoder.blocks[0].double_gain = nn.Parameter(torch.randn(5, dtype=torch.float64), requires_grad=False)
    model = layout.shard(model, torch.float32)
    hook = Average(seed)
    return State(
        model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01 * seed), hooks={"average": hook}
    ), hook


def train(state: State, layout: Any, steps: int) -> None:
    layout.model = state.model  # a layout serves the model it sharded last
    for _ in range(steps):
        window_task.gradients(state.model, layout, 2)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.progress.total_steps += 1


def whole(state: State, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}/{name}": (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in state.tensors().items()
    }


def save(state: State, folder: Path, **options: Any) -> Path:
    checkpoints = Checkpoints(folder, **options)
    path = checkpoints.save(state, recipe_hash="hash", recipe={"width": 8}, metrics={"loss": 1.0})
    checkpoints.wait()
    return path


def task(layout: Any, folder: Path, argument: str) -> dict[str, Tensor]:
    """Load what one process wrote; write, load again with other weights underneath; write in the background during training."""
    forbid_unpickling()
    result = {}
    state, hook = fresh(layout, 3)
    Checkpoints(folder / "one").load(state, folder / "one" / "step-00000002")
    assert (state.progress.total_steps, hook.seen, state.optimizer.param_groups[0]["lr"]) == (2, 2, 0.02)
    result |= whole(state, "from one")
    train(state, layout, 1)
    result |= whole(state, "trained on")
    with torch.no_grad():
        state.model(window_task.window())  # an evaluation leaves a sharded root whole
    path = save(state, folder / "several", layout=argument)
    other, _ = fresh(layout, 4)
    Checkpoints(folder / "several").load(other, path)
    result |= whole(other, "from several")

    behind = Checkpoints(folder / "behind", asynchronous=True)
    expected = whole(state, "behind")
    path = behind.save(state, recipe_hash="hash", recipe={})
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
    train(state, layout, 3)
    assert behind.latest() == path
    other, _ = fresh(layout, 5)
    behind.load(other, path)
    assert all(torch.equal(value, expected[name]) for name, value in whole(other, "behind").items())

    target = next((folder / "behind").glob("step-*/shard-00001.safetensors"))
    layout.barrier()
    if layout.rank == 0:
        target.write_bytes(target.read_bytes()[:-1] + b"!")
    layout.barrier()
    for wrong, kind in (
        (lambda: Checkpoints(folder / "behind").load(other, path), RunError),
        (lambda: Checkpoints(folder / "one").load(other, folder / "no"), UserError),
    ):
        try:
            wrong()
            raise AssertionError("a damaged or missing checkpoint was loaded")
        except kind as error:
            assert "shard-00001" in str(error) or "no checkpoint" in str(error)
    return result


@pytest.mark.parametrize("layout", ["fsdp", "replicate"])
def test_any_number_of_ranks(run_ranks: Any, tmp_path: Path, layout: str) -> None:
    from ingot.core.resolve import spec

    alone = spec("parallel.layout", "single").build()
    state, _ = fresh(alone, 2)
    train(state, alone, 2)
    save(state, tmp_path / "one")
    written = whole(state, "from one")
    result = run_ranks("task", layout, 2, layout)

    assert {name for name in result if name.startswith("from one/")} == set(written)
    for name, value in written.items():
        assert torch.equal(result[name], value), name
    trained = {name: value for name, value in result.items() if name.startswith("trained on/")}
    for name, value in trained.items():
        assert torch.equal(result[name.replace("trained on", "from several")], value), name
    back, hook = fresh(alone, 6)
    path = tmp_path / "several" / "step-00000003"
    Checkpoints(tmp_path / "several").load(back, path)
    for name, value in whole(back, "trained on").items():
        assert torch.equal(trained[name], value), name
    assert hook.seen == 2 and back.progress == Progress(total_steps=3)
    assert len(list(path.glob("shard-*"))) == 2
    assert all(torch.equal(trained[f"trained on/model.{name}"], value) for name, value in read_tensors(path).items())
