r"""Several objectives on the same rows, with weights.   As in UNIMO, arXiv:2012.15409, and M3I, arXiv:2211.09807.

    loss = sum_k w_k loss_k        each divided by what it scores itself

The loss y of the objective x is called x/y. Each prepares the rows by itself, and the encoder runs once for each; what its layers leave
beside (side losses, loads of experts) is added up over these runs. The first one's units stand for the row, and its first loss, before
any weight, is what evaluations report.

State: that of the objectives.   Cost: the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import UserError
from ..core.measured import measured
from ..core.parts import NonNegative, Slot, Spec, part
from ..nn.side import Gathered
from ._several import Several, refused, wiring_of


@part
class Weighted(Several):
    """objectives: by name. weights: by the same names, 1 when not given."""

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
        weights: dict[str, NonNegative[float]] = {},
    ):
        wiring = wiring_of(locals())
        for message in self.check({"objectives": objectives, "weights": weights}, {}):
            raise UserError(f"weighted: {message}")
        super().__init__(objectives, wiring)
        self.weights = {name: weights.get(name, 1.0) for name in objectives}

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from refused(knobs["objectives"])
        if not knobs["objectives"]:
            yield "objectives: name at least one"
        for name in knobs["weights"]:
            if name not in knobs["objectives"]:
                yield f"weights: there is no objective {name!r}; there are {', '.join(knobs['objectives'])}"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds what every objective prepares, under its name; units of the first."""
        found = self.keep_apart(batch, dict.fromkeys(self.objectives, batch))
        return found | {"units": found[f"units/{next(iter(self.objectives))}"]}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses, sides = {}, Gathered(model)
        for name, item in self.objectives.items():
            for loss, value in item(model, self.of(name, batch)).items():
                losses[f"{name}/{loss}"] = self.weights[name] * value
            sides.take()
        sides.leave()
        return losses

    def measured(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[str, Tensor, Tensor]:
        """The first objective's."""
        name, item = next(iter(self.objectives.items()))
        loss, value, units = measured(item, model, self.of(name, batch))
        return f"{name}/{loss}", value, units

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Every objective's own, under its name, and the losses of the further ones, as evaluations would report each by itself."""
        found: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
        for index, (name, item) in enumerate(self.objectives.items()):
            own = self.of(name, batch)
            if hasattr(item, "scores"):
                found |= {f"{name}/{score}": value for score, value in item.scores(model, own).items()}
            if index:
                loss, value, units = measured(item, model, own)
                found[f"{name}/{loss}"] = (value, units)
        return found

    def vitals(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every objective's own, under its name."""
        watched = ((name, item) for name, item in self.objectives.items() if hasattr(item, "vitals"))
        return {f"{name}/{key}": value for name, item in watched for key, value in item.vitals(model, self.of(name, batch)).items()}

    def bands(self, means: Mapping[str, Tensor]) -> dict[str, tuple[float, float, float]]:
        """Of every objective, under its name."""
        found = {}
        for name, item in self.objectives.items():
            own = {key.removeprefix(f"{name}/"): value for key, value in means.items() if key.startswith(f"{name}/")}
            found |= {f"{name}/{measure}": band for measure, band in item.bands(own).items()} if own else {}
        return found
