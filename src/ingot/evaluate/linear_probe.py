r"""A linear classifier on frozen features: how much of the classes lies in them on its face.   Alain & Bengio 2016, arXiv:1610.01644.

    min over W, b of mean_i -log softmax(W z_i + b)_{c_i} + l2 |W|^2 / 2        z: features, centered and scaled by the training rows

The problem is convex; it is solved by L-BFGS in double precision, from zero, so that its answer depends on nothing but the features.
l2 is the best of the given ones on every fifth training row, then all training rows are used.   Cost: one forward over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.layers import absent_layer
from ..core.parts import Positive, part
from ._features import accuracy, class_count, features, labeled, of_layer

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class LinearProbe:
    """l2: strengths to choose from. rows: labeled training rows used, as many as evaluation allows when not given. steps: of the solver.
    layer: how many of the encoder's blocks features go through, middle ones being the better ones for some objectives; the model's own
    features when not given."""

    reads = ("label",)

    def __init__(
        self,
        layout: Layout,
        *,
        l2: list[Positive[float]] = [1e-4, 1e-3, 1e-2, 1e-1],
        rows: Positive[int] | None = None,
        steps: Positive[int] = 200,
        layer: Positive[int] | None = None,
    ):
        self.layout, self.l2, self.rows, self.steps, self.ask = layout, l2, rows, steps, of_layer(layer)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from absent_layer(knobs["layer"], context)

    def __call__(
        self, model: nn.Module, *, windows: Iterable[Any], training: Callable[[int | None], Iterable[Any]], fields: Any
    ) -> dict[str, float]:
        """accuracy on held-out rows, train_accuracy, and the l2 that was chosen."""
        known_ND, class_N = labeled(*features(model, training(self.rows), self.layout, "label", ask=self.ask), learner="linear_probe")
        x_MD, class_M = labeled(*features(model, windows, self.layout, "label", ask=self.ask))
        mean_D, std_D = known_ND.mean(dim=0), known_ND.std(dim=0).clamp(min=1e-8)
        known_ND, x_MD = (known_ND - mean_D) / std_D, (x_MD - mean_D) / std_D
        classes = class_count(fields, class_N, class_M)
        l2 = self._chosen(known_ND, class_N, classes)
        weight = self.solved(known_ND, class_N, classes, l2)
        return {
            "accuracy": accuracy(_scores(x_MD, weight).argmax(dim=1), class_M),
            "train_accuracy": accuracy(_scores(known_ND, weight).argmax(dim=1), class_N),
            "l2": l2,
        }

    def _chosen(self, x_ND: Tensor, class_N: Tensor, classes: int) -> float:
        held = torch.arange(len(x_ND)) % 5 == 4
        if len(self.l2) == 1 or not held.any():
            return float(self.l2[0])
        losses = [
            float(F.cross_entropy(_scores(x_ND[held], self.solved(x_ND[~held], class_N[~held], classes, l2)), class_N[held]))
            for l2 in self.l2
        ]
        return float(self.l2[losses.index(min(losses))])

    def solved(self, x_ND: Tensor, class_N: Tensor, classes: int, l2: float) -> Tensor:
        """(classes, D + 1), the bias last."""
        weight = torch.zeros(classes, x_ND.shape[1] + 1, dtype=x_ND.dtype, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight], max_iter=self.steps, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(_scores(x_ND, weight), class_N) + 0.5 * l2 * weight[:, :-1].square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            solver.step(closure)  # type: ignore[no-untyped-call]
        return weight.detach()


def _scores(x_ND: Tensor, weight: Tensor) -> Tensor:
    return x_ND @ weight[:, :-1].T + weight[:, -1]
