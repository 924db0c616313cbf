"""Parts: the constructor signature is the configuration, the file tree is the registry.

``src/ingot/<slot>/<name>.py`` holds exactly one ``@part`` (a class or a function). What stands before ``*`` in its signature is
wiring, passed by the caller by name; what stands after ``*`` are knobs, which a recipe may set. A slot is written with dots:
``nn.mixer`` is the folder ``nn/mixer``. Others add parts through the entry-point group ``ingot.<slot>``.

    class Transformer(nn.Module):
        def __init__(self, width: int, *, depth: Positive[int], mixer: Slot["nn.mixer"] = "attention"): ...

A knob annotated ``Slot["nn.mixer"]`` receives a Spec: the chosen part with its knobs checked, built by the parent with
``mixer.build(width=width, layer=i)``; build passes only the wiring that the part's signature names.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Interval

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")


@dataclass(frozen=True)
class SlotOf:
    """Marks an annotation as a nested part of the named slot."""

    slot: str


class _Subscript:
    def __init__(self, make: Callable[[Any], Any]):
        self.make = make

    def __getitem__(self, item: Any) -> Any:
        return self.make(item)


if typing.TYPE_CHECKING:
    Positive = Annotated[T, Gt(0)]
    NonNegative = Annotated[T, Ge(0)]
    Slot: Any
else:
    Positive = _Subscript(lambda kind: Annotated[kind, Gt(0)])
    NonNegative = _Subscript(lambda kind: Annotated[kind, Ge(0)])
    Slot = _Subscript(lambda slot: Annotated[Spec, SlotOf(slot)])
Fraction = Annotated[float, Interval(ge=0, le=1)]


def part(target: T) -> T:
    """Mark a class or function as the part of its file."""
    target.__ingot_part__ = True  # type: ignore[attr-defined]
    return target


@dataclass(frozen=True)
class Entry:
    """A part that can be found, not yet imported: a file of the tree, or an entry point of another package."""

    slot: str
    name: str
    path: Path | None = None
    entry_point: EntryPoint | None = None

    @cached_property
    def summary(self) -> str:
        """First line of the file's docstring, read without importing it; the package name for an entry point."""
        if self.path is None:
            assert self.entry_point is not None
            return f"from {self.entry_point.dist.name if self.entry_point.dist else self.entry_point.value}"
        with open(self.path, encoding="utf-8") as file:
            first = file.readline().strip()
        found = re.fullmatch(r'[rR]?"""(.*?)(?:""")?', first)
        return found[1].strip() if found else ""

    def load(self) -> Callable[..., Any]:
        """Import the part. Raises LookupError when its file does not hold exactly one."""
        if self.entry_point is not None:
            return typing.cast(Callable[..., Any], self.entry_point.load())
        module = importlib.import_module(f"ingot.{self.slot}.{self.name}")
        found = [
            value
            for value in vars(module).values()
            if getattr(value, "__ingot_part__", False) and getattr(value, "__module__", "") == module.__name__
        ]
        if len(found) != 1:
            raise LookupError(f"{self.path} holds {len(found)} parts, wants exactly one @part")
        return typing.cast(Callable[..., Any], found[0])


@cache
def _installed() -> Any:
    """What all installed packages offer: read once, since it opens a file per package."""
    return entry_points()


@cache
def parts_in(slot: str) -> dict[str, Entry]:
    """Every part of a slot by name, sorted; imports nothing. An installed package cannot replace a part of the tree."""
    folder = ROOT.joinpath(*slot.split("."))
    found = {point.name: Entry(slot, point.name, entry_point=point) for point in _installed().select(group=f"ingot.{slot}")}
    if folder.is_dir():
        found |= {path.stem: Entry(slot, path.stem, path=path) for path in folder.glob("*.py") if not path.stem.startswith("_")}
    return dict(sorted(found.items()))


@cache
def load(slot: str, name: str) -> Callable[..., Any]:
    """The part itself. Raises KeyError for an unknown name."""
    return parts_in(slot)[name].load()


@dataclass(frozen=True)
class Signature:
    """A part's wiring and knobs with evaluated annotations. default is inspect.Parameter.empty where the knob must be set."""

    target: Callable[..., Any]
    wiring: dict[str, inspect.Parameter]
    knobs: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        knobs = (name if default is inspect.Parameter.empty else f"{name}={default!r}" for name, (_, default) in self.knobs.items())
        return f"{self.target.__name__}({', '.join(knobs)})"

    @cached_property
    def where(self) -> str:
        """``src/ingot/optim/lion.py:14``, relative to the checkout where there is one."""
        code = inspect.unwrap(self.target)
        path = Path(inspect.getsourcefile(code) or "?")
        line = inspect.getsourcelines(code)[1]
        for base in (ROOT.parent.parent, ROOT.parent):
            if path.is_relative_to(base) and (base == ROOT.parent or (base / "pyproject.toml").exists()):
                return f"{path.relative_to(base)}:{line}"
        return f"{path}:{line}"


@cache
def signature(target: Callable[..., Any]) -> Signature:
    """Read a part's (or a section's) signature: parameters before ``*`` are wiring, keyword-only ones are knobs."""
    source = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    wanted = [name for name, item in inspect.signature(source).parameters.items() if item.kind is item.KEYWORD_ONLY]
    # Only knobs are evaluated: wiring may be annotated with types imported for type checkers alone.
    annotations = {name: value for name, value in inspect.unwrap(source).__annotations__.items() if name in wanted}
    hints = typing.get_type_hints(
        SimpleNamespace(__annotations__=annotations), globalns=getattr(source, "__globals__", {}), include_extras=True
    )
    wiring, knobs = {}, {}
    for name, parameter in inspect.signature(source).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            factory = getattr(getattr(target, "__dataclass_fields__", {}).get(name), "default_factory", dataclasses.MISSING)
            knobs[name] = (hints.get(name, Any), parameter.default if factory is dataclasses.MISSING else factory())
        else:
            wiring[name] = parameter
    return Signature(target, wiring, knobs)


@dataclass(frozen=True)
class Spec:
    """A part chosen by a recipe: slot, name, and every knob checked and complete (defaults filled in, nested parts as Specs)."""

    slot: str
    name: str
    knobs: dict[str, Any]

    @property
    def target(self) -> Callable[..., Any]:
        """The class or function."""
        return load(self.slot, self.name)

    def build(self, **wiring: Any) -> Any:
        """Call the part with its knobs and with that wiring which its signature names. A wiring it needs and is not given: TypeError."""
        wanted = signature(self.target).wiring
        missing = [name for name, parameter in wanted.items() if name not in wiring and parameter.default is parameter.empty]
        if missing:
            raise TypeError(f"{self.slot} {self.name!r} needs wiring {missing}, the caller gives {sorted(wiring)}")
        return self.target(**{name: wiring[name] for name in wanted if name in wiring}, **self.knobs)

    def data(self) -> dict[str, Any]:
        """The Spec as plain recipe data, defaults included."""
        return {"name": self.name} | {name: plain(value) for name, value in self.knobs.items()}

    def walk(self, path: str = "") -> typing.Iterator[tuple[str, Spec]]:
        """This Spec and every nested one, with dotted paths."""
        yield path, self
        for name, value in self.knobs.items():
            yield from walk_specs(value, f"{path}.{name}" if path else name)


def walk_specs(value: Any, path: str = "") -> typing.Iterator[tuple[str, Spec]]:
    """Every Spec inside a value of nested dicts, lists, sections and Specs."""
    if isinstance(value, Spec):
        yield from value.walk(path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from walk_specs(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk_specs(item, f"{path}.{index}" if path else str(index))
    elif hasattr(type(value), "__ingot_section__"):
        for name in knob_names(value):
            yield from walk_specs(getattr(value, name), f"{path}.{name}" if path else name)


def knob_names(value: Any) -> list[str]:
    """The fields of a section's instance."""
    target: Callable[..., Any] = type(value)
    return list(signature(target).knobs)


def plain(value: Any) -> Any:
    """Resolved values as the plain data a recipe file could hold."""
    from .quantities import Quantity

    if isinstance(value, Spec):
        return value.data()
    if isinstance(value, Quantity | Path):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(type(value), "__ingot_section__"):
        return {name: plain(getattr(value, name)) for name in knob_names(value)}
    return value


def section(target: type[T]) -> type[T]:
    """Mark a keyword-only dataclass as a fixed section of a recipe: its fields are knobs, it is not chosen by name."""
    target.__ingot_section__ = True  # type: ignore[attr-defined]
    return target
