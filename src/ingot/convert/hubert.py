"""Hubert with a CTC head; a bare model, or one from pre-training, reads as one whose head is left to be trained."""

from __future__ import annotations

from functools import partial

from ._mapping import Family
from ._sound import IGNORED, RENAMED, VARIES, names, read, write

FAMILY = Family(
    "hubert",
    ("hubert",),
    "HubertForCTC",
    "hubert.",
    partial(read, family="hubert"),
    lambda section, sequence, vocabulary: write(section, vocabulary, "hubert"),
    partial(names, prefix="hubert."),
    ignored=(*IGNORED, r"masked_spec_embed$"),
    renamed=RENAMED,
    heads=("lm_head.", "quantizer.", "project_", "label_embeddings", "final_proj."),
    varies=VARIES,
    bare="HubertModel",
    pretrains=("hubert",),
)
