"""Ingot: pre-training foundation models under a budget.

import ingot
run = ingot.build("text/gpt_tiny", ["stages.0.budget=5M tokens"])       # a shipped recipe, or a file
run.train()
run.evaluate(); run.generate("def "); run.export("folder")              # later: ingot.open_run("runs/gpt_tiny")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import build as build
    from .build.extend import extend as extend
    from .build.grow import transform as transform
    from .build.run import Run as Run
    from .build.run import open_run as open_run
    from .core.recipe import load as load_recipe

__all__ = ["Run", "build", "extend", "load_recipe", "open_run", "transform"]
_HOMES = {
    "extend": ("build.extend", "extend"),
    "Run": ("build.run", "Run"),
    "open_run": ("build.run", "open_run"),
    "load_recipe": ("core.recipe", "load"),
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used, so that ``import ingot`` stays instant."""
    from importlib import import_module

    if name in ("build", "transform"):  # packages that are their own front doors
        return import_module(f"ingot.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ingot' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(f"ingot.{module}"), attribute)
    globals()[name] = value
    return value
