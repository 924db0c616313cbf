r"""Short sequences first, longer ones later.   Li, Zhang & He 2022, arXiv:2108.06084; Zhu et al. 2025 (SkyLadder), arXiv:2503.15450.

    L = the longest T / k <= share T for a whole k, at least `shortest`        (B, T) -> (B k, L)

Every row is cut into k pieces of L tokens, each a row of its own: nothing is read twice or thrown away, so tokens, batch and position
in the data are those of the uncut run, and what a schedule changes is how far a token may look back. Cutting comes after the
objective has prepared the row: a piece's last token still predicts the next one, so every unit stays scored. Positions start anew
in a piece, since it is a segment of its own. ``share`` is meant to be scheduled:

    hooks: [{name: sequence_length, shortest: 64}]
    schedule: {hooks.sequence_length.share: {name: constant, warmup: 60%}}      rises from 0 to 1 over 60 % of the budget

DEPARTS: Li et al. drop what is beyond L; SkyLadder keeps the row and masks attention, which computes the same as cutting but for
boundaries that move with the position, at the price of a long row. Pieces of a row share its number, so they draw the same dropout.

State: none (a function of progress).   Cost: attention pairs fall from T^2 / 2 to T L / 2; all else is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..core.errors import UserError
from ..core.parts import Positive, part

Micro = dict[str, Tensor]
BY_ROW = {"rows", "source", "weights"}


@part
class SequenceLength:
    """share: length over that of the whole row, 1 for no cut; schedule it. shortest: tokens that a piece has at least."""

    def __init__(self, sequence: int = 0, *, share: Positive[float] = 1.0, shortest: Positive[int] = 64):
        self.share, self.shortest, self.length = share, shortest, sequence

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        run = context.get("run")
        if knobs["share"] > 1:
            yield f"share is of the row's length, {knobs['share']:g} is more than all of it"
        if run is None:
            return
        for index, stage in enumerate(run.stages):
            if not any(hook.name == "sequence_length" for hook in stage.hooks):
                continue
            if knobs["share"] == 1 and "hooks.sequence_length.share" not in stage.schedule:
                yield f"share 1 cuts nothing: schedule hooks.sequence_length.share in stage {index}, or set it lower"
            _, objective = run.objective_at(index)
            if not hasattr(objective.target, "token_losses"):
                yield f"objective {objective.name!r} does not score position by position, so its rows cannot be cut"
            length = (stage.data or run.data).sequence
            if knobs["shortest"] >= length:
                yield f"pieces of {knobs['shortest']} tokens or more cannot be cut from rows of {length}"

    def pieces(self, length: int) -> int:
        """Into how many pieces a row of this length is cut now."""
        counts = [count for count in range(1, max(1, length // self.shortest) + 1) if length % count == 0]
        return next((count for count in counts if length // count <= self.share * length), counts[-1])

    def cost(self, state: Any) -> str:
        """What the coming step's FLOPs depend on beside the shapes of the window."""
        return f"cut{self.pieces(self.length)}" if self.length else f"share{self.share:.6g}"

    def select(self, state: Any, window: list[Micro]) -> list[Micro]:
        """The same tokens in shorter rows."""
        self.length = window[0]["tokens"].shape[1]
        count = self.pieces(self.length)
        return window if count == 1 else [self._cut(micro, count) for micro in window]

    def _cut(self, micro: Micro, count: int) -> Micro:
        rows, length = micro["tokens"].shape
        if "targets" not in micro or micro["targets"].shape != (rows, length):
            raise UserError("sequence_length: the objective's targets are not one for each token, so its rows cannot be cut")
        cut: Micro = {}
        for name, value in micro.items():
            if not value.dim():
                cut[name] = value
            elif value.dim() > 1 and value.shape[1] == length:
                cut[name] = value.reshape(rows * count, length // count, *value.shape[2:])
            elif name in BY_ROW:
                cut[name] = value.repeat_interleave(count, 0)
        left_out = sorted(set(micro) - set(cut) - {"units"})
        if left_out:
            raise UserError(f"sequence_length: {', '.join(left_out)} belongs to whole rows, which cannot be cut")
        if "positions" in cut:
            first = cut["positions"][:, :1]
            begun = cut["segments"] == cut["segments"][:, :1] if "segments" in cut else first >= 0
            cut["positions"] = cut["positions"] - first * begun
        return cut | {"units": (cut["targets"] >= 0).sum(dim=1)}

    def stepped(self, state: Any, log: dict[str, Any]) -> None:
        """The length trained on, for the ledger."""
        if self.length:
            log["hooks"] = log.get("hooks", {}) | {"sequence_length.length": self.length // self.pieces(self.length)}
