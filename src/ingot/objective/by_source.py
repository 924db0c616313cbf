r"""Every source of a mixture with an objective of its own, in one run: each row is scored by its source's.

    loss = sum_k loss_k        each divided by what it scores itself, so that rare sources count as much as common ones

Rows of one batch come from all sources; each objective is given its own rows and no other, and so are the layers that it runs. The loss
y of the source x is called x/y.

State: that of the objectives.   Cost: every row costs what its own objective does.

No paper: a way to compose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.measured import measured
from ..core.parts import Slot, Spec, part
from ..nn.side import Gathered
from ._several import Batch, Several, refused, wiring_of


@part
class BySource(Several):
    """objectives: one for each source of data.train's mixture, by the sources' names and in their order."""

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
        objectives: dict[str, Slot["objective"]],
    ):
        wiring = wiring_of(locals())
        for message in self.check({"objectives": objectives}, {}):
            raise UserError(f"by_source: {message}")
        super().__init__(objectives, wiring)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from refused(knobs["objectives"])
        names = list(knobs["objectives"])
        if not names:
            yield "objectives: name one for each source"
        run = context.get("run")
        sources = None if run is None else run.data.train.knobs.get("sources")
        if run is not None and sources is None:
            yield "data.train has one source alone; make it a mixture, or name its objective directly"
        elif sources is not None and list(sources) != names:
            yield f"objectives want the sources' names in their order, {', '.join(sources)}; there are {', '.join(names)}"

    def prepare(self, batch: Batch) -> Batch:
        """Adds what every objective prepares of its source's rows, under its name; units (B,): those of the row's own objective."""
        given = {}
        for index, name in enumerate(self.objectives):
            mine_B = batch["source"] == index
            given[name] = batch | {"rows": torch.where(mine_B, batch["rows"], -1)}
            if "segments" in batch:
                given[name]["segments"] = torch.where(mine_B[:, None], batch["segments"], 0)
        found = self.keep_apart(batch, given)
        return found | {"units": torch.stack([found[f"units/{name}"] for name in self.objectives]).sum(dim=0)}

    def forward(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if not self.training:
            return {"own": self.measured(model, batch)[1]}
        losses, sides, count = {}, Gathered(model), len(batch["rows"])
        for name, item in self.objectives.items():
            own, index_R = self._rows(self.of(name, batch))
            for loss, value in item(model, own).items():
                losses[f"{name}/{loss}"] = value.new_zeros(count).index_copy(0, index_R, value)
            sides.take(index_R, own["rows"] >= 0, count)
        sides.leave()
        return losses

    def measured(self, model: nn.Module, batch: Batch) -> tuple[str, Tensor, Tensor]:
        """Every row's by its own objective."""
        losses, units, count = [], [], len(batch["rows"])
        for name, item in self.objectives.items():
            own, index_R = self._rows(self.of(name, batch))
            _, value, scored = measured(item, model, own)
            losses.append(value.new_zeros(count).index_copy(0, index_R, value))
            units.append(scored.new_zeros(count).index_copy(0, index_R, scored))
        return "own", torch.stack(losses).sum(dim=0), torch.stack(units).sum(dim=0)

    def _rows(self, own: Batch) -> tuple[Batch, Tensor]:
        """Only the rows that are the objective's, and their places. At least one, which then counts for nothing: all ranks run all blocks."""
        rows, places = own["rows"], torch.arange(len(own["rows"]), device=own["rows"].device)
        if hasattr(rows, "fake_mode"):  # planned by shapes alone
            return own, places
        index_R = (rows >= 0).nonzero()[:, 0]
        index_R = index_R if len(index_R) else places[:1]
        return {key: value if value.dim() == 0 else value[index_R] for key, value in own.items()}, index_R
