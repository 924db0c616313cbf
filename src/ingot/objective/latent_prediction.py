r"""Blocks of an image are predicted in the space of an averaged teacher, from what is seen of the rest.   Assran et al. 2023 (I-JEPA),
arXiv:2301.08243, section 3.

    s = norm(teacher(x)) at the blocks        h = encoder(context)        p = W decoder(h, placeholders at a block) + b, block by block

    loss = sum over blocks and their positions of mean over features of huber(p - s)        t_k = m t_{k-1} + (1 - m) w_k

norm: each vector brought to mean 0, deviation 1. huber: |d| - 1/2 beyond 1, d^2 / 2 within. The predictor is model.decoder with
``cross: null``; the teacher sees the whole image and gives no gradient. The paper lets m rise to 1: set forget, 1 - m, and
``schedule: {objective.forget: ...}``, to 0.

DEPARTS: blocks have one size (``size`` of the image's area, square), and the context exactly the T - blocks * area positions that there
must at least be outside of them; the paper draws sizes per batch and cuts contexts to the shortest. So a row's masks depend on it alone.

State: embedding and encoder once more.   Cost: context and blocks forward and backward, one forward of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.parts import Fraction, Positive, Slot, Spec, part
from ..core.seams import Field
from ..nn.embedding._placed import refuse_turning
from ..nn.side import Gathered
from ..ops.random import hash_uniform, salt_of
from ._collapse import deviation, moments
from ._patches import ADDED, Filler, entered, known_grid, refuse_padding, unfit_decoder
from ._teacher import Teacher, refuse_rising


@part
class LatentPrediction(nn.Module):
    """blocks: how many are predicted. size: share of the positions in each. momentum: m; forget, where it is given instead: 1 - m, how much
    of the teacher an update replaces. position: of the predictor's positions."""

    causal, couples_batch = False, False
    keeps_encoder = True

    def __init__(
        self,
        width: int,
        linear: Spec,
        embedding: Any,
        encoder: Any,
        decoder_width: int,
        fields: Mapping[str, Field] | None = None,
        *,
        blocks: Positive[int] = 4,
        size: Fraction = 0.17,
        momentum: Fraction = 0.996,
        forget: Fraction | None = None,
        position: Slot["nn.position"] = "sincos",
    ):
        super().__init__()
        refuse_padding("latent_prediction", embedding, fields)
        self.embedding, self.blocks, self.size = embedding, blocks, size
        self.forget = 1 - momentum if forget is None else forget
        self.side_of(tuple(embedding.size))
        self.fill = Filler(decoder_width, embedding, position)
        self.head = linear.build(inputs=decoder_width, outputs=width, bias=True, axes=("target", "width"), role="matrix")
        self.teacher = Teacher(embedding=embedding.module(), encoder=encoder.module())

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from unfit_decoder("latent_prediction", context)
        yield from refuse_turning(knobs["position"], ADDED)
        yield from refuse_rising(knobs, context)
        if knobs["blocks"] * knobs["size"] >= 1:
            yield f"{knobs['blocks']} blocks of {knobs['size']:g} of the image leave nothing to see"

    def side_of(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of a block along each axis. Raises UserError where nothing would be left to see."""
        share = self.size ** (1 / len(grid))
        side = tuple(max(1, round(size * share)) for size in grid)
        if self.blocks * prod(side) >= prod(grid):
            raise UserError(
                f"objective: {self.blocks} blocks of {' x '.join(map(str, side))} leave nothing to see of {' x '.join(map(str, grid))} positions"
            )
        return side

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds kept (B, K), hidden (B, blocks, area) and units: predicted positions."""
        grid, rows, device = known_grid("latent_prediction", self.embedding, batch), batch["rows"], batch["rows"].device
        side, count = self.side_of(grid), prod(grid)
        draws = (
            hash_uniform(rows, self.blocks * len(grid), batch["key"], salt_of("latent_prediction/blocks"))
            .to(device)
            .view(-1, self.blocks, len(grid))
        )
        hidden = torch.zeros(len(rows), self.blocks, 1, dtype=torch.int64, device=device)
        for axis, (size, length) in enumerate(zip(grid, side, strict=True)):
            start = (draws[:, :, axis].double() * (size - length + 1)).long().clamp(max=size - length)
            place = start[..., None] + torch.arange(length, device=device)
            hidden = (hidden[..., None] * size + place[:, :, None]).flatten(2)
        seen = hash_uniform(rows, count, batch["key"], salt_of("latent_prediction/context")).to(device)
        seen = seen.scatter(1, hidden.flatten(1), 2.0)
        kept = seen.argsort(dim=1, stable=True)[:, : count - self.blocks * prod(side)].sort(dim=1).values
        return batch | {"kept": kept, "hidden": hidden, "units": (rows >= 0).long() * self.blocks * prod(side)}

    def forward(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h_BKD, context = model.encoded(batch, causal=False)
        B, blocks, area = batch["hidden"].shape
        y, place = (value.repeat_interleave(blocks, dim=0) for value in (entered(model, h_BKD), context.positions_BT))
        rows = {"rows": batch["rows"].repeat_interleave(blocks), "key": batch["key"]}
        p = self.head(self.fill.through(model, rows, y, place, batch["hidden"].flatten(0, 1) + self.fill.leading))
        sides = Gathered(model.decoder)
        sides.take(torch.arange(B, device=p.device).repeat_interleave(blocks), rows=B)
        sides.leave()
        p = p.to(torch.promote_types(p.dtype, torch.float32)).view(B, blocks * area, -1)
        error_BU = F.smooth_l1_loss(p, self.targets(model, batch).to(p.dtype), reduction="none").mean(dim=-1)
        return {"latent": error_BU.sum(dim=1) * (batch["units"] > 0)}

    @torch.no_grad()
    def targets(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """s, (B, blocks area, D)."""
        whole = {key: value for key, value in batch.items() if key not in ("kept", "hidden")}
        h_BTD = model.encoded(whole, causal=False, tower=self.teacher)[0][:, self.fill.leading :]
        s = F.layer_norm(h_BTD.to(torch.promote_types(h_BTD.dtype, torch.float32)), h_BTD.shape[-1:])
        return s.gather(1, batch["hidden"].flatten(1)[..., None].expand(-1, -1, s.shape[-1]))

    def vitals(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """For health, per row: moments of s."""
        return moments(self.targets(model, batch))

    def bands(self, means: Mapping[str, Tensor]) -> dict[str, tuple[float, float, float]]:
        """Targets that are all alike are predicted without looking."""
        return deviation(means)

    def begin(self, model: Any) -> None:
        """The teacher starts as the student."""
        self.teacher.begin({"embedding": model.embedding, "encoder": model.encoder})

    def stepped(self, state: Any, log: dict[str, Any]) -> None:
        """After an update: the teacher follows."""
        self.teacher.follow({"embedding": state.model.embedding, "encoder": state.model.encoder}, 1 - self.forget)
