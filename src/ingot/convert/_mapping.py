"""The language in which a family's mapping is written: which of its tensors are which of ours, and how its sizes read as a recipe.

A family is data and two pure functions. It is checked by going both ways: what a section loses on its way to the family's config
and back is what the family cannot express.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError

Section = dict[str, Any]
GELUS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}  # their names of activations -> how ours approximates


@dataclass(frozen=True)
class Held:
    """One tensor of theirs that holds one or several of ours, stacked along our first axis. ``{i}`` is the block.

    transposed: theirs is stored (in, out). shape: theirs where it is only another shape of ours, such as a convolution over patches.
    optional: a checkpoint may lack it (a head that was never trained); ours is then left out.
    arranged: (sizes, order) where their first axis is several in another order: split into sizes, then permuted, it is ours.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    shape: tuple[int, ...] | None = None
    optional: bool = False
    arranged: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def at(self, block: int) -> Held:
        """The same for one block."""
        return replace(self, theirs=self.theirs.format(i=block), ours=tuple(name.format(i=block) for name in self.ours))


@dataclass(frozen=True)
class Family:
    """How one kind of Hugging Face model reads as an Ingot model.

    model_types: config.json's ``model_type``. architecture: its class with a language-model head.
    prefix: what names start with in a checkpoint of that class but not in one of the bare model.
    read: config -> (model section, sequence).  write: (complete section, sequence, vocabulary) -> config.
    names: complete section -> tensors.  ignored: patterns of tensors that hold nothing we need.
    twins: their names that repeat another: name -> (name it must equal, whether it may be absent or equal only if tied).
    heads: what names of a head start with; they never have the prefix. bare: its class for an encoder alone, with names that lack the
    prefix. pretrains: objectives of ours by which the family's encoders are trained first. alike: objectives of ours that score by the
    same weights as the family's own. typed: whether its tokens have a kind, so that where ours have none there is one, of zeros. outputs:
    what of our model, of theirs and of a batch is compared when a folder has been written (see ``_compare``). preprocessor: complete
    section -> preprocessor_config.json. dropped: patterns of our names that only training needs; they are not written. varies: places of
    the section where the family's models have one part or another, or where a part is training's alone.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    prefix: str
    read: Callable[[Mapping[str, Any]], tuple[Section, int]]
    write: Callable[[Section, int, int], dict[str, Any]]
    names: Callable[[Section], list[Held]]
    ignored: tuple[str, ...] = ()
    twins: Mapping[str, str] | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    heads: tuple[str, ...] = ("lm_head.", "cls.")
    bare: str = ""
    pretrains: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    typed: bool = False
    outputs: str = "logits"
    preprocessor: Callable[[Section], dict[str, Any]] | None = None
    dropped: tuple[str, ...] = ()
    varies: tuple[str, ...] = ()


def same(theirs: str, ours: str, *leaves: str) -> list[Held]:
    """``theirs.leaf`` is ``ours.leaf`` for each leaf."""
    return [Held(f"{theirs}.{leaf}", (f"{ours}.{leaf}",)) for leaf in leaves]


def per_block(section: Section, rules: Iterable[Held]) -> list[Held]:
    """The rules with ``{i}`` written out for every block; rules without it once."""
    return repeated(rules, section["encoder"]["depth"])


def repeated(rules: Iterable[Held], depth: int) -> list[Held]:
    """The same for a stack of so many blocks, such as a decoder's."""
    return [item for rule in rules for item in ([rule.at(block) for block in range(depth)] if "{i}" in rule.theirs else [rule])]


def leaves(bias: bool) -> tuple[str, ...]:
    """The parameters of a projection."""
    return ("weight", "bias") if bias else ("weight",)


def gather(family: Family, section: Section, theirs: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Their tensors under our names; those of a head are left out where the checkpoint is one of the bare model. shapes: what our model
    has. UserError names everything unknown, missing or of another shape."""
    headless = _is_bare(family, theirs)
    theirs = _normalized(family, theirs)
    ours: dict[str, Tensor] = {}
    problems, used, left = [], set(), set()
    for rule in family.names(section):
        if rule.theirs not in theirs:
            if rule.optional or (headless and rule.theirs.startswith(family.heads)):
                left |= set(rule.ours)
                continue
            problems.append(f"{rule.theirs} is missing")
            continue
        used.add(rule.theirs)
        tensor = theirs[rule.theirs].T if rule.transposed else theirs[rule.theirs]
        if rule.arranged is not None and tensor.shape[0] == prod(rule.arranged[0]):
            tensor = _arranged(tensor, *rule.arranged)
        if rule.shape is not None and tuple(tensor.shape) == rule.shape:
            tensor = tensor.reshape(shapes[rule.ours[0]])
        wanted = [shapes[name] for name in rule.ours]
        whole = (sum(shape[0] for shape in wanted), *wanted[0][1:])
        if tuple(tensor.shape) != whole:
            stored = rule.shape or (tuple(reversed(whole)) if rule.transposed else whole)
            problems.append(f"{rule.theirs} has shape {tuple(theirs[rule.theirs].shape)}, the configuration wants {stored}")
            continue
        pieces = tensor.split([shape[0] for shape in wanted])
        ours |= {name: piece.contiguous() for name, piece in zip(rule.ours, pieces, strict=True)}
    problems += _leftovers(family, theirs, used)
    problems += [f"no tensor gives {name}" for name in shapes if name not in ours and name not in left] if not problems else []
    if problems:
        raise UserError(
            f"not a {family.name} checkpoint as its configuration describes it: "
            + "; ".join(problems[:8])
            + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        )
    return ours


def scatter(family: Family, section: Section, ours: Mapping[str, Tensor], bare: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """Our tensors under their names, and what of ours stays behind; UserError for parameters the family has no place for.

    bare: the encoder alone, as the class for it names its tensors; objective and light decoder stay behind.
    """
    theirs, used = {}, set()
    for rule in family.names(section):
        if bare and not rule.theirs.startswith(family.prefix):
            continue
        if missing := [name for name in rule.ours if name not in ours]:
            raise UserError(f"{family.name} needs {missing[0]}, which this model does not have")
        tensor = torch.cat([ours[name] for name in rule.ours]) if len(rule.ours) > 1 else ours[rule.ours[0]]
        tensor = tensor.clone() if used & set(rule.ours) else tensor  # safetensors takes no memory under two names
        if rule.arranged is not None:
            held, order = rule.arranged
            tensor = _arranged(tensor, [held[axis] for axis in order], [order.index(axis) for axis in range(len(order))])
        tensor = tensor if rule.shape is None else tensor.reshape(rule.shape)
        name = rule.theirs.removeprefix(family.prefix) if bare else rule.theirs
        theirs[name] = (tensor.T if rule.transposed else tensor).contiguous()
        used |= set(rule.ours)
    left = [name for name in ours if name not in used]
    dropped = (*family.dropped, r"^(objective|decoder)\.") if bare else family.dropped
    if extra := [name for name in left if not any(re.search(pattern, name) for pattern in dropped)]:
        raise UserError(f"{family.name} has no place for {', '.join(extra[:8])}")
    return theirs, left


def _arranged(tensor: Tensor, sizes: Sequence[int], order: Sequence[int]) -> Tensor:
    """The first axis split into sizes, permuted, and joined again."""
    rest = tensor.shape[1:]
    split = tensor.reshape(*sizes, *rest)
    return split.permute(*order, *range(len(sizes), split.dim())).reshape(-1, *rest)


def _is_bare(family: Family, theirs: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the class without a head."""
    return not any(name.startswith((family.prefix, *family.heads)) for name in theirs)


def _normalized(family: Family, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old leaf names and the bare model's missing prefix, brought to the form that the rules are written in."""
    renamed = {}
    for name, tensor in theirs.items():
        for old, new in family.renamed:
            name = re.sub(old, new, name)
        renamed[name] = tensor
    if any(name.startswith(family.prefix) for name in renamed):
        return renamed
    return {family.prefix + name if not name.startswith(family.heads) else name: tensor for name, tensor in renamed.items()}


def _leftovers(family: Family, theirs: Mapping[str, Tensor], used: set[str]) -> list[str]:
    problems = []
    for name in sorted(set(theirs) - used):
        twin = (family.twins or {}).get(name)
        if twin is not None:
            if twin in theirs and not torch.equal(theirs[twin], theirs[name]):
                problems.append(f"{name} differs from {twin}, to which the configuration ties it")
        elif not any(re.search(pattern, name) for pattern in family.ignored):
            problems.append(f"{name} is unknown")
    return problems


def activation_of(encoder: Section, known: Mapping[str, str] = GELUS) -> str:
    """Their name of a stack's activation; of several that mean the same, the first one known. UserError where there is none."""
    wanted = encoder["feedforward"]["approximate"]
    for name, kind in known.items():
        if kind == wanted:
            return name
    raise UserError(f"feedforward.approximate={wanted!r}")


def refuse(family: str, **wanted: tuple[Any, Any]) -> None:
    """Raise UserError for the first setting of theirs, given as (value, only value we can express), that differs."""
    for name, (value, only) in wanted.items():
        if value != only:
            raise UserError(f"a {family} model with {name}={value!r} cannot be read; only {name}={only!r} can")
