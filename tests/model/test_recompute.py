"""Activation checkpointing: every mode gives the same gradients to the bit, keeps what it says, and is metered apart."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ingot
from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.ledger.flops import FlopCount
from ingot.model import recompute
from ingot.nn.context import Context
from ingot.ops.flops import register

WIDTH, LENGTH, ROWS, DEPTH = 32, 24, 3, 3


def build(mode: str, **knobs: Any) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = spec(
        "model.encoder", "transformer", depth=DEPTH, mixer={"name": "attention", "heads": 2}, dropout=0.2, checkpointing=mode, **knobs
    ).build(width=WIDTH, sequence=LENGTH)
    return built


def context() -> Context:
    return Context(
        torch.arange(LENGTH).expand(ROWS, -1), torch.ones(ROWS, LENGTH, dtype=torch.int32), True, torch.arange(ROWS), torch.tensor(5)
    )


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def gradients(encoder: nn.Module, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    x = inputs(dtype)
    encoder(x, context()).square().sum().backward()
    assert x.grad is not None
    return [x.grad, *(parameter.grad for parameter in encoder.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("feedforward", ["gelu", "swiglu"])
@pytest.mark.parametrize("mode", ["full", "selective", "offload", "auto"])
def test_gradients_are_those_of_no_checkpointing_to_the_bit(mode: str, feedforward: str, dtype: torch.dtype) -> None:
    wanted, found = (gradients(build(name, feedforward=feedforward), dtype) for name in ("none", mode))
    assert len(wanted) == len(found) > 20
    assert all(torch.equal(one, other) for one, other in zip(wanted, found))


def counted(mode: str) -> FlopCount:
    register()
    encoder = build(mode)
    with FlopCount(encoder) as count:
        encoder(inputs(), context()).sum().backward()
    return count


def test_what_is_computed_again_is_metered_apart() -> None:
    found = {mode: counted(mode) for mode in ("none", "selective", "full")}
    assert len({count.total for count in found.values()}) == 1, "recomputation must not enter the step's FLOPs"
    with FlopCount() as forward:
        build("none").eval()(inputs(), context())
    assert found["none"].recomputed == 0
    assert 0 < found["selective"].recomputed < 0.2 * found["full"].recomputed, "products of matrices are not computed again"
    assert found["full"].recomputed == forward.total


def kept_bytes(mode: str) -> int:
    """Bytes alive after the forward, beyond the model and what goes in."""
    from ingot.ledger.live import LiveBytes

    encoder = build(mode, feedforward="swiglu")
    x = inputs()
    with LiveBytes() as live:
        y = encoder(x, context())
        found = live.live
    del y
    return found


def test_each_mode_keeps_less_than_the_one_before() -> None:
    none, selective, full = (kept_bytes(mode) for mode in ("none", "selective", "full"))
    block_input = ROWS * LENGTH * WIDTH * 4
    assert full < 0.3 * none and full < selective < 0.7 * none
    assert full >= DEPTH * block_input


class Sided(nn.Module):
    """A block that leaves a side loss and a count, as a router does."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 4)
        self.runs = 0

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.runs += 1
        chosen = self.gate(x).softmax(-1)
        self.side = {"balance": chosen.square().sum((1, 2)), "count/load": torch.ones(())}
        return x + chosen.amax(-1, keepdim=True)


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_a_side_loss_collected_after_the_forward_has_its_gradient(mode: str) -> None:
    """Under reentrant checkpointing it would silently have none."""
    found = []
    for name in ("none", mode):
        torch.manual_seed(0)
        block, x = Sided(), inputs()
        y = recompute.keeping(block, x, context(), name)
        side = block.side
        (y.sum() + side["balance"].sum()).backward()
        found.append((block.gate.weight.grad, float(side["count/load"]), block.runs))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1] == 1.0
    assert [runs for _, _, runs in found] == [1, 2]


def test_is_never_reentrant() -> None:
    source = inspect.getsource(recompute)
    assert source.count("checkpoint(block") == source.count("use_reentrant=False") == 2


def test_offloading_moves_large_activations_of_a_device_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out and back, with the meta device standing for one with a memory of its own."""
    moved: list[Any] = []
    real = torch.autograd.graph.saved_tensors_hooks

    def note(pack: Any, unpack: Any) -> Any:
        moved.extend((pack, unpack))
        return real(pack, unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", note)
    with recompute.on_host():
        pass
    pack, unpack = moved
    large, small = torch.ones(600, 600), torch.ones(2, 2)
    assert pack(large) is large and unpack(pack(large)) is large  # on the host already
    weight = nn.Parameter(torch.empty(600, 600, device="meta"))
    assert pack(weight) is weight and pack(small) is small

    class Far(Tensor):
        """A tensor that says it lies elsewhere."""

        device = property(lambda self: torch.device("meta"))  # type: ignore[assignment]

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, pin_memory=False, **more: empty(*sizes, **more))
    far = (torch.randn(600, 600, requires_grad=True) * 2).as_subclass(Far)
    home, kept = pack(far)
    assert home.type == "meta" and type(kept) is Tensor and kept.device.type == "cpu" and kept.data_ptr() != far.data_ptr()
    assert torch.equal(kept, far.as_subclass(Tensor))
    back = unpack((home, kept))
    assert back.device.type == "meta" and back.shape == far.shape and back.dtype == far.dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a device with a memory of its own")
def test_offloading_on_cuda_gives_the_same_gradients_in_less_device_memory() -> None:
    found, peaks = [], []
    rows = 2048  # so that an activation is large enough to be moved
    assert rows * LENGTH * WIDTH * 4 > recompute.SMALL
    for mode in ("none", "offload"):
        encoder = build(mode).cuda()
        x = torch.randn(rows, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).cuda().requires_grad_()
        surroundings = Context(torch.arange(LENGTH).expand(rows, -1).cuda(), None, True, torch.arange(rows).cuda(), torch.tensor(5).cuda())
        torch.cuda.reset_peak_memory_stats()
        encoder(x, surroundings).square().sum().backward()
        found.append(x.grad)
        peaks.append(torch.cuda.max_memory_allocated())
    assert torch.equal(*found) and peaks[1] < peaks[0]


def test_refusals(tiny_recipe: Any) -> None:
    def encoder(mode: str) -> dict[str, Any]:
        return {"model": {"encoder": {"checkpointing": mode}}}

    with pytest.raises(UserError, match="on a CPU they are there already"):
        ingot.build(tiny_recipe(encoder("offload"), {"device": "cpu"}))
    with pytest.raises(UserError, match="a compiled block has none to show"):
        ingot.build(tiny_recipe(encoder("selective"), {"compile": True}))
    with pytest.raises(UserError, match="checkpointing"):
        ingot.build(tiny_recipe(encoder("some")))


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_a_run_is_the_same_to_the_bit_and_its_ledger_says_what_was_recomputed(tiny_recipe: Any, mode: str) -> None:
    import json

    runs = []
    for name in ("none", mode):
        run = ingot.build(
            tiny_recipe({"model": {"encoder": {"checkpointing": name, "dropout": 0.1}}, "stages": {0: {"budget": "3 steps"}}}, name=name)
        )
        run.train()
        steps = [line for line in map(json.loads, (run.folder / "ledger.jsonl").read_text().splitlines()) if line["kind"] == "step"]
        runs.append(({key: value.clone() for key, value in run.model.state_dict().items()}, steps))
    (wanted, plain), (found, again) = runs
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert [line["step_flops"] for line in plain] == [line["step_flops"] for line in again]
    assert plain[0]["step_recomputed"] == 0 < again[0]["step_recomputed"]
