r"""The class of the nearest training rows, weighted by closeness.   Wu et al. 2018, arXiv:1805.01978, section 3.4; DINO, arXiv:2104.14294.

    score_c = sum over the k nearest i of class c of exp(cos(f, f_i) / temperature)

Features are the model's (``model.features``), compared by cosine. Nothing is trained, so it is the cheapest look at a representation.
Cost: one forward over training and held-out rows, 2 D per pair of rows.
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
class KNN:
    """k: neighbors. temperature: of their weights. rows: training rows to look among, as many as evaluation allows when not given.
    layer: how many of the encoder's blocks features go through; the model's own features when not given."""

    reads = ("label",)

    def __init__(
        self,
        layout: Layout,
        *,
        k: Positive[int] = 20,
        temperature: Positive[float] = 0.07,
        rows: Positive[int] | None = None,
        layer: Positive[int] | None = None,
    ):
        self.layout, self.k, self.temperature, self.rows, self.ask = layout, k, temperature, rows, of_layer(layer)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from absent_layer(knobs["layer"], context)

    def __call__(
        self, model: nn.Module, *, windows: Iterable[Any], training: Callable[[int | None], Iterable[Any]], fields: Any
    ) -> dict[str, float]:
        """accuracy, a share."""
        known_ND, class_N = labeled(*features(model, training(self.rows), self.layout, "label", ask=self.ask), learner="knn")
        x_MD, class_M = labeled(*features(model, windows, self.layout, "label", ask=self.ask))
        return {"accuracy": accuracy(self.votes(x_MD, known_ND, class_N, class_count(fields, class_N, class_M)).argmax(dim=1), class_M)}

    def votes(self, x_MD: Tensor, known_ND: Tensor, class_N: Tensor, classes: int) -> Tensor:
        """(M, classes)."""
        closeness_MN = F.normalize(x_MD, dim=1) @ F.normalize(known_ND, dim=1).T
        nearest_MK, index_MK = closeness_MN.topk(min(self.k, len(known_ND)), dim=1)
        weight_MK = ((nearest_MK - nearest_MK[:, :1]) / self.temperature).exp()
        return torch.zeros(len(x_MD), classes, dtype=weight_MK.dtype).scatter_add_(1, class_N[index_MK], weight_MK)
