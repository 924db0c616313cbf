"""Counts the FLOPs of everything that runs inside a block, by component, with recomputation apart.

Convention: a multiply-add is 2; only matrix products, convolutions, attention and decompositions count; the figure of an operation comes
from torch's registry of formulas (``torch.utils.flop_counter``), where ops/ registers the CPU attention and the custom kernels.

A forward operation belongs to the innermost component (child of the model) that is running; a backward operation belongs to the
component whose forward created its autograd node, found by the node's sequence number. No tensor hooks are involved, so tied
weights, dictionaries as inputs, compiled children and activation checkpointing do not disturb the attribution. An operation that
runs inside an ordinary backward while gradients are enabled, or below torch's checkpoint, is recomputation and is reported apart.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

OTHER = "other"


class FlopCount(TorchDispatchMode):
    """``with FlopCount(model) as count: ...`` then ``count.by_component`` and ``count.recomputed``.

    model:  its named children are the components; None counts everything under `fallback`.
    phase:  called at every counted operation outside a component: the name it is filed under (default ``other``).
    whole:  phases (names that `phase` returns) whose operations are filed under the phase even inside a component: a selection
            pass through the model is a cost of the hook, not of the encoder.

    On several ranks the figure is this rank's own (a DTensor operation is counted as what the rank does locally).
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module | None = None, phase: Callable[[], str] | None = None, whole: frozenset[str] = frozenset()):
        super().__init__()
        self.by_component: Counter[str] = Counter()
        self.recomputed = 0
        self._model, self._phase, self._whole = model, phase or (lambda: OTHER), whole
        self._running: list[str] = []
        self._starts: list[int] = []
        self._owners: list[str | None] = []
        self._plain_backwards: set[int] = set()
        self._handles: list[Any] = []
        self._pretending = False

    @property
    def total(self) -> int:
        """All that was counted, recomputation excluded."""
        return sum(self.by_component.values())

    def __enter__(self) -> FlopCount:
        self._mark()
        self._pretending = detect_fake_mode() is not None
        for name, child in _components(self._model) if self._model is not None else ():
            self._handles.append(child.register_forward_pre_hook(lambda *_, name=name: self._enter_component(name)))
            self._handles.append(child.register_forward_hook(lambda *_: self._leave_component(), always_call=True))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _enter_component(self, name: str) -> None:
        self._running.append(name)
        self._mark()

    def _leave_component(self) -> None:
        # Activation checkpointing leaves a module early by an exception; the hook runs all the same, but may run twice.
        if self._running:
            self._running.pop()
        self._mark()

    def _mark(self) -> None:
        """From this autograd sequence number on, nodes belong to the component that is running."""
        if torch._C._current_graph_task_id() == -1:
            self._starts.append(_next_sequence_number())
            self._owners.append(self._running[-1] if self._running else None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # let the DTensor turn into its local operations first; those come back here
        if not self._pretending and any(issubclass(kind, FakeTensor) for kind in types):
            return func(*args, **kwargs)  # a DTensor working out global shapes: nothing is computed
        if isinstance(func, torch._ops.HigherOrderOperator):
            return NotImplemented if func not in flop_registry else self._count(func, func, args, kwargs)
        task = torch._C._current_graph_task_id()
        if task != -1 and not torch.is_grad_enabled():
            self._plain_backwards.add(task)
        packet = func._overloadpacket
        if packet in flop_registry:
            return self._count(func, packet, args, kwargs)
        if torch.is_inference_mode_enabled() and not self._pretending and func._can_decompose():
            # Without autograd, composite operations (attention among them) arrive whole.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)

    def _count(self, func: Any, formula: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        flops = flop_registry[formula](*args, **kwargs, out_val=result)
        task = torch._C._current_graph_task_id()
        if task in self._plain_backwards and (torch.is_grad_enabled() or _inside_checkpoint()):
            self.recomputed += flops
        else:
            self.by_component[self._component(task)] += flops
        return result

    def _component(self, task: int) -> str:
        phase = self._phase()
        if phase in self._whole:
            return phase
        if task == -1 or self._running:
            return self._running[-1] if self._running else phase
        node = torch._C._current_autograd_node()
        index = bisect_right(self._starts, node._sequence_nr()) - 1 if node is not None else -1
        return (self._owners[index] if index >= 0 else None) or phase


def _components(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The model's children; of a dictionary of modules, which is never called itself, those of each entry under the entry's name."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict):
            yield from ((f"{name}.{entry}", module) for entry, held in child.items() for module in held.children())
        else:
            yield name, child


def _inside_checkpoint() -> bool:
    """Whether torch's activation checkpointing is running a forward again.

    Custom operators run their forward with gradients disabled, so the gradient mode alone does not tell.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "unpack_hook" and frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def _next_sequence_number() -> int:
    return torch.autograd._get_sequence_nr()


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled blocks eagerly: kernels that a compiler writes are not matrix products to a counter."""
    with torch.compiler.set_stance("force_eager"):
        yield
