r"""Loss on one validation domain from the shares of the training domains.   Ye et al. 2024, arXiv:2403.16952, Eq. 1.

    L(r) = c + k exp(sum_j t_j r_j)            r_j: share of training domain j, sum_j r_j = 1

``combine: sum`` is another of the forms that the paper compares (M2): L(r) = c + k sum_j exp(t_j r_j). It describes domains better of which
a first small share teaches most. Which of the two suits a domain is told by the back-test (``ingot.scaling.compare``); where neither does,
``additive_mixing`` has powers of the shares instead of exponentials.

DEPARTS: of the product, k is dropped, because adding log k to every t_j gives the same law when the shares add up to one.

Inputs: every column that starts with ``mix_``.   Output: loss on the validation domain. Fit each validation domain by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, PowerSum
from ._shares import share_columns, shares


@part
class DataMixing(PowerSum):
    mixture = True

    def __init__(self, table: Columns, *, columns: list[str] | None = None, combine: Literal["product", "sum"] = "product") -> None:
        """columns: the shares, where they are not the columns that start with ``mix_``. combine: product is exp(sum_j t_j r_j)."""
        self.sum = combine == "sum"
        self.inputs = share_columns(table, columns, "data_mixing")
        slopes = [Coefficient(f"t_{name.removeprefix('mix_')}", -60 if self.sum else -15, 15) for name in self.inputs]
        self.coefficients = (Coefficient("c", 1e-3, log=True), *([Coefficient("k", log=True)] if self.sum else []), *slopes)

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        return shares(table, self.inputs)

    def terms(self, x: Mapping[str, Any]) -> list[dict[int, Any]]:
        if self.sum:
            return [{0: 1}, *({1: 1, 2 + index: x[name]} for index, name in enumerate(self.inputs))]
        return [{0: 1}, {1 + index: x[name] for index, name in enumerate(self.inputs)}]

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        if self.sum:
            low, number = float(y_n.min()), len(self.inputs)
            return np.array(
                [
                    [np.log(share) + low, np.log((1 - share) / number * 2) + low, *([slope] * number)]
                    for share in (0.3, 0.6, 0.8, 0.9)
                    for slope in (0.5, -1.0, -5.0, -15.0)
                ]
            )
        found = []
        for share in (0.02, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97):
            floor = share * np.exp(y_n.min())
            design = np.stack([x[name] for name in self.inputs], 1)
            slope = np.linalg.lstsq(design, np.log(np.exp(y_n) - floor), rcond=1e-6)[0]
            found.append([np.log(floor), *slope])
        return np.array(found)

    def scale(self, table: Columns) -> np.ndarray | None:
        return None
