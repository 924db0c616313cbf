"""A look at a module that is not a child of who holds it, so that its parameters stay where they are."""

from __future__ import annotations

from typing import Any

from torch import nn


class View:
    """Attributes and methods of a module, for a holder that is itself a module: ``self.embedding = View(embedding)``."""

    def __init__(self, module: nn.Module):
        self._held = (module,)

    def module(self) -> nn.Module:
        """The module itself, for what copies it."""
        return self._held[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also while being copied, when there is nothing to look at yet
            raise AttributeError(name)
        return getattr(self._held[0], name)
