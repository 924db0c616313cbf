r"""What a frozen teacher makes of a row, made by a student of another size.   Romero et al. 2014 (FitNets), arXiv:1412.6550, section 2.2,
at the encoder's output; Wei et al. 2022, arXiv:2205.14141, section 3.

    t = norm(teacher(x))        p = W student(x) + b        both at every position, or pooled, one vector a row

    smooth_l1   loss = mean over features of  d^2 / (2 beta) up to beta, |d| - beta / 2 beyond        d = p - t
    cosine      loss = 1 - p . t / (|p| |t|)

norm: each vector brought to mean 0, deviation 1, so that teachers whose features are of very different size are learned alike. Both see
the same look of a row, the teacher without dropout or gradient. Any two encoders go together that read the row's keys: of two with other
numbers of positions, the pooled vectors.

The teacher is opened where it is first needed, stands outside of the model, and is in no checkpoint.   W: (M, D)
Cost: the teacher's forward, and 2 D M per position.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.frozen import Frozen
from ..core.parts import Positive, Spec, part
from ..nn.pooling import Pooling, pooled
from ._masking import places
from ._projection import one_each


class Apart:
    """A frozen model that is no part of who holds it: opened once, moved to the device where it is asked."""

    def __init__(self, opened: Callable[[], nn.Module]):
        self.opened, self.there = opened, dict[tuple[torch.device, bool], nn.Module]()

    def at(self, device: torch.device, double: bool) -> nn.Module:
        """The model on a device, in double precision or as it is."""
        if not self.there:
            with torch.random.fork_rng(devices=[]):  # who is opened in the middle of a run must not move its random draws
                model = self.opened().eval().requires_grad_(False)
            self.there[next(model.parameters()).device, False] = model
        if (device, double) not in self.there:
            twin = copy.deepcopy(next(iter(self.there.values()))).to(device)
            self.there[device, double] = twin.double() if double else twin
        return self.there[device, double]

    def __deepcopy__(self, memo: dict[int, Any]) -> Apart:
        """Of the same model, which nothing changes."""
        other = Apart(self.opened)
        other.there = dict(self.there)
        return other


@part
class FeatureDistillation(nn.Module):
    """teacher: see core/frozen.py. each: what is compared, every position or the pooled row. whiten: whether t is normed. beta: of
    smooth_l1. pooling: which of the student's positions speak for a row. causal: whether the student may not look ahead."""

    couples_batch = False

    def __init__(
        self,
        width: int,
        linear: Spec,
        embedding: Any,
        frozen: Callable[[Frozen], nn.Module],
        *,
        teacher: Frozen,
        each: Literal["position", "row"] = "position",
        distance: Literal["smooth_l1", "cosine"] = "smooth_l1",
        beta: Positive[float] = 2.0,
        whiten: bool = True,
        pooling: Pooling = "mean",
        causal: bool = False,
    ):
        super().__init__()
        self.embedding, self.taught, self.each, self.distance, self.beta = embedding, teacher, each, distance, beta
        self.whiten, self.pooling, self.causal = whiten, pooling, causal
        self.leading = int(getattr(embedding, "leading", 0))
        self.head = linear.build(inputs=width, outputs=teacher.width, bias=True, axes=("target", "width"), role="matrix")
        self.teacher = Apart(lambda: frozen(teacher))

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        one, folder = knobs["teacher"], context.get("folder")
        yield from one.unclear("teacher")
        if folder is not None and one.start is not None and not one.start.startswith("hf:") and not (Path(folder) / one.start).is_dir():
            yield f"teacher: there is no run at {one.start}"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds units: real positions, or 1 for every row. Opens the teacher. Raises UserError where the two cannot be compared."""
        self._meets(batch, self._tower(batch["rows"].device))
        if self.each == "row":
            return one_each(batch)
        if tuple(self.embedding.reads) == ("tokens",) and "segments" in batch:
            return batch | {"units": (batch["segments"] > 0).sum(dim=1)}
        return batch | {"units": places(self.embedding, batch)[1]}

    def forward(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h_BTD, context = model.encoded(batch, causal=self.causal)
        t = self.targets(model, batch)
        if self.each == "row":
            return {"features": self._distance(self.head(pooled(h_BTD, context, self.pooling, self.leading)), t) * (batch["units"] > 0)}
        loss_BT = self._distance(self.head(h_BTD[:, self.leading :]), t)
        if context.segments_BT is not None:
            loss_BT = loss_BT * (context.segments_BT[:, self.leading :] > 0)
        return {"features": loss_BT.sum(dim=1) * (batch["units"] > 0)}

    @torch.no_grad()
    def targets(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """t, (B, T, M) or (B, M), in fp32 at least."""
        tower: Any = self._tower(batch["rows"].device, model.compute_dtype == torch.float64)
        t, context = model.encoded(batch, causal=self.taught.causal, tower=tower)
        leading = int(getattr(tower.embedding, "leading", 0))
        t = t[:, leading:] if self.each == "position" else pooled(t, context, self.taught.pooling, leading)
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        return F.layer_norm(t, t.shape[-1:]) if self.whiten else t

    def features(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B, D), the student's, as they are pooled."""
        h_BTD, context = model.encoded(batch, causal=self.causal)
        return pooled(h_BTD, context, self.pooling, self.leading)

    def _distance(self, p: Tensor, t: Tensor) -> Tensor:
        p = p.to(t.dtype)
        if self.distance == "cosine":
            return 1 - F.cosine_similarity(p, t, dim=-1)
        return F.smooth_l1_loss(p, t, reduction="none", beta=self.beta).mean(dim=-1)

    def _tower(self, device: torch.device, double: bool = False) -> Any:
        return self.teacher.at(device, double)

    def _meets(self, batch: dict[str, Tensor], tower: Any) -> None:
        wanted = tuple(getattr(tower.embedding, "reads", ()))
        if wanted and not batch.keys() & set(wanted):
            raise UserError(f"objective.teacher: it reads {' or '.join(wanted)}, which the data does not give")
        if self.each == "position" and hasattr(self.embedding, "grid") and hasattr(tower.embedding, "grid"):
            here, there = (prod(embedding.grid(batch)) for embedding in (self.embedding, tower.embedding))
            if here != there:
                raise UserError(
                    f"objective.teacher: it makes {there} positions of a row, the student {here}; set each: row to compare one vector a row"
                )
