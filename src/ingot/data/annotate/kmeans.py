r"""Units of sound: the nearest of C centers.   Lloyd 1982; as used by HuBERT, arXiv:2106.07447, section II.A and II.C.

    code_f = argmin_c |v_f - m_c|^2        m_c: the mean of the values nearest to it, after ``iterations`` of such steps

v: 13 cepstra (Kaldi's) with their slopes and second slopes, every 10 ms, or, with ``layer``, what the model's blocks make of the sound
up to that layer, at the embedding's own pace. The first centers are drawn far apart (k-means++: Arthur & Vassilvitskii 2007); a
center that loses all its values moves to the value that is furthest from its own.

DEPARTS: whole passes over a sample of ``frames`` values from evenly spread rows; the published code takes mini-batches of all.
Rows get a column ``codes``.   Cost: 2 C M per value and iteration; with ``layer`` one forward of the model over all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...core.layers import absent_layer
from ...core.parts import NonNegative, Positive, part
from ...core.seams import Field
from ..source._signal import mfcc


@part
class KMeans:
    """clusters: C. layer: how many blocks of the model the values go through; cepstra when not given. frames: values that centers are
    found from. iterations: of Lloyd's. seed: of the first centers."""

    key = "codes"

    def __init__(
        self,
        *,
        clusters: Positive[int] = 100,
        layer: Positive[int] | None = None,
        frames: Positive[int] = 100_000,
        iterations: Positive[int] = 20,
        seed: NonNegative[int] = 0,
    ):
        self.clusters, self.layer, self.frames, self.iterations, self.seed = clusters, layer, frames, iterations, seed

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from absent_layer(knobs["layer"], context)

    @staticmethod
    def hop(knobs: Mapping[str, Any], rate: int, stride: int) -> int:
        """Samples between two codes."""
        return rate // 100 if knobs["layer"] is None else stride

    @staticmethod
    def known_fields(knobs: Mapping[str, Any], samples: int, rate: int, stride: int) -> dict[str, Field]:
        """What rows of so many samples get."""
        return {"codes": Field((-(-samples // KMeans.hop(knobs, rate, stride)),), "int64", knobs["clusters"])}

    def values(self, x_S: np.ndarray, rate: int) -> np.ndarray:
        """(F, M) of a whole clip, where no model is asked."""
        return mfcc(x_S, rate)

    def fit(self, values_NM: np.ndarray) -> np.ndarray:
        """The centers, (C, M) float32."""
        draw = np.random.Generator(np.random.Philox(key=self.seed))
        x = values_NM.astype(np.float32)
        if len(x) > self.frames:
            x = x[np.sort(draw.choice(len(x), self.frames, replace=False))]
        centers = self._first(x, draw)
        for _ in range(self.iterations):
            codes, distance = nearest(x, centers)
            counts = np.bincount(codes, minlength=self.clusters)
            sums = np.zeros((self.clusters, x.shape[1]), dtype=np.float64)
            np.add.at(sums, codes, x)
            moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers).astype(np.float32)
            empty = np.flatnonzero(counts == 0)
            moved[empty] = x[np.argsort(-distance, kind="stable")[: len(empty)]] if len(empty) <= len(x) else moved[empty]
            if np.array_equal(moved, centers):
                break
            centers = moved
        return centers

    def assign(self, values_NM: np.ndarray, centers_CM: np.ndarray) -> np.ndarray:
        """(N,) int32, the nearest center of each value."""
        return nearest(values_NM.astype(np.float32), centers_CM)[0].astype(np.int32)

    def _first(self, x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        chosen = [int(draw.integers(len(x)))]
        distance = np.square(x - x[chosen[0]]).sum(axis=1).astype(np.float64)
        while len(chosen) < self.clusters:
            total = distance.sum()
            place = int(np.searchsorted(distance.cumsum(), draw.random() * total)) if total > 0 else int(draw.integers(len(x)))
            chosen.append(min(place, len(x) - 1))
            distance = np.minimum(distance, np.square(x - x[chosen[-1]]).sum(axis=1))
        return x[chosen]


def nearest(x_NM: np.ndarray, centers_CM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) which center, and (N,) its squared distance; the first of equals."""
    codes, distance = np.empty(len(x_NM), dtype=np.int64), np.empty(len(x_NM), dtype=np.float32)
    square_C = np.square(centers_CM).sum(axis=1)
    for start in range(0, len(x_NM), 65536):
        piece = x_NM[start : start + 65536]
        far = square_C - 2 * piece @ centers_CM.T
        best = far.argmin(axis=1)
        codes[start : start + len(piece)] = best
        distance[start : start + len(piece)] = far[np.arange(len(piece)), best] + np.square(piece).sum(axis=1)
    return codes, distance
