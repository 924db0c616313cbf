"""What becomes of a dense feed-forward in a mixture of experts: the model section, and the names of the parameters."""

from __future__ import annotations

import copy
import re
from typing import Any

BLOCK = re.compile(r"^(.+\.blocks\.\d+\.feedforward)\.(experts|dense|router)\.(.+)$")


def with_experts(tree: dict[str, Any], experts: int, router: dict[str, Any], **placement: Any) -> dict[str, Any]:
    """The tree with a mixture of the same feed-forward in place of the dense one. ValueError where there is one already."""
    found = tree["encoder"].get("feedforward")
    if found is None:
        raise ValueError(f"the encoder {tree['encoder']['name']!r} has no feedforward to make experts of")
    if found["name"] == "moe":
        raise ValueError("the feedforward is a mixture of experts already")
    linear = (tree["encoder"].get("linear") or {"name": "dense"})["name"]
    if linear != "dense":
        raise ValueError(f"experts are stacks of dense matrices, and the linear is {linear!r}; make it dense first (densify)")
    grown = copy.deepcopy(tree)
    grown["encoder"]["feedforward"] = {"name": "moe", "experts": experts, "router": router, "expert": found, **placement}
    return grown


def role_of(name: str) -> tuple[str, str]:
    """("experts" | "dense" | "router", the dense model's name) of a parameter of the mixture; ("", name) of any other."""
    match = BLOCK.match(name)
    return (match[2], f"{match[1]}.{match[3]}") if match else ("", name)
