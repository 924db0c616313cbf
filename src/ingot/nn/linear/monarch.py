r"""Monarch projection: two block-diagonal matrices with a transposition between.   Dao et al. 2022, arXiv:2204.00595, section 3.

    y = P2 R P1 L x + b        L, R: block-diagonal, ``blocks`` blocks each

    L = diag(L_1 .. L_k): (k, q, p) is ``first``, p = ceil(inputs / k)       q = min(p, ceil(outputs / k))
    R = diag(R_1 .. R_k): (k, s, q) is ``second``, s = ceil(outputs / k)
    P1 deals L's k q outputs out in turn: number i goes to block i mod k at place i div k;   P2 interleaves the blocks' outputs likewise

W as a dense matrix consists of k^2 interleaved blocks of rank about q / k each. Sizes that k does not divide are padded with zeros
and cut. Both factors are stacks of k matrices: Muon orthogonalizes each block by itself.

Initial values: L keeps the size of its input, R brings it to what a dense matrix would give.
Width transfer: with a fixed number of blocks, a block's inputs grow with the width: both factors have the rate of a hidden matrix.
State: optimizer state of k q (p + s) weights.   Cost: 2 k q (p + s) operations per position, in products of k blocks each; for
square matrices 2 / k of dense.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.axes import Role
from ...core.parts import Positive, part
from ._projection import Projection, normal


@part
class Monarch(Projection):
    """blocks: k, of both factors."""

    first: Tensor
    second: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool, axes: tuple[str, str], role: Role = "matrix", *, blocks: Positive[int] = 4):
        super().__init__(inputs, outputs, bias, axes, role)
        self.blocks = blocks
        self.p, self.s = -(-inputs // blocks), -(-outputs // blocks)
        self.q = min(self.p, self.s)
        between = axes[1] if self.p <= self.s else axes[0]
        self.hold("first", blocks, self.q, self.p, axes=("blocks", between, axes[1]))
        self.hold("second", blocks, self.s, self.q, axes=("blocks", axes[0], between))
        self.begin()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        width, blocks = context.get("width"), knobs["blocks"]
        if width is not None and width < blocks**2:
            yield f"{blocks} blocks need a model width of at least {blocks**2} so that every block reaches every other; the width is {width}"

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        first = normal(generator, self.p**-0.5, self.blocks, self.q, self.p)
        return {"first": first, "second": normal(generator, std * (self.inputs / self.q) ** 0.5, self.blocks, self.s, self.q)}

    def effective(self) -> Tensor:
        identity = torch.eye(self.inputs, dtype=self.first.dtype, device=self.first.device)
        return self._product(identity).t()

    def forward(self, x: Tensor) -> Tensor:
        return self.plus_bias(self._product(x.reshape(-1, self.inputs)).view(*x.shape[:-1], self.outputs))

    def _product(self, x: Tensor) -> Tensor:
        """W x for x (N, inputs)."""
        k, count, width = self.blocks, x.shape[0], self.blocks * self.p
        x_Nkp = (x if width == self.inputs else F.pad(x, (0, width - self.inputs))).view(count, k, self.p)
        # Laid out by block once: products of strided views copy them again, one block at a time, in both passes.
        y_kNs = torch.bmm(self._dealt(x_Nkp.transpose(0, 1).contiguous()), self.second.to(x.dtype).mT)
        return y_kNs.permute(1, 2, 0).reshape(count, k * self.s)[:, : self.outputs]

    def _dealt(self, x_kNp: Tensor) -> Tensor:
        """P1 L x, (k, N, q)."""
        k, q, count, first = self.blocks, self.q, x_kNp.shape[1], self.first.to(x_kNp.dtype)
        if q % k:
            h_kNq = torch.bmm(x_kNp, first.mT)
            return h_kNq.transpose(0, 1).reshape(count, q, k).permute(2, 0, 1)
        # L's rows are dealt out instead of its outputs, so that what moves by position moves in runs of q / k.
        rows_kqp = first.view(k, q // k, k, self.p).transpose(1, 2).reshape(k, q, self.p)
        h_kNkr = torch.bmm(x_kNp, rows_kqp.mT).view(k, count, k, q // k)
        return h_kNkr.permute(2, 1, 0, 3).reshape(k, count, q)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, blocks={self.blocks}"
