"""The recipes that come with Ingot, by name: ``text/gpt_tiny`` is recipes/text/gpt_tiny.yaml, in a checkout and in an installed package."""

from __future__ import annotations

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path | None:
    """Where they lie: in the package, where building a wheel puts them, or in the checkout around it; None where neither is."""
    checkout = PACKAGE.parents[1]
    places = [PACKAGE / "recipes", *([checkout / "recipes"] if (checkout / "pyproject.toml").is_file() else [])]
    return next((place for place in places if place.is_dir()), None)


def names() -> list[str]:
    """``area/name`` of every shipped recipe."""
    place = folder()
    return [] if place is None else sorted(path.relative_to(place).with_suffix("").as_posix() for path in place.rglob("*.yaml"))


def find(path: Path) -> Path | None:
    """The file of a shipped recipe named ``text/gpt_tiny``, with or without ``.yaml`` and a leading ``recipes/``; None when it names none."""
    parts = path.parts[1:] if path.parts[:1] == ("recipes",) else path.parts
    place = folder()
    if place is None or path.is_absolute() or len(parts) < 2 or ".." in parts:
        return None
    found = place.joinpath(*parts)
    found = found if found.suffix == ".yaml" else found.with_name(found.name + ".yaml")
    return found if found.is_file() else None


def nearest(path: Path) -> str:
    """A sentence that names the shipped recipe a misspelt name may have meant, or nothing."""
    wanted = path.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    by_stem = {name.rpartition("/")[2]: name for name in names()}
    near = difflib.get_close_matches(wanted, names(), n=1, cutoff=0.7) or [
        by_stem[stem] for stem in difflib.get_close_matches(wanted, by_stem, n=1, cutoff=0.8)
    ]
    return f". Did you mean the shipped recipe {near[0]!r}?" if near else ""
