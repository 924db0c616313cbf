r"""What an averaged teacher makes of the whole clip, predicted from a masked one.   Baevski et al. 2022 (data2vec), arXiv:2202.03555,
sections 3.2 to 3.4.

    y_t = mean over the teacher's K last blocks of norm(feed-forward's output)_t        norm: every feature, over the row's positions
    loss = sum over masked t of (1 / sqrt(D)) sum_d l(W h_t + b - y_t)_d                 l(d) = d^2, or d^2 / (2 beta) up to beta and |d| - beta / 2 beyond

h: the encoder's output where stretches of its input are replaced by a learned vector. The teacher is an average of the encoder,
t_k = t_{k-1} + forget (w - t_{k-1}); it shares the stem with the student and sees all of it. ``schedule: {objective.forget: ...}``
moves its rate.   State: the encoder once more.   Cost: one forward more, and the stem twice; 2 D^2 per position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.parts import Fraction, NonNegative, Positive, Spec, part
from ..ops.norm_over_time import norm_over_time
from ._collapse import deviation, moments
from ._masking import Hidden, places, stretches
from ._teacher import Teacher


@part
class Data2VecAudio(nn.Module):
    """share, span: of what is masked. layers: K. forget: how much of the teacher an update replaces. beta: of the loss, 0 for squares."""

    causal, couples_batch = False, False
    keeps_encoder = True

    def __init__(
        self,
        width: int,
        linear: Spec,
        embedding: Any,
        encoder: Any,
        *,
        share: Fraction = 0.65,
        span: Positive[int] = 10,
        layers: Positive[int] = 8,
        forget: Fraction = 0.001,
        beta: NonNegative[float] = 0.0,
    ):
        super().__init__()
        self.share, self.span, self.layers, self.forget, self.beta, self.embedding = share, span, layers, forget, beta, embedding
        self.hidden = Hidden(width)
        self.head = linear.build(inputs=width, outputs=width, bias=True, axes=("target", "width"), role="matrix")
        self.teacher = Teacher(encoder=encoder.module())

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        encoder = getattr(getattr(context.get("run"), "model", None), "encoder", None)
        if encoder is None:
            return
        if not hasattr(encoder.target, "through"):
            yield f"takes its targets from single blocks, which encoder {encoder.name!r} does not show"
        elif knobs["layers"] > encoder.knobs["depth"]:
            yield f"targets are of {knobs['layers']} blocks, but the encoder has {encoder.knobs['depth']}"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds masked (B, T) and units: masked positions."""
        T, length_B = places(self.embedding, batch)
        masked_BT = stretches(batch, T, length_B, self.share, self.span, 1, "data2vec_audio")
        return batch | {"masked": masked_BT, "units": masked_BT.sum(dim=1)}

    @torch.no_grad()
    def targets(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """y, (B, T, D), in fp32 at least."""
        was = model.embedding.training
        model.embedding.eval()  # what the teacher sees is not dropped out
        try:
            x_BTD, context = model.embed(batch, causal=False)
        finally:
            model.embedding.train(was)
        found: list[Tensor] = []
        blocks: Any = self.teacher.encoder.blocks  # type: ignore[union-attr]
        handles = [
            block.feedforward.register_forward_hook(lambda module, given, output: found.append(output)) for block in blocks[-self.layers :]
        ]
        try:
            self.teacher.encoder.through(x_BTD, context, 0, len(blocks))  # type: ignore[operator, union-attr]
        finally:
            for handle in handles:
                handle.remove()
        length_B = None if context.segments_BT is None else (context.segments_BT > 0).sum(dim=1)
        one, zero = (torch.full((x_BTD.shape[2],), value, device=x_BTD.device) for value in (1.0, 0.0))
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        return torch.stack([norm_over_time(y_BTD.to(wide), length_B, one, zero) for y_BTD in found]).mean(dim=0)

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        y_BTD = self.targets(model, batch)
        h_BTD = model.encode(batch, causal=False, hide=self.hidden.weight)  # type: ignore[operator]
        distance_BTD = (self.head(h_BTD).to(y_BTD.dtype) - y_BTD).abs()
        if self.beta:
            error_BTD = torch.where(distance_BTD <= self.beta, distance_BTD.square() / (2 * self.beta), distance_BTD - self.beta / 2)
        else:
            error_BTD = distance_BTD.square()
        return {"regression": (error_BTD.sum(dim=-1) * batch["masked"]).sum(dim=1) / y_BTD.shape[2] ** 0.5}

    def vitals(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """For health, per row: moments of y where it is predicted."""
        return moments(self.targets(model, batch), batch["masked"])

    def bands(self, means: Mapping[str, Tensor]) -> dict[str, tuple[float, float, float]]:
        """Targets that are all alike are predicted without looking."""
        return deviation(means)

    def begin(self, model: Any) -> None:
        """The teacher starts as the student."""
        self.teacher.begin({"encoder": model.encoder})

    def stepped(self, state: Any, log: dict[str, Any]) -> None:
        """After an update: the teacher follows."""
        self.teacher.follow({"encoder": state.model.encoder}, 1 - self.forget)
