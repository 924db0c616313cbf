"""Data2VecAudio with a CTC head; a bare model, or one from pre-training, reads as one whose head is left to be trained."""

from __future__ import annotations

from functools import partial

from ._mapping import Family
from ._sound import IGNORED, RENAMED, VARIES, names, read, write

FAMILY = Family(
    "data2vec_audio",
    ("data2vec-audio",),
    "Data2VecAudioForCTC",
    "data2vec_audio.",
    partial(read, family="data2vec_audio"),
    lambda section, sequence, vocabulary: write(section, vocabulary, "data2vec_audio"),
    partial(names, prefix="data2vec_audio."),
    ignored=(*IGNORED, r"masked_spec_embed$"),
    renamed=RENAMED,
    heads=("lm_head.", "quantizer.", "project_", "label_embeddings", "final_proj."),
    varies=VARIES,
    bare="Data2VecAudioModel",
    pretrains=("data2vec_audio",),
)
