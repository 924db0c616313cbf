"""Packages that are called by their own name: ``ingot.build(recipe)``, ``ingot.transform(run, transforms)``."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def answer_calls(package: str, module: str, function: str) -> None:
    """Let an imported package be called as a function of a module, which is imported at the first call."""

    class Callable(ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return getattr(import_module(module), function)(*arguments, **options)

    sys.modules[package].__class__ = Callable
