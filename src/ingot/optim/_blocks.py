"""AdamW on some blocks of the model at a time: what BAdam and LISA share.

A block is everything below one entry of a module list named ``blocks`` (a parameter ``encoder.blocks.3.mixer.query.weight`` belongs
to ``encoder.blocks.3``); what is outside of all blocks (embedding, final norm, head) is the block "rest".

A period is `every` steps. The blocks of a period are a function of its number and the seed; its number follows from the steps made,
which every group holds as ``turn``, so a resumed run stands where it stood. While the closure runs, all other weights want no
gradient: none is computed for them, and backward ends at the lowest block that is trained. At the end of a period the state of every
block but those in ``kept`` is dropped.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ._groups import Group, call
from .adamw import AdamW

REST = "rest"
_BLOCK = re.compile(r"^(.*?\bblocks\.\d+)\.")


class BlockAdamW(AdamW):
    """Subclasses give ``chosen``. every: steps of a period. seed: of the choice."""

    around_closure = "freezes weights while the gradient is taken"
    kept: frozenset[str] = frozenset()  # blocks whose state lives on

    def __init__(self, params: Iterable[Any], *, every: int, seed: int, **knobs: Any):
        super().__init__(params, **knobs)
        self.defaults |= {"every": every, "seed": seed}
        for group in self.param_groups:
            group["turn"] = 0

    def chosen(self, period: int, blocks: list[str]) -> set[str]:
        """The blocks to train in a period, out of all: "rest" first, then in the order of the model."""
        raise NotImplementedError

    def blocks(self) -> list[str]:
        """Every block, "rest" first."""
        found = {block_of(name) for group in self.param_groups for name in group["names"]}
        return sorted(found, key=lambda name: (name != REST, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]))

    @property
    def turn(self) -> int:
        """Steps made so far."""
        return int(self.param_groups[0]["turn"])

    def active(self) -> set[str]:
        """The blocks that the coming step trains."""
        return self.chosen(self.turn // self.defaults["every"], self.blocks())

    @property
    def phase(self) -> str:  # type: ignore[override]
        return "/" + ",".join(sorted(self.active()))

    def stand_at_dearest(self) -> None:
        """Go to the period, of as many as there are blocks, that trains the most weights: the one that a forecast must make room for."""
        blocks = self.blocks()
        sizes = {block: sum(weight.numel() for _, weights in self._of({block}) for weight in weights) for block in blocks}
        period = max(range(len(blocks)), key=lambda number: sum(sizes[block] for block in self.chosen(number, blocks)))
        for group in self.param_groups:
            group["turn"] = period * self.defaults["every"]

    def init_state(self) -> None:
        """Create the state of the blocks that the coming step trains."""
        for group, weights in self._of(self.active()):
            for weight in weights:
                self.ensure_state(weight, group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of the period's blocks; the closure is called once, with all other weights frozen."""
        active = self.active()
        resting = [weight for _, weights in self._of(set(self.blocks()) - active) for weight in weights]
        self._drop(resting)
        with _frozen(resting):
            loss = call(closure)
        for group, weights in self._of(active):
            ready = [weight for weight in weights if weight.grad is not None]
            for weight in ready:
                self.ensure_state(weight, group)
            if ready:
                self.update(group, ready)
        for group in self.param_groups:
            group["turn"] += 1
        if self.turn % self.defaults["every"] == 0:
            self._drop([weight for _, weights in self._of(active - self.kept) for weight in weights])
        return loss

    def _of(self, blocks: set[str]) -> Iterator[tuple[Group, list[Tensor]]]:
        """The weights of some blocks, by group."""
        for group in self.param_groups:
            yield group, [weight for name, weight in zip(group["names"], group["params"]) if block_of(name) in blocks]

    def _drop(self, weights: list[Tensor]) -> None:
        for weight in weights:
            self.state.pop(weight, None)


@contextmanager
def _frozen(weights: list[Tensor]) -> Iterator[None]:
    """Within, the weights want no gradient; those that wanted one want it again after."""
    others = [weight for weight in weights if weight.requires_grad]
    try:
        for weight in others:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in others:
            weight.requires_grad_(True)


def block_of(name: str) -> str:
    """The block that a parameter belongs to."""
    found = _BLOCK.match(name)
    return found[1] if found else REST


def shuffled(blocks: list[str], seed: int, number: int) -> list[str]:
    """The blocks in an order that is a function of seed and number alone."""
    return random.Random(f"{seed}/{number}").sample(blocks, len(blocks))
