"""Fully sharded data parallelism: each rank keeps a slice of every parameter, gradient and optimizer state.

Zhao et al. 2023, arXiv:2304.11277, in torch's second form (fully_shard): parameters are DTensors sharded on their first
axis, gathered block by block for forward and backward; gradients are reduce-scattered as sums (divide factor 1), because the
loop has divided once by the units of the whole step.

State: none.   Cost: parameters are gathered twice a micro-batch (once if reshard is off), gradients reduced once a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ...core.errors import UserError
from ...core.parts import part
from ._processes import Processes


@part
class FSDP(Processes):
    """reshard: free a block's gathered weights after its forward and gather them again for its backward (less memory, more traffic)."""

    holds_on = "under fsdp"  # to the gradients of a window that was broken off, where nothing can take them away

    def __init__(self, *, reshard: bool = True) -> None:
        super().__init__()
        if not self.grouped:
            raise UserError("the layout 'fsdp' needs a process group: start with torchrun, or call parallel.start first")
        self.reshard, self.accumulating = reshard, False

    def shard(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Shard in place: each child of every module list named ``blocks``, then the rest under the root.

        dtype: what the forward computes in. When narrower than the parameters, weights are gathered in it and gradients are
        reduced in float32. The root's weights are only whole inside ``model(batch)``.
        """
        width = max((parameter.element_size() for parameter in model.parameters()), default=4)
        narrow = dtype.itemsize < width
        policy = (
            MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
            if narrow
            else MixedPrecisionPolicy(cast_forward_inputs=False)
        )
        for block in _blocks(model):
            fully_shard(block, reshard_after_forward=self.reshard, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # Neither call recurses, and factor 1 without forced sums asks gloo for an operation it does not have.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        if hasattr(model, "set_reduce_scatter_unused_params"):
            # Else a parameter that only some ranks use breaks the collective. DEPARTS from the other layouts: one that no rank
            # uses gets a gradient of zeros instead of none.
            model.set_reduce_scatter_unused_params(True)
        self.model = model
        return model

    def materialize(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Memory for the slices of a model that was sharded without weights; their values are left to whoever fills them."""
        model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))
        return model

    @contextmanager
    def syncing(self, last: bool) -> Iterator[None]:
        """Gradients cross ranks in the last backward of the window only."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(last)
        self.model.set_is_last_backward(last)
        if last and self.accumulating:
            _widen_gradients(self.model)
        self.accumulating = not last
        yield


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Children of module lists named blocks, deepest first, since inner modules must be sharded before outer ones."""
    lists = [module for path, module in model.named_modules() if path.rpartition(".")[2] == "blocks" and isinstance(module, nn.ModuleList)]
    return [block for blocks in reversed(lists) for block in blocks]


def _widen_gradients(model: nn.Module) -> None:
    """Start a sum of zeros in the reduction's dtype for parameters that the window's earlier micro-batches did not use.

    Torch keeps sums over micro-batches in the reduction's dtype, but leaves such a parameter's gradient in the gathered one, and
    then refuses to reduce the two together. There is no public way to say otherwise.
    """
    for module in model.modules():
        for group in module._get_fsdp_state()._fsdp_param_groups if isinstance(module, FSDPModule) else ():
            for item in group.fsdp_params:
                if (
                    getattr(item, "reduce_dtype", None) is not None
                    and item.unsharded_accumulated_grad is None
                    and item.sharded_param.requires_grad
                ):
                    item.unsharded_accumulated_grad = torch.zeros(
                        item._orig_size, dtype=item.reduce_dtype, device=item.sharded_param.device
                    )
