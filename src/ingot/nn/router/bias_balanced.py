r"""Load balance without an auxiliary loss: a bias on each expert's score that only the choice sees.   Wang et al. 2024, arXiv:2408.15664,
Algorithm 1; DeepSeek-V3, arXiv:2412.19437, equations 12-16.

    s = sigmoid(W x)        chosen: the top k of  s_i + b_i        g_i = scale s_i / sum of the k chosen s
    after every step:       b_i += rate * sign(mean load - load_i)        loads: over the whole step and all ranks

The biases have no gradient; they are moved from counts of what was really chosen, once per applied step, so that neither
accumulation, ranks nor recomputed activations change them. V3 adds a small sequence-wise balance loss: ``side: {balance: 0.0001}``.

Side losses: balance, router_z.   Shapes: x_BTD, W: (E, D), b: (E,).   State: the biases, E numbers in each layer's checkpoint.
Cost: 2 D E operations per position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.parts import NonNegative, Positive, part
from ..context import Context
from ._router import Scored, TokenChoice, balance, constant_weight, real, router_z
from ._routes import Routes


@part
class BiasBalanced(Scored, TokenChoice):
    """rate: of the biases. score: what a logit becomes. normalize: weights of a position sum to scale; when not given, where top_k is
    above 1."""

    side_losses = ("balance", "router_z")
    bias: Tensor

    def __init__(
        self,
        width: int,
        experts: int,
        capacity: float | None = None,
        *,
        top_k: Positive[int] = 2,
        rate: NonNegative[float] = 0.001,
        score: Literal["sigmoid", "softmax"] = "sigmoid",
        normalize: bool | None = None,
        scale: Positive[float] = 1.0,
    ):
        super().__init__(width, experts)
        self.capacity, self.top_k, self.share = capacity, top_k, top_k
        self.rate, self.score, self.scale = rate, score, scale
        self.normalize = top_k > 1 if normalize is None else normalize
        self.weight_sum = (scale, scale) if self.normalize else (0.0, scale * (1 if score == "softmax" else top_k))
        self.register_buffer("bias", torch.zeros(experts))

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from constant_weight(knobs)

    def forward(self, x_BTD: Tensor, context: Context) -> Routes:
        logits_BTE = self.logits(x_BTD)
        s_BTE = logits_BTE.sigmoid() if self.score == "sigmoid" else logits_BTE.softmax(dim=-1)
        experts_BTK = (s_BTE.detach() + self.bias).topk(self.top_k, dim=-1).indices
        weights_BTK = s_BTE.gather(2, experts_BTK)
        if self.normalize:
            weights_BTK = weights_BTK / weights_BTK.sum(dim=-1, keepdim=True).clamp(min=1e-20)
        losses = {}
        if self.training:
            real_BT = real(context, x_BTD)
            share_BTE = s_BTE / s_BTE.sum(dim=-1, keepdim=True)
            losses = {"balance": balance(share_BTE, experts_BTK, real_BT), "router_z": router_z(logits_BTE, real_BT)}
        return self.routes(experts_BTK, weights_BTK * self.scale, context, losses)

    @torch.no_grad()
    def counted(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Move the biases toward an even load; also the largest bias."""
        load_E = totals["load"].double()
        self.bias += self.rate * torch.sign(load_E.mean() - load_E).to(self.bias.dtype)
        return super().counted(totals) | {"largest_bias": float(self.bias.abs().max())}
