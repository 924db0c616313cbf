r"""Every position chooses the experts with its k highest scores.   GShard, Lepikhin et al. 2020, arXiv:2006.16668 (k = 2); Switch, Fedus
et al. 2021, arXiv:2101.03961 (k = 1); Shazeer et al. 2017, arXiv:1701.06538.

    p = softmax(W x)        y = sum over the top k experts i of  g_i E_i(x)
    g_i = p_i               as Switch            g_i = p_i / sum of the k chosen p    as GShard and Mixtral (``normalize``)

Normalizing equals a softmax over the k chosen logits alone (softmax after top-k). Jitter: while training, the router's input is
multiplied by uniform numbers from [1 - jitter, 1 + jitter] (Switch, appendix C), drawn by row.

Side losses: balance, router_z.   DEPARTS: GShard drops its second expert at random, and lets all first choices go before second ones,
which shows later positions to earlier ones; here choices go by position, and all k are taken. Balance is by row, not by batch.

Shapes: x_BTD, W: (E, D).   State: none.   Cost: 2 D E operations per position.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...core.parts import Fraction, Positive, part
from ...ops.random import hash_uniform
from ..context import Context
from ._router import Scored, TokenChoice, balance, constant_weight, real, router_z
from ._routes import Routes


@part
class TopK(Scored, TokenChoice):
    """top_k: experts of a position. normalize: weights of a position sum to 1; when not given, where top_k is above 1."""

    side_losses = ("balance", "router_z")
    salt: Tensor

    def __init__(
        self,
        width: int,
        experts: int,
        capacity: float | None = None,
        *,
        top_k: Positive[int] = 2,
        normalize: bool | None = None,
        jitter: Fraction = 0.0,
    ):
        super().__init__(width, experts)
        self.capacity, self.top_k, self.jitter, self.share = capacity, top_k, jitter, top_k
        self.normalize = top_k > 1 if normalize is None else normalize
        self.weight_sum = (1.0, 1.0) if self.normalize else (0.0, 1.0)
        self.register_buffer("salt", torch.zeros((), dtype=torch.int64), persistent=False)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from constant_weight(knobs)

    def forward(self, x_BTD: Tensor, context: Context) -> Routes:
        logits_BTE = self.logits(self._jittered(x_BTD, context))
        p_BTE = logits_BTE.softmax(dim=-1)
        weights_BTK, experts_BTK = p_BTE.topk(self.top_k, dim=-1)
        if self.normalize:
            weights_BTK = weights_BTK / weights_BTK.sum(dim=-1, keepdim=True)
        losses = {}
        if self.training:
            real_BT = real(context, x_BTD)
            losses = {"balance": balance(p_BTE, experts_BTK, real_BT), "router_z": router_z(logits_BTE, real_BT)}
        return self.routes(experts_BTK, weights_BTK, context, losses)

    def _jittered(self, x_BTD: Tensor, context: Context) -> Tensor:
        if not self.training or not self.jitter:
            return x_BTD
        if context.rows_B is None or context.key is None:
            raise ValueError("jitter draws by row: the batch needs 'rows' and 'key' while training")
        u_BTD = hash_uniform(context.rows_B, x_BTD.shape[1:].numel(), context.key, self.salt).view(x_BTD.shape)
        return x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32)) * (1 - self.jitter + 2 * self.jitter * u_BTD)
