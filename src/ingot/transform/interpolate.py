r"""Depth interpolation: every block several times in its place.   Chang et al. 2018, arXiv:1710.10348; Dong et al. 2020.

    block'_i = block_{floor(i L / L')}        i = 0 .. L' - 1

Neighbours stay neighbours, so a block's input changes less than under ``stack``; L' need not be a multiple of L. It does not preserve
the function. Du et al. 2024 (arXiv:2405.15319) found stacking to train faster afterwards.

State: every block's optimizer state is copied with it.   Cost: a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.parts import Positive, part
from ._depth import blocks_from, depth_of, with_depth

if TYPE_CHECKING:
    from ..core.seams import Snapshot, Target


@part
class Interpolate:
    """depth: blocks afterwards; twice as many when not given."""

    preserves = False

    def __init__(self, *, depth: Positive[int] | None = None):
        self.depth = depth

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        old = depth_of(tree)
        new = self.depth or 2 * old
        return with_depth(tree, new, [layer * old // new for layer in range(new)])

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        old, new = depth_of(snapshot.tree), depth_of(target.tree)
        return blocks_from(snapshot, target, [layer * old // new for layer in range(new)]).result()
