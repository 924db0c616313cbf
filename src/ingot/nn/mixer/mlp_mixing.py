r"""A perceptron over the positions of a document, with a gate.   TSMixer: Ekambaram et al. 2023, arXiv:2306.09364, section 4.2; TTM,
arXiv:2401.03955; Tolstikhin et al. 2021 (MLP-Mixer), arXiv:2105.01601.

    u = W_2 gelu(W_1 x + b_1) + b_2        over positions, each feature by itself        W_1: (F, S)  W_2: (S, F)
    y = u * softmax_positions(W_g u + b_g)        where it is gated        W_g: (S, S)

S: the most positions a document has; a shorter one is as if followed by zeros. Every position sees all of its document, so no model
that must not look ahead can use it. Documents of equal length (``Context.even``), such as the channels of a series, cost what rows
would; others are laid out once for every position, which costs T times as much.

Cost: 4 S F D operations per document, 2 S S D more with the gate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...core.parts import Positive, Spec, part
from ..context import Context


@part
class MLPMixing(nn.Module):
    """hidden: F, twice the positions when not given. gated: whether there is the gate."""

    looks_ahead = True

    def __init__(self, width: int, linear: Spec, sequence: int, *, hidden: Positive[int] | None = None, gated: bool = True):
        super().__init__()
        self.size = sequence
        hidden = hidden or 2 * sequence
        self.up = linear.build(inputs=sequence, outputs=hidden, bias=True, axes=("mixing", "patches"), role="matrix")
        self.down = linear.build(inputs=hidden, outputs=sequence, bias=True, axes=("patches", "mixing"), role="matrix")
        self.gate = (
            linear.build(inputs=sequence, outputs=sequence, bias=True, axes=("patches", "patches"), role="matrix") if gated else None
        )

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        if context.causal:
            raise UserError("mlp_mixing sees every position of a document; a causal objective wants a mixer that does not look ahead")
        B, T, D = x_BTD.shape
        if context.even or context.segments_BT is None:
            z_RND = x_BTD.reshape(-1, T // (context.even or 1), D)
            return self.mixed(z_RND.mT, None).mT.reshape(B, T, D)
        assert context.positions_BT is not None
        if self.size < T:  # else no document can be longer than the weights
            if "longest" not in context.shared:
                context.shared["longest"] = (context.positions_BT.max().cpu(),)
            self.room_for(int(context.shared["longest"][0]) + 1)
        same_BTU = context.segments_BT[:, :, None] == context.segments_BT[:, None, :]
        place_BUS = F.one_hot(context.positions_BT, self.size).to(x_BTD.dtype)
        laid_BTSU = same_BTU[:, :, None].to(x_BTD.dtype) * place_BUS.mT[:, None]
        y_BTDS = self.mixed(torch.einsum("btsu,bud->btds", laid_BTSU, x_BTD), laid_BTSU.sum(dim=3)[:, :, None] > 0)
        return torch.einsum("btds,bts->btd", y_BTDS, place_BUS)

    def mixed(self, z: Tensor, there: Tensor | None) -> Tensor:
        """(..., N) -> the same, over the last axis; there: which of S places the document has, where not the first N."""
        N = z.shape[-1]
        self.room_for(N)
        u = self.down(F.gelu(self.up(F.pad(z, (0, self.size - N)))))
        if self.gate is not None:
            if there is None:
                there = torch.arange(self.size, device=z.device) < N
            u = u * there
            u = u * self.gate(u).masked_fill(~there, -torch.inf).softmax(dim=-1)
        return u[..., :N]

    def room_for(self, positions: int) -> None:
        """Raises UserError for a document of more positions than there are weights."""
        if self.size < positions:
            raise UserError(f"mlp_mixing has weights for {self.size} positions, a document has {positions}")

    def extra_repr(self) -> str:
        return f"positions={self.size}"
