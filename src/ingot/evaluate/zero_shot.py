r"""Classes told by their names alone: the class whose prompts lie nearest.   Radford et al. 2021 (CLIP), arXiv:2103.00020, section 3.1.

    w_c = mean over templates of v(template with the name of c), brought to length 1        class of a row = argmax_c u . w_c

Cost: one forward over the held-out rows and over classes times templates prompts, as many at once as rows (evaluate.batch_rows).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.evaluating import evaluating
from ..core.framing import framed, laid
from ..core.parts import part
from ._features import accuracy, features, labeled, pieces

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class ZeroShot:
    """classes: name of class 0, 1, ... template: sentences with {} in the place of the name, one or several."""

    reads = ("label",)

    def __init__(self, layout: Layout, *, classes: list[str], template: str | list[str] = "a picture of {}"):
        self.layout, self.classes = layout, classes
        self.templates = [template] if isinstance(template, str) else template

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        templates = [knobs["template"]] if isinstance(knobs["template"], str) else knobs["template"]
        if not templates or not all("{}" in template for template in templates):
            yield "every template wants {} where the name of the class goes"
        if len(knobs["classes"]) < 2:
            yield "there must be two classes at least to choose from"

    def __call__(
        self, model: nn.Module, *, windows: Iterable[Any], objective: Any, tokenizer: Any, fields: Any, batch_rows: int = 64
    ) -> dict[str, float]:
        """accuracy, a share."""
        if not hasattr(objective, "vectors") or "tokens" not in fields:
            raise UserError("zero_shot compares rows with texts: it needs an objective such as clip or siglip, and rows with text")
        device = next(model.parameters()).device
        w_CD = self.prompts(model, tokenizer, fields["tokens"].shape[0], device, batch_rows)
        u_ND, label_N = labeled(
            *features(model, windows, self.layout, "label", ask=lambda whole, batch: whole.objective.vectors(whole, batch, "main"))
        )
        if len(label_N) and int(label_N.max()) >= len(self.classes):
            raise UserError(f"zero_shot: there are rows of class {int(label_N.max())}, but only {len(self.classes)} names")
        return {"accuracy": accuracy((u_ND @ w_CD.T).argmax(dim=1), label_N)}

    def prompts(self, model: nn.Module, tokenizer: Any, sequence: int, device: torch.device, batch_rows: int) -> Tensor:
        """w, (classes, d) float64."""
        texts = [template.replace("{}", name) for name in self.classes for template in self.templates]
        rows = [laid(framed(encoded, tokenizer, sequence), sequence) for encoded in tokenizer.encode(texts)]
        batch = {key: torch.from_numpy(np.stack([row[key] for row in rows])).to(device) for key in rows[0]}
        batch |= {"rows": torch.arange(len(rows), device=device), "key": torch.zeros((), dtype=torch.int64, device=device)}
        with evaluating(model):
            v = torch.cat(
                [
                    model(piece, ask=lambda whole, given: whole.objective.vectors(whole, given, "other"))
                    for piece in pieces(batch, torch.arange(len(rows)), batch_rows)
                ]
            )
        return F.normalize(v.double().cpu().view(len(self.classes), len(self.templates), -1).mean(dim=1), dim=1)
