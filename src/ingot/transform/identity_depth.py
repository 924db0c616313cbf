r"""Identity blocks: new blocks that add nothing yet.   Chen et al. 2016 (Net2DeeperNet), arXiv:1511.05641; for residual stacks the
depth operator of Shen et al. 2022 (staged training), arXiv:2203.06211.

    block'_i = block_s        s = floor(i L / L')        what a new block writes into the residual stream is zero

so x + 0 passes through and the function is exactly that before. Only the writing projections are zero: they have a gradient at
once, and the rest of the block as soon as they have moved. Blocks whose output is normalized once more (placement post) are refused.

State: old blocks keep theirs. New blocks take their copy's second moments and step counts, and momenta of zero, so that their first
steps are no larger than their neighbours'.   Cost: a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from ..core.parts import Positive, load, part
from ._carry import Take
from ._depth import BLOCK, depth_of, with_depth
from ._objective import refuse_splits

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.axes import Axes
    from ..core.seams import Snapshot, Target


@part
class IdentityDepth:
    """depth: blocks afterwards, twice as many when not given. place: new blocks spread behind the old ones, or all at the end."""

    preserves = True

    def __init__(self, *, depth: Positive[int] | None = None, place: Literal["spread", "end"] = "spread"):
        self.depth, self.place = depth, place

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        block = tree["encoder"].get("block", {}).get("name", "pre")
        if getattr(load("nn.block", block), "normalizes_output", False):
            raise ValueError(
                f"the block {block!r} normalizes what passes through it, so a block that adds nothing would still change it; use stack or interpolate"
            )
        refuse_splits(tree)
        mixer = tree["encoder"].get("mixer", {})
        if mixer and "heads" not in mixer:
            raise ValueError(
                f"the mixer {mixer['name']!r} has no projection back to the width that could be zero, so a new block would not be idle; use stack or interpolate"
            )
        old = depth_of(tree)
        new = self.depth or 2 * old
        return with_depth(tree, new, [source for source, _ in self.sources(old, new)])

    def sources(self, old: int, new: int) -> list[tuple[int, bool]]:
        """(old block, whether it is a new one) of every block afterwards."""
        if self.place == "end":
            return [(min(layer, old - 1), layer >= old) for layer in range(new)]
        first = [layer * old // new for layer in range(new)]
        return [(source, source in first[:layer]) for layer, source in enumerate(first)]

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        take = Take(snapshot, target)
        plan = self.sources(depth_of(snapshot.tree), depth_of(target.tree))
        for name in target.weights:
            if (match := BLOCK.match(name)) is not None:
                source, new = plan[int(match[2])]
                take.copy(name, f"{match[1]}{source}.{match[3]}", momentum=not new)
        for layer, (_, new) in enumerate(plan):
            if new:
                for name in writing(f"encoder.blocks.{layer}.", take.weights, target.axes):
                    take.weights[name].zero_()
                    for key, value in take.state.get(name, {}).items():
                        if snapshot.powers.get(key) == "weight":
                            value.zero_()
        take.rest()
        return take.result()


def writing(block: str, weights: dict[str, Tensor], axes: dict[str, Axes]) -> Iterator[str]:
    """The parameters of a block to be zero so that it writes nothing: its post-norms where it has them, else its writing projections."""
    inside = [name for name in weights if name.startswith(block) and name in axes]
    norms = [name for name in inside if "_post_norm." in name]
    if norms:
        yield from norms
        return
    owners = {name.rpartition(".")[0] for name in inside if _writes(axes[name])}
    for owner in sorted(owners):
        held = [name for name in inside if name.rpartition(".")[0] == owner]
        # Of a product of factors only the last one is zero, else none of them would ever have a gradient.
        yield from (
            name
            for name in held
            if _writes(axes[name]) or axes[name].role == "bias" or (axes[name].role == "matrix" and len(axes[name].names) == 1)
        )


def _writes(axes: Axes) -> bool:
    """Whether a matrix's outputs are the residual stream and its inputs are not."""
    return axes.role == "matrix" and len(axes.names) >= 2 and axes.names[-2] == "width" and axes.names[-1] != "width"
