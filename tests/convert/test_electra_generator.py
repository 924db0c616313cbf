"""ELECTRA's generator by itself reads as a masked-language model: logits, gradients and tensors as transformers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients, roughened, same_tensors
from torch.nn import functional as F

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert._section import complete
from ingot.convert.electra_generator import FAMILY
from ingot.convert.hf import read_folder, write_folder
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve

transformers = pytest.importorskip("transformers")


SMALL = {
    "hidden_size": 48,
    "embedding_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 101,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "more", [{}, {"embedding_size": 60, "layer_norm_eps": 0.01}, {"embedding_size": 20, "tie_word_embeddings": False}], ids=str
)
def test_logits_gradients_and_round_trip(more: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = transformers.ElectraConfig(**SMALL | more, initializer_range=0.1, attn_implementation="eager")
    reference = roughened(transformers.ElectraForMaskedLM(config).eval())
    reference.save_pretrained(tmp_path / "in")
    section, state, _, extra = read_folder(tmp_path / "in")
    model = build_model(resolve(Recipe(section), Graph), vocabulary=101, sequence=32, specials={"mask": 3}, dtype=torch.float32).eval()
    model.load_state_dict(state, strict=True)
    tokens = torch.randint(4, 101, (3, 21), generator=torch.Generator().manual_seed(1))
    expected, found = reference(input_ids=tokens).logits, model.logits(model.encode({"tokens": tokens}, causal=False))
    assert extra["family"] == "electra_generator"
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    F.cross_entropy(expected.flatten(0, 1), tokens.flatten()).backward()
    F.cross_entropy(found.flatten(0, 1), tokens.flatten()).backward()
    wanted = gradients(reference, transformers.ElectraForMaskedLM(config), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)
    whole = complete(section, 32)
    assert complete(FAMILY.read(FAMILY.write(whole, 32, 101))[0], 32) == whole
    assert write_folder(model, section, tmp_path / "out", sequence=32, kind="electra_generator") == "electra_generator"
    same_tensors(tmp_path)
    again = transformers.ElectraForMaskedLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(again(input_ids=tokens).logits, expected.detach())
