r"""Latents of two rows blended, in every modality by the same share.   Vouitsis et al. 2024 (FuseMix), arXiv:2312.10144, equation 4.

    z^x = s z^x_i + (1 - s) z^x_j        z^y = s z^y_i + (1 - s) z^y_j        s ~ Beta(alpha, alpha)

A blend of two pairs is taken for a pair: with an objective that matches both sides this is the paper's loss.

DEPARTS: the paper draws one share for a batch and pairs its halves; here share and second row are drawn by (seed, row number), the
second row from the whole source, so that a row does not depend on the others of its batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.parts import Positive, part


@part
class FuseMix:
    """alpha: of the Beta distribution. begins: keys of latents begin so."""

    reads = None  # latents are there only when an annotator has found them
    mixes = True

    def __init__(self, *, alpha: Positive[float] = 1.0, begins: str = "latent_"):
        self.alpha, self.begins = alpha, begins

    def mix(self, row: dict[str, Any], other: dict[str, Any], draw: np.random.Generator) -> dict[str, Any]:
        """A row whose latents are blended with another's; all else is the first one's."""
        share = np.float32(draw.beta(self.alpha, self.alpha))
        return {key: share * value + (1 - share) * other[key] if key.startswith(self.begins) else value for key, value in row.items()}
