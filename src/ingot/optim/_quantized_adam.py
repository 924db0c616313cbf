"""AdamW whose moments are kept in few bits: what adam8bit and adam4bit share."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.axes import Axes
from ._declared import STEP, DeclaredOptimizer, Held, number
from ._groups import Group, local, local_gradient, prepare_groups
from ._quantize import CODE_POWERS, Codec, KeepsCodes, adam_rows_, by_rows, codecs, held_moment


class QuantizedAdam(KeepsCodes, DeclaredOptimizer):
    """bits: of a code."""

    bits: ClassVar[int]
    state_powers: ClassVar[dict[str, int | str]] = DeclaredOptimizer.state_powers | CODE_POWERS

    def __init__(self, params: Iterable[Any], *, lr: float, weight_decay: float, **knobs: Any):
        super().__init__(prepare_groups(params, lr=lr, weight_decay=weight_decay), knobs)

    def kept(self, shape: tuple[int, ...]) -> dict[str, Codec]:
        """Codecs of the moments of a weight; none for a vector or a small one."""
        small = len(shape) < 2 or torch.Size(shape).numel() < self.defaults["smallest"]
        return {} if small else codecs(self.bits, self.defaults["block"])

    def declare(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Held]:
        held, kept = {"step": STEP}, self.kept(shape)
        for key in ("exp_avg", "exp_avg_sq"):
            held |= held_moment(key, shape, dtype, "elementwise", kept.get(key))
        return held

    def update(self, group: Group, weights: list[Tensor]) -> None:
        for weight in weights:
            state, own, gradient, kept = self.state[weight], local(weight), local_gradient(weight), self.kept(tuple(weight.shape))
            state["step"] += 1
            step, (beta1, beta2) = number(state["step"], 1), group["betas"]
            correction = sqrt(1 - beta2**step)
            rate, decay = group["lr"] * correction / (1 - beta1**step), group["lr"] * group["weight_decay"]
            for rows, part in by_rows(state, gradient, kept):
                adam_rows_(
                    own[rows], gradient[rows], part, kept, betas=(beta1, beta2), eps=group["eps"] * correction, rate=rate, decay=decay
                )
