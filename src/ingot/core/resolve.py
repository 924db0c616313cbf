"""Checking recipe data against signatures: every problem at once, each with file, line, path, nearest name and signature."""

from __future__ import annotations

import copy
import difflib
import inspect
import types
import typing
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from .errors import Problem, UserError, shown
from .parts import Signature, SlotOf, Spec, load, parts_in, signature
from .recipe import Keys, Recipe


class Unresolved(Exception):
    """A rule asked about a value that could not be resolved."""


class _Unresolved:
    """Stands where a value could not be resolved. Whatever it is asked, its type included, raises Unresolved, so no rule judges by it."""

    def __getattribute__(self, name: str) -> Any:
        raise Unresolved

    def __repr__(self) -> str:
        return "UNRESOLVED"


def _ask(*given: Any) -> Any:
    raise Unresolved


for _name in (
    *("bool", "eq", "ne", "lt", "le", "gt", "ge", "len", "iter", "contains", "getitem", "call", "str", "format", "int", "float", "index"),
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod", "neg", "abs", "round"),
):  # Python looks these up on the type, past __getattribute__
    setattr(_Unresolved, f"__{_name}__", _ask)

UNRESOLVED: Any = _Unresolved()


def resolve(recipe: Recipe, annotation: Any) -> Any:
    """The recipe's tree as an instance of the annotation. Raises UserError with every problem found."""
    value, problems = try_resolve(recipe, annotation)
    if problems:
        raise UserError(problems)
    return value


def try_resolve(recipe: Recipe, annotation: Any) -> tuple[Any, list[Problem]]:
    """As resolve, but returns what could be resolved (None when nothing could) beside the problems."""
    resolver = _Resolver(recipe)
    value = resolver.value(recipe.tree, annotation, ())
    return (None if value is UNRESOLVED else value), resolver.problems


def partly_resolve(recipe: Recipe, annotation: Any) -> tuple[Any, list[Problem]]:
    """As try_resolve, but sections and Specs are there even where something in them is wrong: that something is UNRESOLVED."""
    resolver = _Resolver(recipe, partial=True)
    return resolver.value(recipe.tree, annotation, ()), resolver.problems


def spec(slot: str, name: str, **knobs: Any) -> Spec:
    """A checked Spec from Python: ``spec("optim", "lion", lr=3e-4).build(params=...)``. Raises UserError."""
    resolved: Spec = resolve(Recipe({"name": name} | knobs), Annotated[Spec, SlotOf(slot)])
    return resolved


class _Resolver:
    def __init__(self, recipe: Recipe, *, partial: bool = False):
        self.recipe, self.partial = recipe, partial
        self.problems: list[Problem] = []

    def fail(self, keys: Keys, message: str, hint: str = "", knob: str = "") -> Any:
        suffix = "   [command line]" if self.recipe.by_command_line((*keys, knob) if knob else keys) else ""
        self.problems.append(Problem(".".join(map(str, keys)), message + suffix, self.recipe.origin(keys), hint))
        return UNRESOLVED

    def value(self, value: Any, annotation: Any, keys: Keys) -> Any:
        """Dispatch on the annotation; UNRESOLVED when it could not be resolved (the problem is recorded)."""
        if isinstance(value, Spec) or hasattr(type(value), "__ingot_section__"):
            return value
        slot = slot_of(annotation)
        if slot is not None:
            return self.part(value, slot, keys)
        if hasattr(annotation, "__ingot_section__"):
            return self.section(value, annotation, keys)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in (Union, types.UnionType) and holds_parts(annotation):
            return self.union(value, arguments, keys)
        if origin is list and holds_parts(annotation):
            if not isinstance(value, list):
                return self.fail(keys, f"wants a list, got {shown(value)}")
            items = [self.value(item, arguments[0], (*keys, index)) for index, item in enumerate(value)]
            return UNRESOLVED if any(item is UNRESOLVED for item in items) and not self.partial else items
        if origin is dict and holds_parts(annotation):
            if not isinstance(value, dict):
                return self.fail(keys, f"wants a mapping of names, got {shown(value)}")
            pairs = {str(key): self.value(item, arguments[1], (*keys, key)) for key, item in value.items()}
            return UNRESOLVED if any(item is UNRESOLVED for item in pairs.values()) and not self.partial else pairs
        return self.plain(value, annotation, keys)

    def union(self, value: Any, members: tuple[Any, ...], keys: Keys) -> Any:
        if value is None and type(None) in members:
            return None
        wanted = [member for member in members if member is not type(None)]
        simple = [member for member in wanted if not holds_parts(member)]
        if simple and not isinstance(value, dict | list):
            attempt = _Resolver(self.recipe)
            result = attempt.value(value, Union[tuple(simple)], keys)  # noqa: UP007
            if not attempt.problems:
                return result
        rich = [member for member in wanted if holds_parts(member)]
        named = [member for member in rich if slot_of(member) or hasattr(member, "__ingot_section__")]
        if isinstance(value, list):
            named = [member for member in rich if get_origin(member) is list] or named
        elif isinstance(value, dict) and "name" not in value:
            named = [member for member in rich if get_origin(member) is dict] or named
        return self.value(value, (named or rich)[0], keys)

    def part(self, value: Any, slot: str, keys: Keys) -> Any:
        known = parts_in(slot)
        if isinstance(value, dict):
            if "name" not in value:
                return self.fail(keys, f"wants the name of a part of {slot}: one of {', '.join(known)}")
            name, knobs = value["name"], {key: item for key, item in value.items() if key != "name"}
        else:
            name, knobs = value, {}
        if not isinstance(name, str) or name not in known:
            near = nearest(name, known)
            return self.fail(keys, f"no part named {shown(name)} in {slot}. {near or 'It has: ' + ', '.join(known)}")
        try:
            target = load(slot, name)
        except UserError as error:
            return self.fail(keys, str(error))
        except ImportError as error:
            return self.fail(keys, f"part {name!r} cannot be imported: {error}")
        resolved = self.knobs(knobs, signature(target), keys)
        return UNRESOLVED if resolved is UNRESOLVED else Spec(slot, name, resolved)

    def section(self, value: Any, target: Any, keys: Keys) -> Any:
        if not isinstance(value, dict):
            return self.fail(keys, f"wants a mapping with {', '.join(signature(target).knobs)}; got {shown(value)}")
        resolved = self.knobs(value, signature(target), keys)
        return UNRESOLVED if resolved is UNRESOLVED else target(**resolved)

    def knobs(self, given: dict[Any, Any], expected: Signature, keys: Keys) -> Any:
        before = len(self.problems)
        owner = getattr(expected.target, "__ingot_section__", False)

        def hint() -> str:  # only for a message: finding the line reads and parses the part's file
            return "" if owner else f"{expected}     {expected.where}"

        meant: set[str] = set()  # by names that are misspelt: what these knobs are to be is not known either
        for name in given:
            if name not in expected.knobs:
                meant.update(difflib.get_close_matches(str(name), list(expected.knobs), n=1))
                whose = "this section" if owner else expected.target.__name__
                near = nearest(str(name), expected.knobs)
                self.fail(
                    (*keys, name) if owner else keys,
                    f"{whose} takes no {shown(str(name))}. {near or 'It takes: ' + (', '.join(expected.knobs) or 'nothing')}",
                    hint(),
                    "" if owner else str(name),
                )
        resolved = {}
        for name, (annotation, default) in expected.knobs.items():
            if name in given:
                result = self.value(given[name], annotation, (*keys, name))
            elif default is inspect.Parameter.empty:
                result = self.fail(keys, f"needs {name!r}: {wants(annotation)}", hint())
            elif name in meant:
                result = UNRESOLVED
            elif default is not None and (isinstance(default, str) or holds_parts(annotation)):
                result = self.value(default, annotation, (*keys, name))
            else:
                result = copy.copy(default)
            resolved[name] = result
        return UNRESOLVED if len(self.problems) > before and not self.partial else resolved

    def plain(self, value: Any, annotation: Any, keys: Keys) -> Any:
        try:
            adapter = _adapter(annotation)
            if isinstance(value, bool) and not _admits(annotation, bool):
                return self.fail(keys, f"wants {wants(annotation)}, got {shown(value)}")
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            inner = (
                (*keys, *(item for item in first["loc"] if isinstance(item, int)))
                if get_origin(annotation) in (list, dict, tuple)
                else keys
            )
            if first["type"] == "quantity":
                return self.fail(inner, str(first["msg"]))
            return self.fail(inner, f"wants {wants(annotation)}, got {shown(value)}")


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, str_strip_whitespace=True, allow_inf_nan=False))
    except (PydanticUserError, PydanticSchemaGenerationError):
        return TypeAdapter(annotation)


def slot_of(annotation: Any) -> str | None:
    """The slot of a ``Slot[...]`` annotation, else None."""
    if get_origin(annotation) is Annotated:
        return next((item.slot for item in annotation.__metadata__ if isinstance(item, SlotOf)), None)
    return None


def holds_parts(annotation: Any) -> bool:
    """Whether an annotation has a slot or a section anywhere inside."""
    return slot_of(annotation) is not None or hasattr(annotation, "__ingot_section__") or any(map(holds_parts, get_args(annotation)))


def _admits(annotation: Any, kind: type) -> bool:
    return annotation in (kind, Any) or any(
        _admits(item, kind) for item in get_args(annotation) if isinstance(item, type) or get_args(item)
    )


def nearest(word: Any, known: typing.Iterable[str]) -> str:
    """``Did you mean 'weight_decay'?`` or nothing."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"Did you mean {found[0]!r}?" if found else ""


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing", Any: "a value"}


def wants(annotation: Any) -> str:
    """An annotation in words: ``a number above 0``."""
    slot = slot_of(annotation)
    if slot:
        return f"a part of {slot} ({', '.join(list(parts_in(slot))[:8])})"
    if hasattr(annotation, "__ingot_section__"):
        return f"a mapping with {', '.join(signature(annotation).knobs)}"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if getattr(arguments[0], "__name__", "") == "Quantity":
            return "an amount with its unit"
        return wants(arguments[0]) + "".join(_limit(item) for item in annotation.__metadata__)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(wants(item) for item in arguments))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return f"a list, each {wants(arguments[0])}"
    if origin is dict:
        return f"a mapping to {wants(arguments[1])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: " + ", ".join(map(wants, arguments))
    return _NAMES.get(annotation) or getattr(annotation, "__name__", str(annotation)).lower()


def _limit(item: Any) -> str:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found = [f"{word} {getattr(item, key):g}" for key, word in words.items() if getattr(item, key, None) is not None]
    return " " + " and ".join(found) if found else ""
