"""One process holds the whole model and all rows.

rank 0 of 1; no communication. State: none. Cost: nothing.
"""

from __future__ import annotations

import torch
from torch import nn

from ...core.errors import UserError
from ...core.parts import part
from ._processes import Processes


@part
class Single(Processes):
    """No process group is used. Raises UserError when there is one of several processes, which would each train alone."""

    def __init__(self) -> None:
        super().__init__()
        if self.ranks > 1:
            raise UserError(f"the layout 'single' is one process, but {self.ranks} were started; choose 'replicate' or 'fsdp'")

    def shard(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """The model unchanged."""
        self.model = model
        return model
