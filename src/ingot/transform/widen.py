r"""Function-preserving width growth: features, heads and hidden units are copied, and what reads them divides by the copies.

Chen et al. 2016 (Net2WiderNet), arXiv:1511.05641, section 2.2; for transformers Chen et al. 2022 (bert2BERT, FPI), arXiv:2110.07143,
section 4.1.

    x'_i = x_{index(i)}        reads: W'_{.i} = s_i W_{.index(i)},  sum of s over the copies of a feature = 1        writes: W'_i. = W_{index(i).}

The residual width and the heads grow a whole number of times, for norms must see every feature equally often; the hidden size grows
to any size. Tied heads, grouped keys and values, RMS and layer norms, biases and norms on queries and keys are exact; see
``_width``. head_dim stays.

DEPARTS: copies share unequally by ``split`` instead of added noise: equal twins would get equal gradients, and unequal shares break the
tie without changing the function.

State: carried. A copy that is written has the gradient s_i G, so its momentum takes s_i and its second moment s_i^2; one that is
read has the gradient G. (Exact for equal shares; a norm mixes unequal shares of the width, by a part of ``split``.)   Cost: a copy; a step costs about the square of the factor more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from ..core.parts import Fraction, Positive, part
from ._width import copies_between, grown_tree, widen

if TYPE_CHECKING:
    from ..core.seams import Snapshot, Target


@part
class Widen:
    """width, heads, hidden: how many times as many; heads and hidden follow the width when not given. split: inequality of the copies."""

    preserves = True

    def __init__(
        self,
        *,
        width: Positive[int] = 2,
        heads: Positive[int] | None = None,
        hidden: Annotated[float, Ge(1)] | None = None,
        split: Fraction = 0.1,
    ):
        self.width, self.heads, self.hidden, self.split = width, heads or width, float(hidden or width), split

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        if self.width == self.heads == 1 and self.hidden == 1:
            raise ValueError("nothing grows: width, heads and hidden are all 1")
        return grown_tree(tree, width=self.width, heads=self.heads, hidden=self.hidden)

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        return widen(snapshot, target, copies_between(snapshot, target, split=self.split))
