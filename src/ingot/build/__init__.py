"""The composition root: a recipe becomes a run. The package is its own front door: ``ingot.build(recipe)`` is build.run.build."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See ingot.build.run.build."""
        from .run import build

        return build(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
