"""Dropout as a function of (seed, row, layer path): the same zeros however rows are split into micro-batches or ranks.

Srivastava et al. 2014, JMLR 15: kept values are divided by the share kept. DEPARTS: drawn by hashing, not from a generator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.random import dropout, hash_uniform, salt_of
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


class LayerDrop(nn.Module):
    """x where the row passes by the layer, which it does with probability ``rate`` while training, else y, what the layer made of it.

    Fan et al. 2019, arXiv:1909.11556, section 3.2. DEPARTS: drawn for every row and not for a whole batch, which would depend on how
    rows are split; nothing is computed less. salt: as in ``Dropout``.
    """

    salt: Tensor

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.register_buffer("salt", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x_BTD: Tensor, y_BTD: Tensor, context: Context) -> Tensor:
        if not self.training or self.rate == 0:
            return y_BTD
        if context.rows_B is None or context.key is None:
            raise ValueError("layers are dropped by row: the batch needs 'rows' and 'key' while training")
        passes_B1 = hash_uniform(context.rows_B, 1, context.key, self.salt).to(x_BTD.device) < self.rate
        return torch.where(passes_B1[..., None], x_BTD, y_BTD)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def name_layers(model: nn.Module) -> None:
    """Give every layer with its own randomness the salt of its path."""
    for path, module in model.named_modules():
        salt = getattr(module, "salt", None)
        if isinstance(salt, Tensor):
            salt.fill_(salt_of(path))
