r"""Nested sub-networks: one model trained so that its first blocks, and the first part of every hidden layer, are models of their own.

SortedNet: Valipour et al. 2023, arXiv:2309.00255, section 3; depth alone: Sorted fine-tuning, arXiv:2309.08968.

    (d, s) drawn evenly for every row from depths x shares        h = norm(block_d ( ... block_1(x)))
    feed-forward of width F: only its first s F hidden units        loss: the inner objective's, on that row

All sub-networks share the final norm and the head. In evaluation the whole network is used; the loss of every sub-network stands beside it
(``scores``), and ``only(depth, share)`` makes one of them the model.

DEPARTS: the paper draws one sub-network per micro-batch; drawn per row, from the row's number, the gradient depends neither on
accumulation nor on ranks, and every step trains many of them.

State: none.   Cost: a row that leaves early does not run the later blocks; hidden units that are left out are computed and set to zero.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import RunError
from ..core.measured import measured
from ..core.parts import Positive, Slot, Spec, part
from ..nn.context import Context
from ..nn.objectives import inside
from ..nn.side import Gathered
from ..ops.random import hash_uniform, salt_of
from ._several import wiring_of

SALT = salt_of("nested/choose")


class Prefix:
    """A pre-hook on a feed-forward's last projection: hidden units beyond each row's count are zero.

    It stays on the module, since recomputed activations meet it again in backward, and is idle under another objective.
    """

    def __init__(self) -> None:
        self.counts_B: Tensor | None = None
        self.active: Callable[[bool], bool] = lambda training: False

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.counts_B is None or not self.active(module.training):
            return None
        units_F = torch.arange(given[0].shape[-1], device=given[0].device)
        return (given[0] * (units_F < self.counts_B[:, None, None]), *given[1:])


@part
class Nested(nn.Module):
    """objective: what is trained. depths: of sub-networks beside the whole. shares: of hidden layers beside 1."""

    def __init__(
        self,
        width: int,
        vocabulary: int | None,
        linear: Spec,
        specials: dict[str, int],
        fields: Any = None,
        embedding: Any = None,
        encoder: Any = None,
        decoder_width: int = 0,
        tower_widths: Any = None,
        sequence: int = 0,
        frozen: Any = None,
        *,
        objective: Slot["objective"] = "causal_lm",
        depths: list[Positive[int]] = [],
        shares: list[Positive[float]] = [],
    ):
        super().__init__()
        self.objective = objective.build(**wiring_of(locals()))
        self.depths, self.shares = sorted(set(depths)), sorted({*shares, 1.0})
        self.chosen: tuple[int | None, float] | None = None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        run = context.get("run")
        inner, graph = knobs["objective"], getattr(run, "model", None)
        if getattr(inner.target, "couples_batch", False):
            yield f"{inner.name} compares rows, which would come from different sub-networks"
        for each in inside(inner):
            if each.knobs.get("late"):
                yield "mask tokens that join late and rows that leave early do not go together; set late to 0"
            if getattr(each.target, "splits_encoder", False):
                yield f"{each.name} runs the encoder's blocks by itself, past any sub-network; nest another objective"
        if any(share > 1 for share in knobs["shares"]):
            yield "shares are parts of the hidden layer, at most 1"
        if not knobs["depths"] and not knobs["shares"]:
            yield "no sub-network is named; set depths or shares"
        if graph is None:
            return
        if knobs["shares"] and not any(
            one is not None and one.knobs is knobs for one in (graph.objective, *(s.objective for s in run.stages))
        ):
            yield "shares of hidden layers want nested as the outermost objective; leave shares out, or put the others inside of it"
        if not hasattr(graph.encoder.target, "through"):
            yield f"nested sub-networks need an encoder whose blocks can be run in part; {graph.encoder.name!r} cannot"
        elif knobs["depths"] and max(knobs["depths"]) >= graph.encoder.knobs["depth"]:
            yield f"a sub-network of {max(knobs['depths'])} blocks is not smaller than the encoder of {graph.encoder.knobs['depth']}"
        feedforward = graph.encoder.knobs.get("feedforward")
        if knobs["shares"] and feedforward is not None and not hasattr(feedforward.target, "size"):
            yield f"the feedforward {feedforward.name!r} has no one hidden layer to take a share of; leave shares out"
        if knobs["shares"] and run is not None and run.compile is True:
            yield "shares of hidden layers are not followed by compiled blocks; set compile: false, or leave shares out"

    @staticmethod
    def splits(knobs: dict[str, Any], depth: int) -> Iterable[int]:
        """After which blocks rows may leave."""
        return list(knobs["depths"])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("objective", "side"):  # side: the inner module leaves it itself
                raise
            return getattr(self.objective, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "output_scale":  # set by initial values; it is the head's
            self.objective.output_scale = value
        else:
            super().__setattr__(name, value)

    @property
    def subnetworks(self) -> list[tuple[int | None, float]]:
        """(depth, share of hidden layers) of every network that is trained; depth None is all blocks."""
        return [(depth, share) for depth in (*self.depths, None) for share in self.shares]

    @contextmanager
    def only(self, depth: int | None = None, share: float = 1.0) -> Iterator[None]:
        """Make one sub-network the whole model, in training and evaluation."""
        before, self.chosen = self.chosen, (depth, share)
        try:
            yield
        finally:
            self.chosen = before

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        prepared: dict[str, Tensor] = self.objective.prepare(batch)
        return prepared

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inner losses; in training each row's are those of the sub-network it draws."""
        losses: dict[str, Tensor] = self.objective(_Part(model, self), batch)
        return losses

    def logits(self, model: nn.Module, h: Tensor) -> Tensor:
        found: Tensor = self.objective.logits(model, h)
        return found

    def token_losses(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.objective.token_losses(_Part(model, self), batch)
        return found

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Loss and units of every smaller sub-network, (B,) each, under ``loss_depth_2_share_0.5`` and the like."""
        found = {}
        for depth, share in self.subnetworks:
            if depth is None and share == 1.0:
                continue
            name = "loss" + (f"_depth_{depth}" if depth is not None else "") + (f"_share_{share:g}" if share < 1 else "")
            with self.only(depth, share):
                found[name] = self.measured(model, batch)[1:]
        return found

    def measured(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[str, Tensor, Tensor]:
        """The inner objective's."""
        return measured(self.objective, _Part(model, self), batch)

    def _draw(self, batch: dict[str, Tensor]) -> Tensor | None:
        """(B,) index into subnetworks, from the row's number alone; None for the whole network."""
        rows = batch["rows"]
        if self.chosen is not None:
            return torch.full_like(rows, self.subnetworks.index(self.chosen))
        if not self.training or hasattr(rows, "fake_mode"):  # planned by shapes alone: the whole network takes most
            return None
        drawn = hash_uniform(rows, 1, batch["key"], SALT)[:, 0].to(rows.device)
        return (drawn.double() * len(self.subnetworks)).long().clamp(max=len(self.subnetworks) - 1)

    def cost(self, window: Sequence[dict[str, Tensor]]) -> str:
        """How many rows go on behind each depth, to a sixteenth of the window: what its FLOPs depend on beside shapes."""
        on = []
        for micro in window:
            choice_B = self._draw(micro)
            if choice_B is None:
                return ""
            depth_B = torch.tensor([math.inf if depth is None else depth for depth, _ in self.subnetworks])[choice_B.cpu()]
            on.append([max(1, int((depth_B > depth).sum())) for depth in self.depths])  # one row always does
        sixteenth = max(1, sum(len(micro["rows"]) for micro in window) // 16)
        return ".".join(str(round(sum(counts) / sixteenth)) for counts in zip(*on, strict=True))

    def encoded(self, model: Any, batch: dict[str, Tensor], causal: bool, hide: Tensor | None = None) -> tuple[Tensor, Context]:
        """Encoder outputs, every row's after as many blocks as it drew."""
        choice_B = self._draw(batch)
        if choice_B is None:
            found: tuple[Tensor, Context] = model.encoded(batch, causal, hide=hide)
            return found
        x_BTD, context = model.embed(batch, causal, hide=hide)
        whole, stack, made = context, model.encoder, self.subnetworks
        depth_B = torch.tensor([stack.depth if depth is None else depth for depth, _ in made], device=x_BTD.device)[choice_B]
        left_B, h_BTD, done = torch.arange(len(depth_B), device=x_BTD.device), torch.zeros_like(x_BTD), 0
        sides = Gathered(stack)
        for depth in (*self.depths, stack.depth):
            self._cut(model, done, depth, choice_B[left_B])
            x_BTD = stack.through(x_BTD, context, done, depth)
            sides.take(left_B, None if context.rows_B is None else context.rows_B >= 0, len(depth_B))
            ends = depth_B[left_B] == depth
            rows, stays = left_B[ends], (~ends).nonzero()[:, 0]
            normed = x_BTD[ends] if stack.norm is None else stack.norm(x_BTD[ends])
            h_BTD = h_BTD.index_add(0, rows, normed.to(h_BTD.dtype))
            if depth == stack.depth:
                break
            if not len(stays):  # every rank must run every block: one row goes on, and counts for nothing
                stays, depth_B = torch.zeros(1, dtype=torch.int64, device=x_BTD.device), torch.zeros_like(depth_B)
                context = replace(context, rows_B=None if context.rows_B is None else torch.full_like(context.rows_B, -1))
            left_B, x_BTD, context, done = left_B[stays], x_BTD[stays], _rows(context, stays), depth
        sides.leave()
        return h_BTD + 0 * x_BTD.sum(), whole

    def _cut(self, model: Any, start: int, end: int, choice_B: Tensor) -> None:
        """Tell the feed-forwards of some blocks how many hidden units each row has."""
        if self.shares == [1.0]:
            return
        if model.objective is not self:
            raise RunError("nested must be the outermost objective where it takes shares of hidden layers")
        mine, root = weakref.ref(self), weakref.ref(model)

        def active(training: bool) -> bool:
            nested, whole = mine(), root()
            return nested is not None and whole is not None and whole.objective is nested and (training or nested.chosen is not None)

        for block in model.encoder.blocks[start:end]:
            down = block.feedforward.down
            prefix = next((hook for hook in down._forward_pre_hooks.values() if type(hook) is Prefix), None)
            if prefix is None:
                prefix = Prefix()
                down.register_forward_pre_hook(prefix)
            # A hair below, so that an exact multiple that floating point puts above itself is not rounded up.
            counts = [math.ceil(share * down.inputs - 1e-9) for _, share in self.subnetworks]
            prefix.active, prefix.counts_B = active, torch.tensor(counts, device=choice_B.device)[choice_B]


class _Part:
    """The model as the inner objective sees it: its encoder is that of the rows' sub-networks; a further tower is whole."""

    def __init__(self, model: Any, nested: Nested):
        self._model, self._nested = model, nested

    def encoded(self, batch: dict[str, Tensor], causal: bool, *, tower: Any = None, hide: Tensor | None = None) -> tuple[Tensor, Context]:
        if tower is not None:
            found: tuple[Tensor, Context] = self._model.encoded(batch, causal, tower=tower, hide=hide)
            return found
        return self._nested.encoded(self._model, batch, causal, hide)

    def encode(self, batch: dict[str, Tensor], causal: bool, *, tower: Any = None, hide: Tensor | None = None) -> Tensor:
        return self.encoded(batch, causal, tower=tower, hide=hide)[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _rows(context: Context, index: Tensor) -> Context:
    """The context of some rows."""

    def some(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[index]

    return replace(
        context,
        shared={},
        positions_BT=some(context.positions_BT),
        segments_BT=some(context.segments_BT),
        rows_B=some(context.rows_B),
        ids_BT=some(context.ids_BT),
        hidden=None,
    )
