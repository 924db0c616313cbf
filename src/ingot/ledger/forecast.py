"""What a step will take, before anything of its size exists: memory by kind, FLOPs by component, seconds.

The step is pretended (torch's FakeTensorMode): the real model, objective and optimizer run on tensors without contents while
the live storages are summed (live.py) and the FLOPs counted (flops.py). A method that is added later is forecast without an edit.

    forecast(model on meta, batch, optimizer builder, micro_batches=4) -> Forecast(peak, by_kind, flops, ...)
    changes(...)           the cheapest changes that make it fit, each with what it saves
    step_seconds(...)      FLOPs over what the machine does of them

Kinds: weights, gradients, optimizer_state, activations (all else alive at the peak: saved for backward, temporaries, logits in
chunks), batch, workspace (kernels' scratch, allocator slack, code of compiled blocks). The process's own baseline (Python, torch,
the tokenizer) is not part of the figure.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from .flops import OTHER, FlopCount
from .live import LiveBytes, storage_bytes, tensors_in

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
# (optimizer, phase) -> what surrounds the last backward of a window, such as train.fused_backward's updating
Surround = Callable[[torch.optim.Optimizer, Callable[[str], Any]], Callable[[], AbstractContextManager[None]]]
# What a process takes beyond live tensors. Fixed: code and tables that the first step loads, scratch inside kernels. Share: of the
# activations, lost to the allocator's fragmentation. The CPU figures are a fit to glibc's (residuals 3 % at 1 to 3 GB); those of
# CUDA are an allowance, not measured.
FIXED = {"cpu": 185_000_000, "cuda": 300_000_000}
SHARE = {"cpu": 0.2, "cuda": 0.1}
COMPILED = 350_000_000
# Shares of the measured matmul rate that whole training steps reach, by device and type: what to go by before a probe.
UTILIZATION = {("cpu", torch.float32): 0.55, ("cpu", torch.bfloat16): 0.4, ("cuda", torch.bfloat16): 0.45, ("cuda", torch.float32): 0.55}


@dataclass(frozen=True)
class Forecast:
    """One optimizer step on one rank. peak: bytes, the sum of by_kind. flops: of the whole step, recomputation apart.

    active_parameters: those that compute a position, on average; fewer than all where a router chooses. gradients: their bytes when
    there are most of them, which is often not at the peak: activations are at their most before the first gradient is there.
    """

    peak: int
    by_kind: Mapping[str, int]
    flops: float
    flops_by_component: Mapping[str, float]
    recomputed: float
    micro_rows: int
    parameters: int
    largest_block: int = 0
    active_parameters: int = 0
    gradients: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(self).items()}


@dataclass
class _Pretended:
    """What a pretended step holds, for the description of its peak."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    batch: list[Tensor] = field(default_factory=list)

    def kinds(self) -> dict[str, int]:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        state = tensors_in(dict(self.optimizer.state)) if self.optimizer is not None else []
        return {
            "weights": storage_bytes([*self.model.parameters(), *self.model.buffers()]),
            "gradients": storage_bytes(gradients),
            "optimizer_state": storage_bytes(state),
            "batch": storage_bytes(self.batch),
        }


def forecast(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    make_optimizer: MakeOptimizer,
    *,
    micro_batches: int = 1,
    device: str = "cpu",
    compiled: bool = False,
    last_backward: Surround | None = None,
    copies: int = 0,
    selecting: Iterable[Any] = (),
) -> Forecast:
    """Pretend two optimizer steps of `micro_batches` micro-batches each; nothing is allocated and `model` is left as it is.

    model: on the meta device or real; called as ``model(batch)``, giving losses by name. batch: one prepared micro-batch, of any
    device. make_optimizer: builds the optimizer of a model. last_backward: what surrounds the last backward. The second step is the
    dearer one: the optimizer's state exists. copies: tensors as large as the weights that hooks keep. selecting: hooks that choose what
    is trained on among `reads` times as many rows; what they compute is filed under ``hooks``.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    twin = pretended_model(model, mode, device)
    with mode:
        # Scalars (the seed of row-wise randomness) are read by value and stay what they are.
        inputs = {
            name: torch.empty(value.shape, dtype=value.dtype, device=device) if value.dim() else value for name, value in batch.items()
        }
        held = _Pretended(twin, batch=list(inputs.values()))
        with torch.compiler.set_stance("force_eager"), LiveBytes(held.kinds) as live:
            live.hold([*twin.parameters(), *twin.buffers(), *held.batch])
            held.optimizer = make_optimizer(twin)
            getattr(held.optimizer, "stand_at_dearest", lambda: None)()  # of steps that do not cost the same
            # The first step is there for the state that it leaves: where nothing happens inside its backward, it needs none.
            held.optimizer.step(_closure(held, inputs if last_backward else None, False, ["optimizer"], last_backward))
            held.optimizer.zero_grad(set_to_none=True)
            phases = ["optimizer"]
            with FlopCount(twin, lambda: phases[-1], frozenset({"optimizer"})) as count:
                held.optimizer.step(_closure(held, inputs, micro_batches > 1, phases, last_backward))
        kinds = live.at_peak
        scored = _scored(list(selecting), twin, inputs, micro_batches)
    kind = torch.device(device).type
    activations = max(0, live.peak - sum(kinds.values()))
    kept_by_hooks = copies * sum(parameter.nbytes for parameter in model.parameters())
    slack = FIXED.get(kind, 0) + int(SHARE.get(kind, 0.1) * activations) + (COMPILED if compiled else 0)
    kinds |= {"activations": activations, "workspace": slack} | ({"hooks": kept_by_hooks} if copies else {})
    components = {name: flops * (1.0 if name == "optimizer" else float(micro_batches)) for name, flops in count.by_component.items()}
    components |= {"hooks": components.get("hooks", 0.0) + scored} if scored else {}
    return Forecast(
        peak=live.peak + slack + kept_by_hooks,
        by_kind=kinds,
        flops=sum(components.values()),
        flops_by_component=components,
        recomputed=count.recomputed * float(micro_batches),
        micro_rows=next(iter(batch.values())).shape[0] if batch else 0,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        largest_block=max(_block_bytes(model), default=0),
        active_parameters=active_parameters(model),
        gradients=_most_gradients(model, last_backward is not None and micro_batches == 1),
    )


def _scored(hooks: list[Any], model: nn.Module, micro: dict[str, Tensor], micro_batches: int) -> float:
    """FLOPs with which these hooks score what they read, in pieces of the micro-batch's size; the first reads what all of them need.

    A hook goes as far as it can be pretended: until it looks at the scores, which have no values. All that is dear comes before that.
    """
    total, reads = 0.0, math.prod(hook.reads for hook in hooks)
    for hook in hooks:
        with FlopCount(model) as count, torch.compiler.set_stance("force_eager"), suppress(DataDependentOutputException):
            hook.select(SimpleNamespace(model=model), [micro])
        total += count.total * math.ceil(reads * micro_batches - 1e-9)
        reads /= hook.reads
    return total


def pretended_model(model: nn.Module, mode: FakeTensorMode, device: str) -> nn.Module:
    """A copy whose parameters and buffers have shapes but no contents; a shared parameter stays shared."""
    replaced: dict[int, Any] = {}
    with mode:
        for tensor in [*model.parameters(), *model.buffers()]:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            replaced[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, replaced).train(model.training)


def _closure(
    held: _Pretended, batch: dict[str, Tensor] | None, later: bool, phases: list[str], surround: Surround | None
) -> Callable[[], Tensor]:
    """What the optimizer's step calls: the gradient of the window's last micro-batch. later: earlier ones have left theirs; batch None:
    there is nothing but gradients. phases: the innermost phase comes last."""

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        phases.append(name)
        yield
        phases.pop()

    def closure() -> Tensor:
        assert held.optimizer is not None
        held.optimizer.zero_grad(set_to_none=True)
        if later or batch is None:
            for parameter in held.model.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        if batch is not None:
            last = surround(held.optimizer, phase) if surround else nullcontext
            with torch.enable_grad(), phase(OTHER):
                total = torch.stack([loss.sum() for loss in held.model(batch).values()]).sum()
                with last():
                    total.backward()  # type: ignore[no-untyped-call]
        return torch.zeros(())

    return closure


def _most_gradients(model: nn.Module, one_by_one: bool) -> int:
    """Bytes of gradients when there are most of them."""
    sizes = [parameter.nbytes for parameter in model.parameters() if parameter.requires_grad]
    return max(sizes, default=0) if one_by_one else sum(sizes)


def active_parameters(model: nn.Module) -> int:
    """Parameters that compute a position, on average: a module whose own are used in part says so by ``active_share``."""
    seen: dict[int, float] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            seen.setdefault(id(parameter), parameter.numel() * float(getattr(module, "active_share", 1.0)))
    return round(sum(seen.values()))


def _block_bytes(model: nn.Module) -> Iterable[int]:
    """Bytes of the parts that a sharded layout gathers one at a time."""
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            yield from (storage_bytes(block.parameters()) for block in stack)


def step_seconds(
    flops: float, rate: float, *, device: str = "cpu", dtype: torch.dtype = torch.float32, utilization: float | None = None, ranks: int = 1
) -> float:
    """Seconds that `flops` (over all ranks) take on ranks that each multiply matrices at `rate` FLOP/s.

    utilization: what a probe or an earlier run on this machine measured; without it, a rough table.
    """
    share = utilization or UTILIZATION.get((torch.device(device).type, dtype), 0.4)
    return flops / (rate * share * ranks)


@dataclass(frozen=True)
class Change:
    """A way to take less memory. setting: what to write in the recipe or on the command line. cost: what it costs, in words."""

    setting: str
    saves: int
    peak: int
    fits: bool
    cost: str


def changes(
    now: Forecast, available: int, alternatives: Mapping[str, tuple[Callable[[], Forecast], str]], ranks: Iterable[int] = (2, 4, 8)
) -> list[Change]:
    """Changes that take less, those that fit first, and among them in the order given: the cheapest to the user first.

    alternatives: setting -> (its forecast, its cost in words); each is a full forecast of the run with that one change (a smaller
    micro-batch, bf16, activation checkpointing, another optimizer). Sharding over ranks is worked out from `now`.
    """
    found = []
    for setting, (predict, cost) in alternatives.items():
        peak = predict().peak
        found.append(Change(setting, now.peak - peak, peak, peak <= available, cost))
    for count in ranks:
        peak = sharded(now, count).peak
        found.append(Change(f"layout=fsdp on {count} ranks", now.peak - peak, peak, peak <= available, "communication"))
    return sorted((change for change in found if change.saves > 0), key=lambda change: not change.fits)


def sharded(now: Forecast, ranks: int) -> Forecast:
    """The forecast of one rank when weights, gradients and optimizer state are split over `ranks`.

    Two blocks are whole at a time: the one that runs and the one that is being gathered; the gradient of one waits to be reduced.
    """
    kinds = dict(now.by_kind)
    for kind in ("weights", "gradients", "optimizer_state", *(("hooks",) if "hooks" in kinds else ())):
        kinds[kind] = -(-kinds.get(kind, 0) // ranks)
    kinds["activations"] += 3 * now.largest_block if ranks > 1 else 0
    return replace(now, peak=sum(kinds.values()), by_kind=kinds, gradients=-(-now.gradients // ranks))
