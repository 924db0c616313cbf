r"""One look of a row tells what an averaged teacher makes of another.   Caron et al. 2021 (DINO), arXiv:2104.14294, section 3.

    P_s(x) = softmax(g_s(f_s(x)) / temperature)        P_t(x) = softmax((g_t(f_t(x)) - c) / teacher_temperature), no gradient

    loss of a row = mean over looks x of the teacher's and x' != x of the student's of  -sum P_t(x) log P_s(x')

    t_k = m t_{k-1} + (1 - m) w_k        c_k = q c_{k-1} + (1 - q) mean over rows and looks of the whole step of g_t(f_t(x))

g: linear layers with GELU to ``bottleneck`` features of length 1, then a linear layer whose rows have length 1. The teacher is given the
first ``whole`` looks, the student all; the others may be smaller (``resized_crop``: small). The center is a statistic of all rows of a
step, over accumulation and ranks. The paper lets m rise to 1: set forget, 1 - m, and ``schedule: {objective.forget: ...}``, to 0. Held-out
rows have one look: then it is compared with itself.

State: embedding, encoder and head once more, c (outputs,).   Cost: every look forward and backward, the teacher's looks forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.axes import label
from ..core.parts import Fraction, Positive, Spec, part
from ..nn.pooling import Pooling, pooled
from ..nn.side import Gathered
from ._projection import Projection, one_each, unit
from ._teacher import Teacher, refuse_rising
from ._views import alike, count, looks, refuse_one_view


class Prototypes(nn.Module):
    """Cosines with learned directions: weight (outputs, features), each row brought to length 1."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, features))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "prototypes", "projection", role="head")

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight.to(x.dtype), dim=-1))


class Head(nn.Module):
    """g."""

    def __init__(self, width: int, hidden: int, layers: int, bottleneck: int, outputs: int, linear: Spec):
        super().__init__()
        self.project = Projection(width, [*[hidden] * (layers - 1), bottleneck], linear)
        self.prototypes = Prototypes(bottleneck, outputs)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.prototypes(unit(self.project(x)))
        return found


@part
class SelfDistillation(nn.Module):
    """outputs, hidden, bottleneck, layers: of g; hidden is the width when not given. temperature, teacher_temperature: of the softmaxes.
    momentum: m; forget, where it is given instead: 1 - m, how much of the teacher an update replaces. center_momentum: q. whole: how many
    of the looks the teacher is given. pooling: which positions speak for a row."""

    causal, couples_batch = False, False
    keeps_encoder = True
    center: Tensor

    def __init__(
        self,
        width: int,
        linear: Spec,
        embedding: Any,
        encoder: Any,
        *,
        outputs: Positive[int] = 4096,
        hidden: Positive[int] | None = None,
        bottleneck: Positive[int] = 256,
        layers: Positive[int] = 3,
        temperature: Positive[float] = 0.1,
        teacher_temperature: Positive[float] = 0.04,
        momentum: Fraction = 0.996,
        forget: Fraction | None = None,
        center_momentum: Fraction = 0.9,
        whole: Positive[int] = 2,
        pooling: Pooling = "mean",
    ):
        super().__init__()
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.forget = 1 - momentum if forget is None else forget
        self.center_momentum, self.whole, self.pooling = center_momentum, whole, pooling
        self.head = Head(width, hidden or width, layers, bottleneck, outputs, linear)
        self.teacher = Teacher(embedding=embedding.module(), encoder=encoder.module(), head=self.head)
        self.register_buffer("center", torch.zeros(outputs))
        self.side: dict[str, Tensor] | None = None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from refuse_one_view("self_distillation", context)
        yield from refuse_rising(knobs, context)
        for augment in getattr(getattr(context.get("run"), "data", None), "augment", ()):
            if augment.knobs.get("small") is not None and augment.knobs["whole"] != knobs["whole"]:
                yield f"the teacher is given {knobs['whole']} whole looks, but {augment.name} makes {augment.knobs['whole']}; give both the same"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds units: 1 for every row."""
        return one_each(batch)

    def forward(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        views = max(2, count(batch))
        order = [view if view < count(batch) else 0 for view in range(views)]
        whole, real = min(self.whole, views), batch["units"] > 0
        taught = self._teach(model, batch, order[:whole], real)
        learned: list[Tensor] = []
        sides, row_B = Gathered(model.encoder), torch.arange(len(real), device=real.device)
        for some in alike(batch, order):
            learned += (self.outputs_of(model, looks(batch, some), None, self.head) / self.temperature).log_softmax(dim=-1).chunk(len(some))
            sides.take(row_B.repeat(len(some)), rows=len(real))
        sides.leave()
        pairs = [-(p * log).sum(dim=-1) for at, p in enumerate(taught) for view, log in enumerate(learned) if view != at]
        return {"distillation": torch.where(real, torch.stack(pairs).mean(dim=0), 0)}

    def outputs_of(self, model: Any, batch: dict[str, Tensor], tower: nn.Module | None, head: nn.Module) -> Tensor:
        """g(f(x)), (B, outputs)."""
        h_BTD, context = model.encoded(batch, causal=False, tower=tower)
        found: Tensor = head(pooled(h_BTD, context, self.pooling, int(getattr(model.embedding, "leading", 0))))
        return found

    @torch.no_grad()
    def _teach(self, model: Any, batch: dict[str, Tensor], views: list[int], real: Tensor) -> list[Tensor]:
        """P_t of each look; leaves what the center is made of."""
        g = self.outputs_of(model, looks(batch, views), self.teacher, self.teacher.get_submodule("head"))
        p = ((g - self.center.to(g.dtype)) / self.teacher_temperature).softmax(dim=-1)
        taught = list(p.chunk(len(views)))
        if self.training:
            entropy = torch.stack([torch.special.entr(one).sum(dim=-1) for one in taught]).mean(dim=0)
            sums = torch.where(real.repeat(len(views))[:, None], g, 0).double().sum(dim=0)
            self.side = {"teacher_entropy": entropy, "count/outputs": sums, "count/looks": real.sum().double() * len(views)}
        return taught

    def vitals(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """For health, per row: the entropy of P_t, and P_t."""
        taught = torch.stack(self._teach(model, batch, list(range(min(self.whole, count(batch)))), batch["units"] > 0)).double()
        return {"teacher_entropy": torch.special.entr(taught).sum(dim=-1).mean(dim=0), "taught": taught.mean(dim=0)}

    def bands(self, means: Mapping[str, Tensor]) -> dict[str, tuple[float, float, float]]:
        """The two ways to collapse (section 5.3): every P_t is uniform, or all rows are taught the same output."""
        used = float(torch.special.entr(means["taught"]).sum().exp())
        most = math.log(means["taught"].numel())
        return {"teacher_entropy": (float(means["teacher_entropy"]), 0.0, 0.99 * most), "teacher_perplexity": (used, 2.0, math.inf)}

    def counted(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """The center takes in the whole step's mean."""
        mean = (totals["outputs"] / totals["looks"].clamp(min=1)).to(self.center)
        self.center.lerp_(mean, 1 - self.center_momentum)
        return {"center": float(self.center.norm())}

    def begin(self, model: Any) -> None:
        """The teacher starts as the student."""
        self.teacher.begin(self._students(model))

    def stepped(self, state: Any, log: dict[str, Any]) -> None:
        """After an update: the teacher follows."""
        self.teacher.follow(self._students(state.model), 1 - self.forget)

    def _students(self, model: Any) -> dict[str, nn.Module]:
        return {"embedding": model.embedding, "encoder": model.encoder, "head": self.head}
