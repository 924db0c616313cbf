"""What depth transforms share: the encoder's depth in the model section, and the names of its blocks."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._carry import Take
from ._objective import refuse_teachers

if TYPE_CHECKING:
    from ..core.seams import Snapshot, Target

BLOCK = re.compile(r"^(encoder\.blocks\.)(\d+)\.(.+)$")


def depth_of(tree: dict[str, Any]) -> int:
    """Blocks of the encoder. ValueError where it has no depth."""
    depth = tree["encoder"].get("depth")
    if not isinstance(depth, int):
        raise ValueError(f"the encoder {tree['encoder']['name']!r} has no depth to grow")
    return depth


def with_depth(tree: dict[str, Any], depth: int, sources: Sequence[int] | None = None) -> dict[str, Any]:
    """The tree with a deeper encoder, whose block i comes from block sources[i], from all of them when not given. ValueError where it
    would not be deeper, or where a block would come from one of another kind."""
    refuse_teachers(tree)
    if depth <= depth_of(tree):
        raise ValueError(f"the encoder has {depth_of(tree)} blocks already, and would have {depth}")
    old = range(depth_of(tree))
    for block in range(depth):
        for source in old if sources is None else [sources[block]]:
            _refuse_another_kind(tree["encoder"].get("feedforward"), block, source)
    grown = copy.deepcopy(tree)
    grown["encoder"]["depth"] = depth
    return grown


def _refuse_another_kind(feedforward: Any, block: int, source: int) -> None:
    """ValueError where one of two blocks has experts and the other has none."""
    if not isinstance(feedforward, dict) or "first_dense" not in feedforward:
        return
    every, first = feedforward.get("every", 1), feedforward["first_dense"]
    if len({layer < first or bool((layer + 1) % every) for layer in (block, source)}) > 1:
        raise ValueError(
            f"block {block} would come from block {source}, and with every: {every}, first_dense: {first} one of them has experts and the "
            "other has none; stack keeps the pattern where first_dense is 0 and every divides the depth"
        )


def blocks_from(snapshot: Snapshot, target: Target, sources: list[int]) -> Take:
    """New block i as a copy of old block sources[i], state included; everything else by its own name."""
    take = Take(snapshot, target)
    for name in target.weights:
        if (match := BLOCK.match(name)) is not None:
            take.copy(name, f"{match[1]}{sources[int(match[2])]}.{match[3]}")
    take.rest()
    return take
