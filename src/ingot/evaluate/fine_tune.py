r"""The whole encoder trained on labeled rows for a short while, with smaller steps for deeper layers.

    lr_l = lr decay^(depth + 1 - l)        l = 0 for the embedding, 1 .. depth for the blocks, depth + 1 for norm and head

Layer-wise decay: Clark et al. 2020 (ELECTRA), arXiv:2003.10555, appendix; Bao et al. 2021 (BEiT), arXiv:2106.08254. AdamW, cosine to
zero after a tenth of warm-up, on a copy of the model: the run's own is left as it was. Rows come in an order drawn from the seed, without
augmentation, in one process. For more than a quick look make a run with ``--from``, the objective ``classification`` and the stage's
``layer_decay``: it augments, resumes and runs on several ranks.

Cost: epochs times forward and backward over the training rows; a copy of the weights and two of AdamW's.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.evaluating import evaluating
from ..core.parts import Fraction, NonNegative, Positive, part
from ._features import accuracy, class_count, labeled, pieces

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class FineTune:
    """rows: labeled rows, as many as evaluation allows when not given. epochs, batch, lr, weight_decay: of AdamW. decay: per layer."""

    reads = ("label",)

    def __init__(
        self,
        layout: Layout,
        *,
        rows: Positive[int] | None = None,
        epochs: Positive[int] = 10,
        batch: Positive[int] = 64,
        lr: Positive[float] = 5e-4,
        weight_decay: NonNegative[float] = 0.05,
        decay: Fraction = 0.75,
    ):
        self.layout, self.rows, self.epochs, self.batch = layout, rows, epochs, batch
        self.lr, self.weight_decay, self.decay = lr, weight_decay, decay

    def __call__(
        self, model: nn.Module, *, windows: Iterable[Any], training: Callable[[int | None], Iterable[Any]], fields: Any, seed: int
    ) -> dict[str, float]:
        """accuracy on held-out rows, and the last training loss."""
        if self.layout.ranks > 1:
            raise UserError("fine_tune trains a whole copy of the model in one process: use 'ingot evaluate RUN --with fine_tune' on one")
        learn, judge = (whole(found) for found in (training(self.rows), windows))
        # a batch of rows without a class has no loss
        known, _ = labeled(torch.arange(len(learn["label"]), device=learn["label"].device), learn["label"], learner="fine_tune")
        learn = {name: value if value.dim() == 0 else value[known] for name, value in learn.items()}
        classes = class_count(fields, learn["label"], judge["label"])
        with torch.enable_grad():
            twin, head, loss = self._trained(model, learn, classes, seed)
        with evaluating(twin):
            scores = torch.cat(
                [head(twin.features(batch).float()) for batch in pieces(judge, torch.arange(len(judge["rows"])), self.batch)]
            )
        real = (judge["label"] >= 0).cpu()
        return {"accuracy": accuracy(scores.argmax(dim=1).cpu()[real], judge["label"].cpu()[real]), "train_loss": loss}

    def _trained(self, model: nn.Module, learn: dict[str, Tensor], classes: int, seed: int) -> tuple[Any, nn.Module, float]:
        """A trained copy, its head, and the last epoch's mean loss."""
        twin: Any = copy.deepcopy(model).train()
        width = int(twin.features({name: value[:1] if value.dim() else value for name, value in learn.items()}).shape[1])
        head = nn.utils.skip_init(nn.Linear, width, classes, device=learn["rows"].device)  # torch's own draws would be seen by the run
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.AdamW(self.groups(twin, head), weight_decay=self.weight_decay)
        base = [group["lr"] for group in optimizer.param_groups]
        order = torch.Generator().manual_seed(seed)
        steps = self.epochs * math.ceil(len(learn["rows"]) / self.batch)
        step, losses = 0, []
        for epoch in range(self.epochs):
            losses = []
            for batch in pieces(learn, torch.randperm(len(learn["rows"]), generator=order), self.batch):
                for group, lr in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = lr * min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
                batch["rows"] = batch["rows"] + epoch * 1_000_003  # dropout is drawn by row: another one in every epoch
                loss = F.cross_entropy(head(twin.features(batch).float()), batch["label"], ignore_index=-100)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
                step += 1
        return twin, head, sum(losses) / max(1, len(losses))

    def groups(self, model: Any, head: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups by layer; only what the features come from has gradients."""
        depth = int(getattr(model.encoder, "depth", 0))
        found: dict[int, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name.split(".")[0] in ("embedding", "encoder"):
                block = re.match(r"encoder\.blocks\.(\d+)\.", name)
                layer = int(block[1]) + 1 if block else 0 if name.startswith("embedding.") else depth + 1
                found.setdefault(layer, []).append(parameter)
        found.setdefault(depth + 1, []).extend(head.parameters())
        return [{"params": parameters, "lr": self.lr * self.decay ** (depth + 1 - layer)} for layer, parameters in sorted(found.items())]


def whole(windows: Iterable[list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    """All real rows as one batch."""
    micros = [micro for window in windows for micro in window]
    found = {name: value if value.dim() == 0 else torch.cat([micro[name] for micro in micros]) for name, value in micros[0].items()}
    real = found["rows"] >= 0
    return {name: value if value.dim() == 0 else value[real] for name, value in found.items()}
