r"""What width transforms share: how each axis of each parameter is copied so that the function stays the same.

A grown vector holds copies, x'_i = x_{index(i)}. Whatever reads it takes each copy with a share s_i, the shares of one old feature
summing to 1; whatever writes it writes the same value into every copy:

    reads (the last axis of a matrix)       W'_{.i} = s_i W_{.index(i)}      G'_{.i} = G_{.index(i)}
    writes (the axis before, gains, biases, embeddings)   W'_{i.} = W_{index(i).}      G'_{i.} = s_i G_{index(i).}

A tied head reads with the embedding's own matrix, which cannot hold the shares: the norm before it takes them, as gain and bias. A norm
sees every feature equally often, so its mean and its variance stay. A change of the objective's factor on logits (width transfer)
is undone in the same place.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.parts import load
from ..core.resolve import spec
from ._carry import Map, Maps, Take
from ._objective import refuse_own_features

if TYPE_CHECKING:
    from ..core.axes import Axes
    from ..core.seams import Snapshot, Target


@dataclass
class Copies:
    """Which old position every new one copies, and its share (float64); by axis name. Axes that are not here stay."""

    index: dict[str, Tensor] = field(default_factory=dict)
    share: dict[str, Tensor] = field(default_factory=dict)

    def add(self, axis: str, index: Tensor, share: Tensor, each: int = 1) -> None:
        """Copies of groups of `each` positions, such as heads."""
        self.index[axis] = (index[:, None] * each + torch.arange(each)).reshape(-1)
        self.share[axis] = share.repeat_interleave(each)

    def writes(self, axis: str) -> Map | None:
        return Map(self.index[axis], None, self.share[axis]) if axis in self.index else None

    def reads(self, axis: str) -> Map | None:
        return Map(self.index[axis], self.share[axis], None) if axis in self.index else None

    def before_head(self, axis: str, size: int, ratio: float) -> Map | None:
        """Of the norm that a tied head reads: it takes the shares where the axis grows, and a change of the factor on logits."""
        found = self.reads(axis) or (Map(torch.arange(size)) if ratio != 1.0 else None)
        return None if found is None else found.scaled(ratio)


def copies(old: int, new: int, *, split: float, seed: int) -> tuple[Tensor, Tensor]:
    """Index and share of a grown axis: whole repetitions first, then old positions drawn without repeating one.

    split: how unequal the shares of one position are, from 0 (equal) to 1; equal twins would have equal gradients for ever.
    """
    draw = torch.Generator().manual_seed(seed)
    whole, left = divmod(new, old)
    index = torch.cat([torch.arange(old).repeat(whole), torch.randperm(old, generator=draw)[:left].sort().values])
    weight = 1 + 0.9 * split * (2 * torch.rand(new, generator=draw, dtype=torch.float64) - 1)
    total = torch.zeros(old, dtype=torch.float64).index_add_(0, index, weight)
    return index, weight / total[index]


def salted(seed: int, word: str) -> int:
    """A seed of its own for each use."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{word}".encode()).digest()[:7], "big")


def maps_of(axes: Axes, made: Copies) -> list[Map | None]:
    """The map of each axis of a parameter: the last one of a matrix or head is read, all others are written."""
    found = [made.writes(axis) for axis in axes.names]
    if axes.role in ("matrix", "head") and len(axes.names) > 1:
        found[-1] = made.reads(axes.names[-1])
    return found


def widen(snapshot: Snapshot, target: Target, made: Copies, adjust: Callable[[str, Tensor], Tensor] | None = None) -> Snapshot:
    """Every parameter through its maps. adjust(name, weight): changes the grown weight of a matrix without changing the function."""
    take = Take(snapshot, target)
    ratio = snapshot.output_scale / target.output_scale
    last = before_head(snapshot)
    for name, axes in snapshot.axes.items():
        maps: Maps = maps_of(axes, made)
        if last and name.startswith(last):
            maps = [made.before_head(axes.names[0], len(snapshot.weights[name]), ratio)]
        elif ratio != 1.0 and takes_factor(snapshot.tree, name, axes) and (reads := made.reads(axes.names[-1])) is not None:
            maps = [*maps[:-1], reads.scaled(ratio)]
        take.map(name, name, maps)
        if adjust is not None:
            take.weights[name] = adjust(name, take.weights[name])
    take.rest()
    return take.result()


def before_head(snapshot: Snapshot) -> str:
    """Prefix of the norm whose output a tied head reads; nothing for an untied one. ValueError where there is none with a gain."""
    if not _tied(snapshot.tree):
        return ""
    depth = snapshot.tree["encoder"].get("depth", 0)
    for prefix in (f"{innermost(snapshot.tree)[1]}transform.norm.", "encoder.norm.", f"encoder.blocks.{depth - 1}.feedforward_norm."):
        if prefix + "weight" in snapshot.axes:
            return prefix
    raise ValueError("a tied head needs a norm with a gain before it, to take up the copies")


def takes_factor(tree: dict[str, Any], name: str, axes: Axes) -> bool:
    """Whether a parameter multiplies what the objective's factor on logits has multiplied: the head's, or the layer's that the objective
    names."""
    held, path = innermost(tree)
    layer = getattr(load("objective", held["name"]), "reads_scaled", None)
    return axes.role == "head" if layer is None else axes.role == "matrix" and name.startswith(f"{path}{layer}.")


def copies_between(snapshot: Snapshot, target: Target, *, split: float) -> Copies:
    """The copies of every axis that grows. Heads that share keys and values share alike, so that these are copied exactly too."""
    made = Copies()
    for axis, before, after in (
        ("width", snapshot.tree["width"], target.tree["width"]),
        ("hidden", hidden_of(snapshot.tree), hidden_of(target.tree)),
    ):
        if before != after:
            made.add(axis, *copies(before, after, split=split, seed=salted(target.seed, axis)))
    heads, kv_heads, head_dim = heads_of(snapshot.tree)
    times = heads_of(target.tree)[0] // heads
    if times > 1:
        index, share = copies(kv_heads, kv_heads * times, split=split, seed=salted(target.seed, "heads"))
        made.add("kv_heads", index, share, head_dim)
        for axis, each in (("heads", head_dim), ("n_heads", 1)):
            made.add(axis, torch.arange(heads).repeat(times), share.repeat_interleave(heads // kv_heads), each)
    return made


def grown_tree(tree: dict[str, Any], *, width: int, heads: int, hidden: float) -> dict[str, Any]:
    """The model section with so many times the width, heads and hidden size. ValueError with a sentence where it cannot be."""
    refuse(tree)
    grown = copy.deepcopy(tree)
    grown["width"] = tree["width"] * width
    encoder, mixer = grown["encoder"], grown["encoder"]["mixer"]
    if "heads" not in mixer:
        raise ValueError(f"the mixer {mixer['name']!r} has no heads to copy")
    if width != heads and mixer.get("head_dim") is None:
        mixer["head_dim"] = tree["width"] // mixer["heads"]
    mixer["heads"] *= heads
    if mixer.get("kv_heads"):
        mixer["kv_heads"] *= heads
    for part in feedforwards(encoder["feedforward"]):
        part["hidden"] = round(hidden_of(tree) * hidden)
    return grown


def refuse(tree: dict[str, Any]) -> None:
    """ValueError for what copies of features cannot be carried through."""
    if tree.get("decoder") or tree.get("target_embedding") or tree.get("towers"):
        raise ValueError("only models without a decoder or further towers can be widened")
    refuse_own_features(tree)
    encoder, objective = tree["encoder"], innermost(tree)[0]
    if not {"mixer", "feedforward"} <= encoder.keys():
        raise ValueError(f"the encoder {encoder['name']!r} has no mixer and feed-forward to widen")
    position = tree["embedding"].get("position") or {}
    if position and getattr(load("nn.position", position["name"]), "of_width", False):
        raise ValueError(
            f"the positions {position['name']!r} are computed from the width, so they do not copy as features do; grow in depth, or take learned ones"
        )
    if getattr(load("nn.embedding", tree["embedding"]["name"]), "of_width", False):
        raise ValueError(
            f"the embedding {tree['embedding']['name']!r} holds features in groups, which do not copy one by one; grow in depth"
        )
    router = encoder["feedforward"].get("router")
    if router and getattr(load("nn.router", router["name"]), "of_width", False):
        raise ValueError(
            f"the router {router['name']!r} measures the lengths of vectors, which unequal copies change; grow in depth (stack, identity_depth)"
        )
    linear = encoder.get("linear") or {"name": "dense"}
    if not copies_pass(linear):
        raise ValueError(
            f"the linear {linear['name']!r} does not stay the same under copied features; grow in depth, or make it dense first (densify)"
        )
    if _tied(tree):
        norm = objective.get("transform") or encoder.get("norm") or {}
        post = getattr(load("nn.block", encoder.get("block", {}).get("name", "pre")), "normalizes_output", False)
        if norm.get("gain") is False or (encoder.get("final_norm") is False and not post and not objective.get("transform")):
            raise ValueError(
                "a tied head needs a norm with a gain before it, to take up the copies; untie the head or widen by other means"
            )


def heads_of(tree: dict[str, Any]) -> tuple[int, int, int]:
    """Heads, heads of keys and values, features of a head."""
    mixer = tree["encoder"]["mixer"]
    return mixer["heads"], mixer.get("kv_heads") or mixer["heads"], mixer.get("head_dim") or tree["width"] // mixer["heads"]


def copies_pass(linear: dict[str, Any]) -> bool:
    """Whether a kind of linear layer is a product of plain matrices, so that copying rows and columns of each copies those of all."""
    with torch.device("meta"):
        layer = spec("nn.linear", **linear).build(inputs=64, outputs=128, bias=False, axes=("hidden", "width"), role="matrix")
    axes = layer.__dict__.get("_ingot_axes", {}).values()
    plain = all(len(item.names) == 2 and set(item.names) <= {"hidden", "width", "rank"} for item in axes)
    return (
        plain
        and not layer.state_dict().keys() - dict(layer.named_parameters()).keys()
        and getattr(layer, "exact", True)
        and not getattr(layer, "rounds", False)
    )


def feedforwards(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The feed-forward, or those that a mixture holds: what its experts are, and what stands beside them."""
    held = [value for value in part.values() if isinstance(value, dict) and "hidden" in value]
    return held or [part]


def hidden_of(tree: dict[str, Any]) -> int:
    """The hidden size in force of the feed-forward, or of all those of a mixture. ValueError where there is none, or more than one."""
    part, sizes = tree["encoder"]["feedforward"], {}
    for inner in feedforwards(part):
        size = getattr(load("nn.feedforward", inner["name"]), "size", None)
        if size is None or "hidden" not in inner:
            raise ValueError(f"the feedforward {inner['name']!r} has no hidden size to grow; grow in depth (stack, identity_depth)")
        sizes[int(size(tree["width"], inner["hidden"]))] = inner["name"]
    if len(sizes) > 1:
        raise ValueError(
            f"the feedforward {part['name']!r} holds layers of {' and '.join(map(str, sorted(sizes)))} hidden units, which would not copy alike; "
            "give them one hidden size, or grow in depth (stack, identity_depth)"
        )
    return next(iter(sizes))


def _tied(tree: dict[str, Any]) -> bool:
    return bool(innermost(tree)[0].get("tied"))


def innermost(tree: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The objective that holds the head, inside those that wrap it, and the path of its parameters."""
    found, path = tree["objective"], "objective."
    while isinstance(found.get("objective"), dict):
        found, path = found["objective"], path + "objective."
    return found, path
