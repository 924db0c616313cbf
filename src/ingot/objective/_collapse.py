"""Whether targets that are learned themselves still differ: their deviation, as fairseq's data2vec watches it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

LEAST = 0.1  # below which data2vec's own training code (fairseq) gives up


def moments(y_BTD: Tensor, where_BT: Tensor | None = None) -> dict[str, Tensor]:
    """Of every row over its positions: mean and mean square of each feature, (B, D)."""
    y_BTD = y_BTD.double()
    if where_BT is None:
        return {"target": y_BTD.mean(dim=1), "target_square": y_BTD.square().mean(dim=1)}
    weight_BT1 = (where_BT.double() / where_BT.sum(dim=1, keepdim=True).clamp(min=1))[..., None]
    return {"target": (y_BTD * weight_BT1).sum(dim=1), "target_square": (y_BTD.square() * weight_BT1).sum(dim=1)}


def deviation(means: Mapping[str, Tensor]) -> dict[str, tuple[float, float, float]]:
    """target_std, the mean over features of their standard deviation over rows and positions, and its band."""
    variance_D = (means["target_square"] - means["target"].square()).clamp(min=0)
    return {"target_std": (float(variance_D.sqrt().mean()), LEAST, math.inf)}
