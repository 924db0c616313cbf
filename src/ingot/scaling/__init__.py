"""Scaling laws: fit a form to measurements, and predict with how wrong such predictions were before.

    from ingot.scaling import fit, predict

Needs scipy (``pip install 'ingot[scaling]'``).
"""

from __future__ import annotations

try:
    import scipy  # noqa: F401
except ImportError:
    from ..core.errors import missing_extra

    raise missing_extra("scipy", "scaling") from None

from .crossing import crossing
from .fit import Fit, compare, fit, summary
from .frontier import envelope, isoflop
from .learning_curve import extrapolate
from .mixture import best_mixture
from .predict import optimum, predict, sizes_for
from .rates import rate_and_batch
from .running import continued, planned

__all__ = [
    "Fit",
    "best_mixture",
    "compare",
    "continued",
    "crossing",
    "envelope",
    "extrapolate",
    "fit",
    "isoflop",
    "optimum",
    "planned",
    "predict",
    "rate_and_batch",
    "sizes_for",
    "summary",
]
