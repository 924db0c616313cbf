"""Dropout as a function of (seed, row, layer path): the same zeros however rows are split into micro-batches or ranks.

Srivastava et al. 2014, JMLR 15: kept values are divided by the share kept. DEPARTS: drawn by hashing, not from a generator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.random import dropout, salt_of
from .context import Context


class Dropout(nn.Module):
    """Zeros a share ``rate`` of each row's values while training; the identity otherwise.

    salt: tells layers apart; a Model sets it from each layer's path. It is a tensor so that compiled blocks stay alike.
    """

    salt: Tensor

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.register_buffer("salt", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        if not self.training or self.rate == 0:
            return x_BTD
        if context.rows_B is None or context.key is None:
            raise ValueError("dropout draws by row: the batch needs 'rows' and 'key' while training")
        return dropout(x_BTD, self.rate, context.rows_B, context.key, self.salt)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def name_layers(model: nn.Module) -> None:
    """Give every layer with its own randomness the salt of its path."""
    for path, module in model.named_modules():
        salt = getattr(module, "salt", None)
        if isinstance(salt, Tensor):
            salt.fill_(salt_of(path))
