"""Wav2Vec2 with a CTC head; a bare model, or one from pre-training, reads as one whose head is left to be trained."""

from __future__ import annotations

from functools import partial

from ._mapping import Family
from ._sound import IGNORED, RENAMED, VARIES, names, read, write

FAMILY = Family(
    "wav2vec2",
    ("wav2vec2",),
    "Wav2Vec2ForCTC",
    "wav2vec2.",
    partial(read, family="wav2vec2"),
    lambda section, sequence, vocabulary: write(section, vocabulary, "wav2vec2"),
    partial(names, prefix="wav2vec2."),
    ignored=(*IGNORED, r"masked_spec_embed$"),
    renamed=RENAMED,
    heads=("lm_head.", "quantizer.", "project_", "label_embeddings", "final_proj."),
    varies=VARIES,
    bare="Wav2Vec2Model",
    pretrains=("wav2vec2",),
)
