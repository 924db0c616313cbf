"""Bytes alive at every moment of a run that is only pretended: the peak, and what it is made of.

Under torch's FakeTensorMode operations work out shapes and storages but compute nothing. This mode watches the storages come and go,
so whatever a method allocates (saved activations, temporaries, optimizer state) is seen without a formula for it. Not seen:
scratch space inside kernels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

BLOCK = 64


class LiveBytes(TorchDispatchMode):
    """``live``: bytes of the storages that exist now; ``peak``: the most so far; ``at_peak``: what `describe()` said near the peak.

    describe: called when the peak rises by more than 0.5 %, so its figures belong to a moment that close to the peak.
    """

    def __init__(self, describe: Callable[[], dict[str, int]] = dict):
        super().__init__()
        self.live = self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._described = 0
        self._describe = describe
        self._known: dict[Any, Any] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that existed before."""
        for tensor in tensors:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def gone(_: Any) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        if self.live > self.peak:
            self.peak = self.live
            if self.peak > 1.005 * self._described:
                self._described, self.at_peak = self.peak, self._describe()


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind ordinary tensors, fake ones included."""
    return sum({storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}.values())


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested containers."""
    return [item for item in tree_iter(value) if isinstance(item, torch.Tensor)]
