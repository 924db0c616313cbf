"""The head that scores a vocabulary, shared by language-model objectives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.axes import label
from ..ops.cross_entropy import linear_cross_entropy, token_nll


class Head(nn.Module):
    """The untied matrix, (vocabulary, width)."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "vocabulary", "width", role="head")


class VocabularyObjective(nn.Module):
    """Scores = softcap(output_scale * W h + b), W the embedding's weight where tied.

    output_scale: set by width-transferring initial values; 1 otherwise.
    """

    causal: bool
    couples_batch = False
    reads: tuple[str, ...] = ("tokens",)
    bias: Tensor | None

    def __init__(self, width: int, vocabulary: int, *, tied: bool, bias: bool, softcap: float | None, z_loss: float):
        super().__init__()
        self.vocabulary, self.softcap, self.z_loss, self.output_scale = vocabulary, softcap, z_loss, 1.0
        self.head = None if tied else Head(width, vocabulary)
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if bias else None
        if bias:
            label(self, "bias", "vocabulary", role="bias")

    def weight(self, model: nn.Module) -> Tensor:
        """(vocabulary, width): the embedding's own at this moment where tied, never a second registration."""
        return model.embedding.weight if self.head is None else self.head.weight  # type: ignore[union-attr, return-value]

    def transformed(self, h: Tensor) -> Tensor:
        """What happens to h before the matrix."""
        return h if self.output_scale == 1.0 else h * self.output_scale

    def logits(self, model: nn.Module, h: Tensor) -> Tensor:
        """(..., D) -> (..., vocabulary), in fp32 at least."""
        h = self.transformed(h)
        scores = F.linear(h, self.weight(model).to(h.dtype))
        scores = scores.to(torch.promote_types(h.dtype, torch.float32))
        if self.bias is not None:
            scores = scores + self.bias.to(scores.dtype)
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def losses(self, model: nn.Module, h_BTD: Tensor, targets_BT: Tensor) -> dict[str, Tensor]:
        """Sums per row; the z-loss, already weighted, under its own name."""
        loss_B, z_B = linear_cross_entropy(
            self.transformed(h_BTD), self.weight(model), targets_BT, bias_V=self.bias, softcap=self.softcap, z_loss=self.z_loss
        )
        return {"cross_entropy": loss_B, "z_loss": z_B} if self.z_loss else {"cross_entropy": loss_B}

    def token_losses(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss of every position of a prepared batch, (B, T), 0 where there is no target; without gradient."""
        with torch.no_grad():
            h_BTD = self.transformed(model.encode(batch, causal=self.causal))  # type: ignore[operator]
            return token_nll(h_BTD, self.weight(model), batch["targets"], bias_V=self.bias, softcap=self.softcap)
