r"""Maximal update parametrization: what is tuned at one width holds at every width.   Yang et al. 2022, arXiv:2203.03466, Table 8.

With m = width / base_width, for Adam-like optimizers:

    weights                  standard deviation    learning rate    multiplier
    embedding, position      std                   1                1
    hidden (width inputs)    std / sqrt(m)         1 / m            1
    to the vocabulary        std                   1                1 / m
    gains, biases            1, 0                  1                1

The multiplier 1/m is on the logits, so the table holds for tied embeddings. Attention keeps 1/sqrt(head_dim): widen by heads, not by
head_dim. An update of fixed spectral norm per matrix (Muon with its original scale) carries its own width rule: set scale_matrices to
false there. Optimizers whose steps follow the size of the gradient (SGD) or of the weight (Adafactor) have another table, and are refused.

At base_width everything equals ``normal``. Reads only axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ...core.axes import WIDTHS, Axes
from ...core.parts import Positive, part
from ._draw import adds_to_residual, depth_of, fill


@part
class MuP:
    """base_width: where the recipe was tuned. std, residual: as in ``normal``. scale_matrices: whether hidden learning rates are divided by
    m.

    zero_head: start an untied head at 0 (appendix D.2), so that no random part of the logits shrinks with the width.
    """

    def __init__(
        self,
        *,
        base_width: Positive[int],
        std: Positive[float] = 0.02,
        residual: bool = True,
        scale_matrices: bool = True,
        zero_head: bool = False,
    ):
        self.base_width, self.std, self.residual, self.scale_matrices, self.zero_head = base_width, std, residual, scale_matrices, zero_head

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        run = context.get("run")
        if run is None or context["width"] == knobs["base_width"]:
            return
        specs = [spec for stage in run.stages for _, spec in stage.optimizer.walk()]
        for name, scale, rule in sorted({(one.name, one.knobs.get("scale", ""), getattr(one.target, "width_rule", "")) for one in specs}):
            if rule == "spectral" and scale == "match_rms_adamw":
                yield f"the updates of {name!r} under scale match_rms_adamw grow with the root of the width, as no row of mup's table does"
            elif rule == "other":
                yield f"mup's table is that of Adam-like optimizers, which {name!r} is not: its learning rates would not carry over to this width"
            elif rule == "spectral" and knobs["scale_matrices"]:
                yield f"the updates of {name!r} carry their own width rule for matrices: set scale_matrices to false"

    def apply(self, model: nn.Module, seed: int) -> None:
        """Fill every parameter from (seed, its name), and set the factor on the objective's logits."""
        outputs = (2 * max(1, depth_of(model))) ** -0.5 if self.residual else 1.0

        def std(name: str, axes: Axes, shape: tuple[int, ...]) -> float:
            if axes.role == "head" and self.zero_head:
                return 0.0
            return self.std * self._widening(axes, shape) ** -0.5 * (outputs if adds_to_residual(axes) else 1.0)

        fill(model, seed, std)
        if hasattr(model.objective, "output_scale"):
            model.objective.output_scale = self.output_scale(model.encoder.width)  # type: ignore[union-attr, arg-type, assignment]

    def lr_scale(self, name: str, axes: Axes, shape: tuple[int, ...]) -> float:
        """1/m for hidden matrices, 1 for the rest."""
        return 1.0 / self._widening(axes, shape) if self.scale_matrices else 1.0

    def output_scale(self, width: int) -> float:
        """1/m, the factor on logits."""
        return self.base_width / width

    def _widening(self, axes: Axes, shape: tuple[int, ...]) -> float:
        """m for a hidden matrix whose inputs grow with the width, else 1. Inputs and outputs are taken to grow alike.

        A factor whose inputs are a fixed rank counts as 1, whatever the matrix it is part of.
        """
        names, sizes = axes.whole or (axes.names, shape)
        inputs = axes.names[-1] if len(axes.names) > 1 else names[-1]
        if axes.role != "matrix" or inputs not in WIDTHS or "width" not in names:
            return 1.0
        return sizes[names.index("width")] / self.base_width
