r"""Depth stacking (G_stack): the whole stack of blocks, several times over.   Du et al. 2024, arXiv:2405.15319, section 3.

    block'_i = block_{i mod L}        i = 0 .. factor L - 1

The paper's best of four operators: grow once, early (after some 10 billion tokens for models of a few billion parameters), and by
about 4 times. It does not preserve the function: the loss jumps and recovers within a few hundred steps. Earlier: Gong et al. 2019.

State: every block's optimizer state is copied with it (the paper starts it afresh; a copy is warmer and no method of the paper
depends on it).   Cost: a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from ..core.parts import part
from ._depth import blocks_from, depth_of, with_depth

if TYPE_CHECKING:
    from ..core.seams import Snapshot, Target


@part
class Stack:
    """factor: how many times the stack stands on itself."""

    preserves = False

    def __init__(self, *, factor: Annotated[int, Ge(2)] = 2):
        self.factor = factor

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        old = depth_of(tree)
        return with_depth(tree, old * self.factor, [layer % old for layer in range(old * self.factor)])

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        depth = depth_of(snapshot.tree)
        return blocks_from(snapshot, target, [layer % depth for layer in range(depth_of(target.tree))]).result()
