r"""What is kept of a block for its backward pass, and what is computed again.   Chen et al. 2016, arXiv:1604.06174.

    none        every activation is kept
    selective   products of matrices are kept; attention, norms and activations are computed again   (Korthikanti et al. 2022,
                arXiv:2205.05198, section 5: they take most of the bytes and few of the operations)
    full        only the block's input is kept; its forward runs again, which is a third more arithmetic in all
    offload     every activation is kept, in the host's memory; for devices that have a memory of their own

Always non-reentrant: under the reentrant kind a side loss that is collected after the forward has no gradient, silently. Blocks are
compiled inside, this stands outside of them; ``selective`` looks at single operations and so needs blocks that are not compiled.
Dropout and routing are functions of the row, so nothing of a random generator needs to be put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import flop_registry

from ..nn.context import Context

Mode = Literal["none", "selective", "full", "offload", "auto"]
MODES = ("none", "selective", "full", "offload")  # auto: the planner chooses one of them
SMALL = 1 << 20  # bytes below which a trip to the host is not worth it


def keeping(block: nn.Module, x: Tensor, context: Context, mode: str) -> Tensor:
    """block(x, context), with its activations treated as the mode says. ``auto`` that nobody has settled is ``none``."""
    if mode == "full":
        return checkpoint(block, x, context, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
    if mode == "selective":
        contexts = partial(create_selective_checkpoint_contexts, _policy)
        return checkpoint(block, x, context, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)  # type: ignore[no-any-return]
    if mode == "offload":
        with on_host():
            return block(x, context)  # type: ignore[no-any-return]
    return block(x, context)  # type: ignore[no-any-return]


def _policy(context: Any, operation: Any, *inputs: Any, **options: Any) -> CheckpointPolicy:
    """Keep what the meter counts as a product; attention is counted too, but keeps more than it is worth."""
    packet = getattr(operation, "_overloadpacket", operation)
    product = packet in flop_registry and "attention" not in str(packet)
    return CheckpointPolicy.MUST_SAVE if product else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def on_host() -> Iterator[None]:
    """Tensors saved for backward lie in the host's pinned memory until they are needed; weights and small ones stay."""

    def pack(tensor: Tensor) -> Any:
        if tensor.device.type == "cpu" or tensor.is_leaf or tensor.nbytes < SMALL:
            return tensor
        kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
        kept.copy_(tensor, non_blocking=False)
        return tensor.device, kept

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        device, kept = packed
        return kept.to(device, non_blocking=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def refusals(mode: str, context: dict[str, Any]) -> Iterator[str]:
    """Why a run cannot treat its activations so."""
    run = context.get("run")
    if run is None:
        return
    if mode == "offload" and (run.device == "cpu" or (run.device == "auto" and not torch.cuda.is_available())):
        yield "offload moves activations to the host's memory, and on a CPU they are there already; use selective or full"
    if mode == "selective" and run.compile is True:
        yield "selective looks at single operations, and a compiled block has none to show; use full, or compile: false"
