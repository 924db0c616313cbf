"""Recipe files: YAML with at most one parent, ``key=value`` overrides and a ``tiny`` overlay; data, never code.

load()     reads a file into a plain tree and remembers the file and line of every key.
resolve()  checks a tree against an annotation (a section, a slot, any type pydantic knows) and gathers every problem.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from . import shipped
from .errors import Problem, UserError, shown

Keys = tuple[str | int, ...]
LARGEST = 256 * 1024  # bytes of a recipe file


def keys_of(path: str) -> Keys:
    """A dotted path as keys: ``stages.0.batch``."""
    return tuple(int(word) if word.isascii() and word.isdigit() and len(word) < 10 else word for word in path.split("."))


@dataclass
class Recipe:
    """A recipe as written: `tree` is plain data after parent, overlay and overrides; `marks` tells where each key was set."""

    tree: dict[str, Any]
    marks: dict[Keys, str] = field(default_factory=dict)
    overridden: set[Keys] = field(default_factory=set)
    path: Path | None = None

    def origin(self, keys: Keys) -> str:
        """``file.yaml:12`` of a key, or of its nearest parent that a file set."""
        for end in range(len(keys), -1, -1):
            if keys[:end] in self.marks:
                return self.marks[keys[:end]]
        return self.path.name if self.path else "recipe"

    def by_command_line(self, keys: Keys) -> bool:
        return any(keys[:end] in self.overridden for end in range(1, len(keys) + 1))


_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_TREES = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of a float (``1e-3``), no yes/no/on/off booleans, no anchors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not part of a recipe", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$", re.I
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.I), list("tTfF"))


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would take for a number, such as a run named 1e-3."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse(text: str, name: str) -> Recipe:
    """Read one YAML document with line marks. Raises UserError naming file and line."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        recipe = Recipe({})
        if node is not None:
            value = _convert(node, loader, (), recipe.marks, name)
            if not isinstance(value, dict):
                raise UserError([Problem("", "a recipe is a mapping of keys to values", f"{name}:1")])
            recipe.tree = value
        return recipe
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError([Problem("", f"not valid YAML: {error.problem or error}", f"{name}:{line}")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError([Problem("", f"not valid YAML: {str(error).splitlines()[0]}", name)]) from None
    except RecursionError:
        raise UserError([Problem("", "nested too deeply", name)]) from None
    finally:
        if loader is not None:
            loader.dispose()


def _convert(node: yaml.Node, loader: _Loader, keys: Keys, marks: dict[Keys, str], name: str) -> Any:
    origin = f"{name}:{node.start_mark.line + 1}"
    if keys and keys not in marks:
        marks[keys] = origin
    if isinstance(node, yaml.CollectionNode) and node.tag not in _TREES:
        raise UserError([Problem(".".join(map(str, keys)), f"a recipe holds plain data, not {shown(node.tag)}", origin)])
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            key_origin = f"{name}:{key_node.start_mark.line + 1}"
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise UserError([Problem(".".join(map(str, keys)), f"keys are words, got {shown(key)}", key_origin)])
            if key in result:
                raise UserError([Problem(".".join(map(str, (*keys, key))), "is written twice", key_origin)])
            marks[(*keys, key)] = key_origin
            result[key] = _convert(value_node, loader, (*keys, key), marks, name)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, loader, (*keys, index), marks, name) for index, item in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    if node.tag not in _PLAIN:
        raise UserError([Problem(".".join(map(str, keys)), f"a recipe holds plain data, not {node.tag}", origin)])
    value = loader.construct_object(node)
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError([Problem(".".join(map(str, keys)), "holds half of a surrogate pair, which is not text", origin)])
    return value


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = (), *, tiny: bool = False) -> Recipe:
    """Read a recipe file, its parents, optionally its ``tiny`` overlay, and ``key=value`` overrides, in that order.

    path: a file; where there is none, the name of a shipped recipe, such as ``text/gpt_tiny``.
    Raises UserError for a missing or malformed file, a cycle of parents, or an override that names no place.
    """
    place = _there(Path(path))
    recipe = _load_chain(place, ())
    recipe.path = place
    overlay = recipe.tree.pop("tiny", None)
    if tiny:
        if not isinstance(overlay, dict):
            raise UserError([Problem("tiny", "this recipe has no tiny overlay", recipe.path.name)])
        marks = {keys[1:]: origin for keys, origin in recipe.marks.items() if keys[:1] == ("tiny",)}
        recipe.tree = merge_keys(recipe.tree, overlay)
        recipe.marks |= {keys: origin for keys, origin in marks.items() if keys}
    recipe.tree.setdefault("name", recipe.path.stem + ("_tiny" if tiny and not recipe.path.stem.endswith("_tiny") else ""))
    problems = [problem for item in overrides if (problem := _override(recipe, item))]
    if problems:
        raise UserError(problems)
    return recipe


def _there(path: Path, name: Path | None = None) -> Path:
    """The file at the path; where there is none, the shipped recipe of that name, or the path again."""
    try:
        return path if path.is_file() else shipped.find(name or path) or path
    except (OSError, ValueError):
        return path


def _load_chain(path: Path, below: tuple[Path, ...]) -> Recipe:
    name = path.name
    place = Path(os.path.realpath(path))
    if place in below:
        raise UserError([Problem("based_on", "the parents of this recipe form a circle", name)])
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UserError([Problem("", f"is larger than {LARGEST:,} bytes, which no recipe is", str(path))])
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError([Problem("", f"no recipe file at {path}{shipped.nearest(path)}")]) from None
    except UnicodeDecodeError as error:
        raise UserError([Problem("", f"is not UTF-8 text (byte {error.start})", name)]) from None
    except (OSError, ValueError) as error:
        raise UserError([Problem("", f"cannot be read: {getattr(error, 'strerror', None) or error}", str(path))]) from None
    child = parse(text, name)
    parent_name = child.tree.pop("based_on", None)
    if parent_name is None:
        return child
    if not isinstance(parent_name, str):
        raise UserError([Problem("based_on", f"wants the file name of one recipe, got {shown(parent_name)}", child.origin(("based_on",)))])
    parent_path = _there(path.parent / parent_name, Path(parent_name))
    if not parent_path.is_file():
        raise UserError([Problem("based_on", f"no recipe file at {path.parent / parent_name}", child.origin(("based_on",)))])
    parent = _load_chain(parent_path, (*below, place))
    lower, upper = parent.tree.get("tiny"), child.tree.get("tiny")
    for named in (parent.tree, lower):
        if isinstance(named, dict):
            named.pop("name", None)
    tree = merge_keys(parent.tree, child.tree)
    if isinstance(lower, dict) and isinstance(upper, dict):
        tree["tiny"] = merge_keys(lower, upper)
    return Recipe(tree, parent.marks | child.marks)


def merge(base: Any, over: Any) -> Any:
    """`over` onto `base`: mappings merge key by key, everything else replaces.

    A mapping that names another part replaces the old one whole; a bare part name grows into a mapping; a mapping with
    integer keys onto a list changes those items and leaves the others.
    """
    if isinstance(over, dict) and isinstance(base, str) and "name" not in over:
        base = {"name": base}
    if isinstance(over, dict) and isinstance(base, list) and over and all(isinstance(key, int) for key in over):
        if any(not 0 <= key < len(base) for key in over):
            return over
        return [merge(item, over[index]) if index in over else item for index, item in enumerate(base)]
    if isinstance(over, str) and isinstance(base, dict) and base.get("name") == over:
        return base
    if not (isinstance(base, dict) and isinstance(over, dict)) or over.get("name", base.get("name")) != base.get("name"):
        return over
    return merge_keys(base, over)


def merge_keys(base: dict[Any, Any], over: dict[Any, Any]) -> dict[Any, Any]:
    """Two mappings key by key; for whole recipes, whose `name` is not that of a part."""
    return {key: merge(base[key], over[key]) if key in base and key in over else over.get(key, base.get(key)) for key in base | over}


def _override(recipe: Recipe, item: str) -> Problem | None:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        return Problem(shown(item).strip("'"), "an override is written key=value", "command line")
    keys = keys_of(key.strip())
    if len(keys) > 50:
        return Problem(shown(key), "no recipe is nested so deeply", "command line")
    keys = _as_written(recipe.tree, keys)
    try:
        tree = parse(f"value: {text}" if text.strip() else "value: null", "command line").tree
        value = tree["value"] if len(tree) == 1 else text
    except UserError:
        value = text
    patch: Any = value
    for word in reversed(keys):
        patch = {word: patch}
    probe: Any = recipe.tree
    for word in keys:
        if isinstance(probe, list) and not (isinstance(word, int) and word < len(probe)):
            return Problem(key, f"there is no item {word}, the list has {len(probe)}", "command line")
        probe = probe[int(word)] if isinstance(probe, list) else probe.get(word, {}) if isinstance(probe, dict) else {}
    recipe.tree = merge_keys(recipe.tree, patch)
    recipe.overridden.add(keys)
    return None


def _as_written(tree: Any, keys: Keys) -> Keys:
    """Words joined again that the recipe has as one key: those of ``schedule.hooks.ema.decay.final``, which are three."""
    found: list[str | int] = []
    while keys:
        joined = [".".join(map(str, keys[:end])) for end in range(len(keys), 1, -1)]
        whole = next((key for key in joined if isinstance(tree, dict) and key in tree), None)
        found.append(keys[0] if whole is None else whole)
        keys = keys[1:] if whole is None else keys[whole.count(".") + 1 :]
        try:
            tree = tree[found[-1]]
        except (TypeError, LookupError):
            tree = None
    return tuple(found)


def digest(tree: Any) -> str:
    """Content hash of plain data, independent of key order."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two plain trees differ, one line per leaf: ``stages.0.batch: 32k tokens -> 64k tokens``."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys(), key=str)
            for line in difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for index, pair in enumerate(zip(old, new, strict=True)) for line in difference(*pair, f"{path}.{index}")]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def dump(tree: Any) -> str:
    """Plain data as YAML text in the order given; parse gives it back."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
