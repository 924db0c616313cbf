"""ELECTRA's generator by itself reads as a masked-language model: logits and tensors as transformers has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert._section import complete
from ingot.convert.electra_generator import FAMILY
from ingot.convert.hf import read_folder
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve

transformers = pytest.importorskip("transformers")


def test_logits_and_config_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(3)
    settings = {
        "hidden_size": 48,
        "embedding_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 101,
        "max_position_embeddings": 32,
    }
    reference = transformers.ElectraForMaskedLM(
        transformers.ElectraConfig(**settings, initializer_range=0.1, attn_implementation="eager")
    ).eval()
    reference.save_pretrained(tmp_path)
    section, state, _, extra = read_folder(tmp_path)
    model = build_model(resolve(Recipe(section), Graph), vocabulary=101, sequence=32, specials={"mask": 3}, dtype=torch.float32).eval()
    model.load_state_dict(state, strict=True)
    tokens = torch.randint(4, 101, (3, 21), generator=torch.Generator().manual_seed(1))
    expected, found = reference(input_ids=tokens).logits, model.logits(model.encode({"tokens": tokens}, causal=False))
    assert extra["family"] == "electra_generator"
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    whole = complete(section, 32)
    assert complete(FAMILY.read(FAMILY.write(whole, 32, 101))[0], 32) == whole
