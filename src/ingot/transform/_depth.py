"""What depth transforms share: the encoder's depth in the model section, and the names of its blocks."""

from __future__ import annotations

import copy
import re
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


def with_depth(tree: dict[str, Any], depth: int) -> dict[str, Any]:
    """The tree with a deeper encoder. ValueError where it would not be deeper."""
    refuse_teachers(tree)
    if depth <= depth_of(tree):
        raise ValueError(f"the encoder has {depth_of(tree)} blocks already, and would have {depth}")
    grown = copy.deepcopy(tree)
    grown["encoder"]["depth"] = depth
    return grown


def blocks_from(snapshot: Snapshot, target: Target, sources: list[int]) -> Take:
    """New block i as a copy of old block sources[i], state included; everything else by its own name."""
    take = Take(snapshot, target)
    for name in target.weights:
        if (match := BLOCK.match(name)) is not None:
            take.copy(name, f"{match[1]}{sources[int(match[2])]}.{match[3]}")
    take.rest()
    return take
