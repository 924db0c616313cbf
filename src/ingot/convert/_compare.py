"""What of a model and of its written folder is compared, by the family's ``outputs``: pairs (ours, theirs) that should be equal.

``model`` is ours, ``theirs`` the folder opened with transformers, both in evaluation; ``batch`` rows of what the model's embeddings read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError

Batch = Mapping[str, Tensor]


def largest_difference(model: Any, theirs: Any, batch: dict[str, Tensor], outputs: str) -> float:
    """The largest difference of any output, over the largest of theirs."""
    with torch.no_grad():
        mine, other = OUTPUTS[outputs](model, theirs, batch)
    if mine.shape != other.shape:
        raise UserError(f"transformers gives outputs of shape {tuple(other.shape)} where the model gives {tuple(mine.shape)}")
    return float((mine.double() - other.double()).abs().max() / max(float(other.abs().max()), 1e-12))


def _value(model: Any, batch: Batch) -> Tensor:
    """What an embedding reads of a batch."""
    return batch[model.embedding.reads[0]]


def _logits(model: Any, theirs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    value = _value(model, batch)
    if hasattr(model.objective, "features") and not hasattr(model.objective, "heard"):  # one vector a row
        return model.logits(model.features(batch)), theirs(value).logits
    return model.logits(model.encode(batch, causal=bool(getattr(model.objective, "causal", False)))), theirs(value).logits


def _encoder(model: Any, theirs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    found = theirs(_value(model, batch)).last_hidden_state
    return model.encode(batch, causal=False), found.flatten(1, -2)  # series: theirs are (rows, channels, patches, features)


def _inside(name: str) -> Callable[[Any, Any, dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """The encoder that a pre-training class holds under this name."""
    return lambda model, theirs, batch: _encoder(model, getattr(theirs, name), batch)


def _written(model: Any, theirs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """An encoder-decoder's scores: it is asked for what it was given."""
    tokens = batch["tokens"]
    after = {"decoder_tokens": tokens, "decoder_positions": torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)}
    h = model.decode(batch | after, *model.encoded(batch, causal=False))
    return model.logits(h), theirs(input_ids=tokens, decoder_input_ids=tokens).logits


def _pairs(model: Any, theirs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    found = model.objective.represent(model, batch)
    other = theirs(input_ids=batch["tokens"], pixel_values=batch["image"])
    return torch.cat([found["main"], found["other"]]), torch.cat([other.image_embeds, other.text_embeds])


def _patches(model: Any, theirs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The encoder's, of the positions that stay, and what the decoder draws at those that are hidden; in our order and shape."""
    batch = model.objective.prepare(batch)
    kept, hidden, count = batch["kept"], batch["hidden"], batch["kept"].shape[1] + batch["hidden"].shape[1]
    rising = (torch.arange(kept.shape[1], device=kept.device) / count).expand(len(kept), -1)
    noise = torch.ones(len(kept), count, device=kept.device).scatter(1, kept, rising)  # theirs keeps what is least
    encoded = theirs.vit(batch["image"], noise=noise).last_hidden_state
    drawn = theirs(batch["image"], noise=noise).logits
    patch, channels = model.embedding.patch, model.embedding.channels
    drawn = drawn.unflatten(2, (patch, patch, channels)).permute(0, 1, 4, 2, 3).flatten(2)
    drawn = drawn.gather(1, hidden[..., None].expand(-1, -1, drawn.shape[2]))
    mine = model.encode(batch, causal=False), model.objective.predicted(model, batch)
    return torch.cat([part.flatten() for part in mine]), torch.cat([encoded.flatten(), drawn.flatten()])


def _forecast(model: Any, theirs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return model.objective.forecast(model, batch), theirs(past_values=batch["series"]).prediction_outputs


OUTPUTS: dict[str, Callable[[Any, Any, dict[str, Tensor]], tuple[Tensor, Tensor]]] = {
    "logits": _logits,
    "encoder": _encoder,
    "wav2vec2": _inside("wav2vec2"),
    "model": _inside("model"),
    "written": _written,
    "pairs": _pairs,
    "patches": _patches,
    "forecast": _forecast,
}
