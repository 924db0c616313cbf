"""One vector of many positions by attention from a learned query.   Lee et al. 2018 (Set Transformer), arXiv:1810.00825; Zhai et al. 2021,
arXiv:2106.04560, section 3.2.

    x = attention(query, positions)        y = x + W_2 gelu(W_1 norm(x))

B rows   T positions   D width   H heads
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.axes import label
from ..core.parts import Spec
from ..core.resolve import spec


class AttentionPool(nn.Module):
    """heads: H. hidden: of the feed-forward."""

    def __init__(self, width: int, linear: Spec, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "width", role="embedding")
        for name in ("query", "key", "value", "output"):
            self.add_module(
                name,
                linear.build(
                    inputs=width,
                    outputs=width,
                    bias=True,
                    axes=("width", "heads") if name == "output" else ("heads", "width"),
                    role="matrix",
                ),
            )
        self.norm = spec("nn.norm", "layer", eps=1e-6).build(width=width)
        self.up = linear.build(inputs=width, outputs=hidden, bias=True, axes=("hidden", "width"), role="matrix")
        self.down = linear.build(inputs=hidden, outputs=width, bias=True, axes=("width", "hidden"), role="matrix")

    def forward(self, h_BTD: Tensor, context: Any) -> Tensor:
        """(B, D); padding is not attended to."""
        B, _T, D = h_BTD.shape
        q = self.query(self.weight.to(h_BTD.dtype).expand(B, 1, D))
        q, k, v = (x.view(B, -1, self.heads, D // self.heads).transpose(1, 2) for x in (q, self.key(h_BTD), self.value(h_BTD)))
        seen = None if context.segments_BT is None else (context.segments_BT > 0)[:, None, None]
        if seen is not None:
            seen = seen | ~seen.any(dim=-1, keepdim=True)  # a row of nothing but padding stays finite
        x_BD = self.output(F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(B, D))
        found: Tensor = x_BD + self.down(F.gelu(self.up(self.norm(x_BD)), approximate="tanh"))
        return found
