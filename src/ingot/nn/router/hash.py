r"""A fixed expert for every token id: nothing to learn, nothing to balance.   Roller et al. 2021, arXiv:2106.04426, section 3.

    y = E_i(x)        i = hash(token id, seed) mod E,  the paper's random hash

All layers hash alike. An expert's load follows how often its tokens occur.

Side losses: none.   DEPARTS: ids are hashed where the paper draws a table, so that any vocabulary goes; its balanced table, built from
token counts, is not offered.   Shapes: ids_BT.   State: none.   Cost: no matmul operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...core.parts import NonNegative, part
from ...ops.random import hash_bits, salt_of
from ..context import Context
from ._router import TokenChoice
from ._routes import Routes


@part
class Hash(TokenChoice):
    """seed: of the hash."""

    weight_sum = (1.0, 1.0)
    share = 1.0

    def __init__(self, experts: int, capacity: float | None = None, *, seed: NonNegative[int] = 0):
        super().__init__(experts)
        self.capacity, self.seed = capacity, seed

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        run = context.get("run")
        texts = run is None or any(spec.slot == "data.source" and hasattr(spec.target, "shards") for _, spec in run.data.train.walk())
        if not texts:
            yield "hash routes by token id, which these rows do not have; use a learned router"

    def forward(self, x_BTD: Tensor, context: Context) -> Routes:
        ids_BT = context.ids_BT
        if ids_BT is None or ids_BT.shape != x_BTD.shape[:2]:
            raise ValueError("hash routes by token id: the context holds no id for every position")
        key = torch.full((), self.seed, dtype=torch.int64, device=ids_BT.device)
        bits_N1 = hash_bits(ids_BT.reshape(-1), 1, key, salt_of("nn.router.hash"))
        experts_BT1 = ((bits_N1 & 0x7FFFFFFF) % self.experts).long().view(*ids_BT.shape, 1)
        weights_BT1 = torch.ones(experts_BT1.shape, dtype=x_BTD.dtype, device=x_BTD.device)
        return self.routes(experts_BT1, weights_BT1, context)
