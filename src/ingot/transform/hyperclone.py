r"""HyperCloning: every feature n times, with noise that cancels.   Samragh et al. 2024, arXiv:2409.12903, section 3.

    symmetric   W' = 1/n [W ... W; ...; W ... W]        diagonal   W' = diag(W, ..., W)
    noisy       W' + [e_1 ... e_n] in every row of blocks, sum_k e_k = 0

x' = [x ... x] all through the network, heads included, so the noise meets equal inputs and cancels: the function is exact, and copies
do not stay twins. The embedding and a tied head are cloned without noise; the last norm's gain then divides by n.

noise: standard deviation of e relative to that of the weights it is added to; the paper's 10 dB are 0.316.

State: carried as in ``widen``: what is written has 1/n of the gradient, what is read all of it; noise is left out of that account.
Cost: a copy; a step costs about n^2 as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge

from ..core.parts import NonNegative, part
from ._width import Copies, copies, grown_tree, heads_of, hidden_of, salted, widen

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.seams import Snapshot, Target


@part
class HyperClone:
    """times: n. diagonal: clones that do not read each other. noise: relative; 0 for none."""

    preserves = True

    def __init__(self, *, times: Annotated[int, Ge(2)] = 2, diagonal: bool = False, noise: NonNegative[float] = 0.0):
        self.times, self.diagonal, self.noise = times, diagonal, noise

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        return grown_tree(tree, width=self.times, heads=self.times, hidden=float(self.times))

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        made, n = Copies(), self.times
        heads, kv_heads, head_dim = heads_of(snapshot.tree)
        sizes = {
            "width": snapshot.tree["width"],
            "hidden": hidden_of(snapshot.tree),
            "heads": heads * head_dim,
            "kv_heads": kv_heads * head_dim,
            "n_heads": heads,
        }
        for axis, size in sizes.items():
            made.add(axis, *copies(size, n * size, split=0.0, seed=0))

        def adjust(name: str, weight: Tensor) -> Tensor:
            axes = snapshot.axes[name]
            if axes.role not in ("matrix", "head") or len(axes.names) < 2 or axes.names[-1] not in sizes:
                return weight
            if self.diagonal and axes.names[-2] in sizes:
                weight = weight * n * _blocks(weight.shape[-2], weight.shape[-1], n).to(weight.dtype)
            if self.noise:
                weight = weight + self.noise * snapshot.weights[name].std() * _cancelling(weight, n, salted(target.seed, name))
            return weight

        return widen(snapshot, target, made, adjust)


def _blocks(rows: int, columns: int, n: int) -> Tensor:
    """1 where row and column belong to the same clone."""
    row, column = torch.arange(rows) * n // rows, torch.arange(columns) * n // columns
    same: Tensor = row[:, None] == column
    return same


def _cancelling(weight: Tensor, n: int, seed: int) -> Tensor:
    """Unit normal noise of the weight's shape, whose sum over the clones of a column is zero."""
    draw = torch.randn(*weight.shape[:-1], n, weight.shape[-1] // n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # taking the mean away leaves 1 - 1/n of the variance
    centered: Tensor = (draw - draw.mean(dim=-2, keepdim=True)) * (n / (n - 1)) ** 0.5
    return centered.reshape(weight.shape).to(weight.dtype)
