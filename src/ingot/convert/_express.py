"""Which Hugging Face class can hold a model: a whole one of some family, or the class of an encoder alone where no family knows the
objective. Checked by going both ways: what a section loses through a family's configuration is what the family cannot express.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.parts import load, signature
from ..core.resolve import spec
from ._image import normalized
from ._mapping import Family, Section
from ._section import complete, differences

# The least that any family's configuration has to say, for asking what all models of a family have in common.
PROBE = {
    "hidden_size": 2,
    "embedding_size": 2,
    "intermediate_size": 2,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "n_embd": 2,
    "n_layer": 1,
    "n_head": 1,
}
LEFT_OUT = " left out"


@cache
def families() -> dict[str, Family]:
    """Every family by name; each is a file of this folder that holds a FAMILY."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.stem.startswith("_") and path.stem != "hf":
            family: Family = importlib.import_module(f"{__package__}.{path.stem}").FAMILY
            found[family.name] = family
    return found


@dataclass(frozen=True)
class Form:
    """How a model is written. section: complete, in the family's own words. bare: the encoder alone, by the family's class for it."""

    family: Family
    section: Section
    bare: bool = False


def form_for(whole: Section, sequence: int, kind: str | None = None) -> Form:
    """The first family that can express the complete section, and how. kind: the one family to look at.

    Whole models come first, then encoders alone, and among these the family that has pre-trained so itself. UserError says what keeps
    the nearest family from it.
    """
    whole = stored(whole, sequence)
    chosen = [families()[kind]] if kind else list(families().values())
    forms = [Form(family, _reworded(family, whole)) for family in chosen]
    alone = [Form(family, section, bare=True) for family in chosen if (section := _encoder_alone(family, whole, sequence)) is not None]
    forms += sorted(alone, key=lambda form: whole["objective"]["name"] not in form.family.pretrains)
    refusals = []
    for form in forms:
        reasons = _inexpressible(form.family, form.section, sequence)
        if not reasons:
            return form
        refusals.append((form, reasons))
    # Another part in a component is further away than any number of knobs.
    nearest, reasons = min(refusals, key=lambda item: (sum(reason.partition("=")[0] in whole for reason in item[1]), len(item[1])))
    said = (
        f"{nearest.family.name} has" if kind else f"no Hugging Face family can express this model; the nearest, {nearest.family.name}, has"
    )
    without = [f"model without {reason.removesuffix(LEFT_OUT)}" if reason.endswith(LEFT_OUT) else reason for reason in reasons]
    raise UserError(f"{said} no {', '.join(without[:5])}")


def stored(whole: Section, sequence: int) -> Section:
    """The section with fixed positions as learned ones, which hold the same numbers: families keep what is added to vectors as tensors."""
    found = dict(whole)
    for name in ("embedding", "target_embedding"):
        if name in found:
            found[name] = _stored(found[name], sequence)
    if "towers" in found:
        found["towers"] = {name: tower | {"embedding": _stored(tower["embedding"], sequence)} for name, tower in found["towers"].items()}
    if _fixed(found["objective"]):
        found["objective"] = found["objective"] | {"position": spec("nn.position", "learned").data()}
    return found


def _fixed(component: Section) -> bool:
    position = component.get("position")
    return isinstance(position, dict) and position["name"] == "sincos"


def _stored(embedding: Section, sequence: int) -> Section:
    if not _fixed(embedding):
        return embedding
    own = getattr(load("nn.embedding", embedding["name"]), "positions", None)
    return embedding | {"position": {"name": "learned", "size": (own(embedding) if own else None) or sequence}}


def _reworded(family: Family, whole: Section) -> Section:
    """The section with the family's objective where its own scores by the same weights, and only makes other tasks of the data; and with
    one kind of token where the family's have kinds and its own none."""
    if family.typed and whole["embedding"].get("types") == 0:
        whole = whole | {"embedding": whole["embedding"] | {"types": 1}}
    if whole["objective"]["name"] not in family.alike:
        return whole
    own = family.read(PROBE)[0]["objective"]["name"]
    known = signature(load("objective", own)).knobs
    knobs = {knob: value for knob, value in whole["objective"].items() if knob in known}
    return whole | {"objective": spec("objective", own, **knobs).data()}


def _encoder_alone(family: Family, whole: Section, sequence: int) -> Section | None:
    """The section with the family's own objective in the place of one that it does not know, which stays behind together with a light
    decoder of the objective's. None where the family has no class for an encoder, or where more than an encoder would be lost."""
    attends = (whole.get("decoder") or {}).get("cross") is not None
    if not family.bare or attends or "towers" in whole or "target_embedding" in whole:
        return None
    objective = complete(family.read(PROBE)[0], sequence)["objective"]
    if objective["name"] == whole["objective"]["name"]:
        return None
    if "hide" in objective and "share" in whole["objective"]:  # what stands at hidden positions belongs to their encoder
        objective["hide"] = whole["objective"]["share"]
    return {name: whole[name] for name in ("width", "embedding", "encoder")} | {"objective": objective}


def _inexpressible(family: Family, wanted: Section, sequence: int) -> list[str]:
    """What the section loses on its way through the family's configuration."""
    skeleton = complete(family.read(PROBE)[0], sequence)
    if other_parts := [item for item in _other_parts(wanted, skeleton) if not item.startswith(family.varies)]:
        return other_parts
    try:
        back, _ = family.read(family.write(wanted, sequence, 1))
        if family.preprocessor is not None:
            back = normalized(back, family.preprocessor(wanted))
    except UserError as error:
        named = re.search(r" with (.+?) cannot be read", str(error))
        return [named[1] if named else str(error)]
    return differences(wanted, complete(back, sequence))


def _other_parts(wanted: Any, skeleton: Any, path: str = "") -> list[str]:
    """Where the section has other parts than every model of the family has; knobs are not looked at."""
    names = [item.get("name") if isinstance(item, dict) else None for item in (wanted, skeleton)]
    if path and names[0] != names[1]:
        return [f"{path}={names[0]}" if names[0] else f"{path}{LEFT_OUT}"]
    if path.startswith("towers.") and (wanted is None) != (skeleton is None):  # towers have names of the recipe's own
        return [path if skeleton is None else f"{path}{LEFT_OUT}"]
    if not isinstance(wanted, dict) or not isinstance(skeleton, dict):
        return []
    return [
        found
        for key in sorted({*wanted, *skeleton})
        for found in _other_parts(wanted.get(key), skeleton.get(key), f"{path}.{key}" if path else key)
    ]


def said(names: Iterable[str]) -> str:
    """Parameters that stay behind, by component: objective.head, decoder."""
    parts = {".".join(name.split(".")[: 2 if name.startswith("objective.") else 1]) for name in names}
    return ", ".join(sorted(parts))
