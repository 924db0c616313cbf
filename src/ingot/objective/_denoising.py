"""What objectives share that hide spans behind sentinels and ask for them: for an encoder and a decoder, or for one causal stack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..ops.cross_entropy import token_nll
from ._head import VocabularyObjective
from ._spans import assemble, borders, by_document, count_within, positions_in, shifted

Form = Literal["encoder_decoder", "causal"]


class Denoising(VocabularyObjective):
    """The encoder reads a document with every hidden span as one sentinel; what is asked for is each sentinel with its span, then end.

    form: ``encoder_decoder``, or ``causal``: both one after another in one stack, scored on the second part. Spans end where documents do;
    sentinels count anew in each. spare: room of a row for what documents add; rows of very many short ones are cut.
    """

    def __init__(
        self,
        width: int,
        vocabulary: int,
        specials: Mapping[str, int],
        decoder_width: int = 0,
        *,
        form: Form,
        sentinels: list[int] | None,
        start: int | None,
        scaled: bool,
        tied: bool,
        bias: bool,
        softcap: float | None,
        z_loss: float,
    ):
        width = (decoder_width or width) if form == "encoder_decoder" else width  # of what the head reads
        super().__init__(width, vocabulary, tied=tied, bias=bias, softcap=softcap, z_loss=z_loss)
        self.form, self.causal = form, form == "causal"
        self.factor = width**-0.5 if scaled else 1.0
        self.sentinels = sentinels if sentinels is not None else sentinels_of(specials)
        if not self.sentinels or max(self.sentinels) >= vocabulary:
            raise UserError(
                "objective: spans need sentinels; set data.tokenizer.sentinels, or objective.sentinels to ids below the vocabulary's size"
            )
        self.end = specials.get("end", 0)
        self.start = specials.get("pad", self.end) if start is None else start
        self.visible = sorted({*specials.values(), *self.sentinels})  # specials are never hidden

    def transformed(self, h: Tensor) -> Tensor:
        return super().transformed(h if self.factor == 1.0 else h * self.factor)

    def documents(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, T) document numbers, 0 for padding."""
        segments = batch.get("segments")
        return segments if segments is not None else (batch["rows"] >= 0).to(torch.int32)[:, None].expand_as(batch["tokens"]).contiguous()

    def corrupted(
        self, batch: dict[str, Tensor], hidden_BT: Tensor, lengths: tuple[int, int], mode_B1: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The batch with rows as encoder and decoder read them. lengths: of their rows. mode_B1: id put before every document."""
        tokens_BT, segments_BT = batch["tokens"], self.documents(batch)
        hidden_BT = hidden_BT & (segments_BT > 0) & ~torch.isin(tokens_BT, torch.tensor(self.visible, device=tokens_BT.device))
        first_BT = borders(segments_BT)
        starts_BT = hidden_BT & (first_BT | ~hidden_BT.roll(1, dims=1))
        number_BT = count_within(starts_BT, first_BT)
        table = torch.tensor(self.sentinels, device=tokens_BT.device)
        sentinel_BT = table[(number_BT - 1).clamp(0, len(table) - 1)]
        last_BT = first_BT.roll(-1, dims=1)
        last_BT[:, -1] = True
        read = [(starts_BT, sentinel_BT), (~hidden_BT, tokens_BT)]
        read = read if mode_B1 is None else [(first_BT, mode_B1), *read]
        asked = [(starts_BT, sentinel_BT), (hidden_BT, tokens_BT), (last_BT & (number_BT > 0), torch.tensor(self.end))]
        return self._arranged(batch, assemble(read, segments_BT, lengths[0]), assemble(asked, segments_BT, lengths[1])) | {
            "spent": (segments_BT > 0).sum(1)
        }

    def _arranged(self, batch: dict[str, Tensor], read: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        if self.form == "encoder_decoder":
            (tokens, segments), (wanted, documents) = read, asked
            targets = torch.where(documents > 0, wanted, -100)
            added = {
                "decoder_tokens": shifted(wanted, documents, self.start),
                "decoder_segments": documents,
                "decoder_positions": positions_in(documents),
            }
        else:
            tokens, segments, origin = by_document((read[0], asked[0]), (read[1], asked[1]))
            scored = (origin[:, 1:] == 1) & (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
            targets = torch.full_like(tokens, -100)
            targets[:, :-1] = torch.where(scored, tokens[:, 1:], -100)
            added = {}
        added |= {"tokens": tokens, "segments": segments, "positions": positions_in(segments)}
        return batch | added | {"targets": targets, "units": (targets >= 0).sum(dim=1)}

    def hidden(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """What the head reads, at every target."""
        if self.form == "causal":
            return model.encode(batch, causal=True)  # type: ignore[no-any-return]
        return model.decode(batch, *model.encoded(batch, causal=False))  # type: ignore[no-any-return]

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.losses(model, self.hidden(model, batch), batch["targets"])

    def token_losses(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return token_nll(
                self.transformed(self.hidden(model, batch)), self.weight(model), batch["targets"], bias_V=self.bias, softcap=self.softcap
            )


def sentinels_of(specials: Mapping[str, int]) -> list[int]:
    """Ids of sentinel_0, sentinel_1, ..."""
    found = []
    while f"sentinel_{len(found)}" in specials:
        found.append(specials[f"sentinel_{len(found)}"])
    return found


def room(length: int, rate: float, mean: float) -> tuple[int, int]:
    """Positions that encoder and decoder need for a row of `length` whose spans are such, with room for what documents add."""
    hidden = min(max(1, round(length * rate)), length - 1)
    spans, spare = max(1, round(hidden / mean)), max(4, length // 32)
    return length - hidden + spans + spare, hidden + spans + spare


def refusals(knobs: dict[str, Any], context: dict[str, Any], spans: int, rooms: Sequence[tuple[int, int]]) -> Iterable[str]:
    """Why the run's model or tokenizer does not go with the objective. spans: the most of a row. rooms: what rows may need, see room."""
    run = context.get("run")
    if run is None:
        return
    if knobs["form"] == "encoder_decoder" and run.model.decoder is None:
        yield "the form encoder_decoder needs model.decoder, with a mixer over the encoder as cross; or set form: causal"
    if knobs["form"] == "causal" and run.model.decoder is not None:
        yield "the form causal puts everything into one stack and leaves model.decoder idle; remove it, or set form: encoder_decoder"
    inner = None if run.model.decoder is None else run.model.decoder.knobs.get("inner")
    if knobs["form"] == "encoder_decoder" and knobs["tied"] and inner not in (None, run.model.width):
        yield f"the tied head is as wide as the model, {run.model.width}, but the decoder ends at {inner}; set objective.tied to false"
    read, asked = (max(most) for most in zip(*rooms, strict=True))
    need = read + asked if knobs["form"] == "causal" else max(read, asked)
    for name in ("embedding", "target_embedding"):
        embedding = getattr(run.model, name)
        position = None if embedding is None else embedding.knobs.get("position")
        size = None if position is None or "size" not in position.knobs else position.knobs["size"] or context["sequence"]
        if size is not None and size < need:
            yield f"rows of the form {knobs['form']} have up to {need} positions, but {name} ends at {size}; set its position.size to at least {need}"
    tokenizer = run.data.tokenizer
    held = (
        len(knobs["sentinels"]) if knobs["sentinels"] is not None else tokenizer.knobs.get("sentinels") if tokenizer is not None else None
    )
    if held is not None and held < spans:
        yield f"rows of {run.data.sequence} tokens have {spans} spans, but there are {held} sentinels; set data.tokenizer.sentinels to at least {spans}"
