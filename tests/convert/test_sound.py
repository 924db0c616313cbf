"""wav2vec 2.0, HuBERT and data2vec-audio against transformers with random weights: outputs, gradients, CTC loss, tensors both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients, same_tensors
from safetensors.torch import load_file, save_file

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert.hf import family_for, load_into, read_folder, write_folder
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.model.graph import Model

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
    "pad_token_id": 3,
    "mask_time_prob": 0.0,
    "ctc_loss_reduction": "sum",
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", {"num_conv_pos_embeddings": 6}),
    "wav2vec2-large": ("Wav2Vec2", LARGE | {"num_conv_pos_embeddings": 7}),
    "hubert": ("Hubert", {"num_conv_pos_embeddings": 6}),
    "hubert-large": ("Hubert", LARGE | {"num_conv_pos_embeddings": 6, "feat_proj_layer_norm": False}),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}),
}


def theirs(case: str) -> Any:
    kind, more = CASES[case]
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**SMALL | more, attn_implementation="eager")
    model = getattr(transformers, f"{kind}ForCTC")(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ours(folder: Path) -> tuple[Model, dict[str, Any]]:
    section, state, _, extra = read_folder(folder)
    section["embedding"]["normalize"] = False
    model = build_model(resolve(Recipe(section), Graph), vocabulary=extra["vocabulary"], sequence=64, specials={}, dtype=torch.float32)
    model.load_state_dict(state, strict=True)
    return model, section


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_gradients_and_round_trip(case: str, tmp_path: Path) -> None:
    reference = theirs(case)
    reference.save_pretrained(tmp_path / "in")
    model, section = ours(tmp_path / "in")
    padded = "large" in case or case == "data2vec"  # the others of theirs are never told of padding
    sound = torch.randn(3, 800, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([800, 640, 700]) if padded else torch.tensor([800] * 3)
    mask = (torch.arange(800) < lengths[:, None]).long()
    said = torch.tensor([[1, 5, 5, 7], [2, 4, -100, -100], [9, 0, 8, -100]])
    sound = sound * mask
    batch = {"rows": torch.arange(3), "key": torch.tensor(0), "waveform": sound, "lengths": lengths, "transcript": said}
    expected = reference(sound, attention_mask=mask if padded else None, labels=said)
    prepared = model.objective.prepare(batch)
    found = model.logits(model.encode(prepared, causal=False))
    real = torch.arange(found.shape[1]) < model.embedding.lengths(batch)[:, None]
    assert float(((found - expected.logits)[real].norm() / expected.logits[real].norm()).detach()) < 1e-5
    loss = model(prepared)["ctc"].sum()
    torch.testing.assert_close(loss, expected.loss, rtol=1e-4, atol=1e-4)
    expected.loss.backward()
    loss.backward()
    wanted = gradients(reference, theirs(case), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)

    kind = {"Wav2Vec2": "wav2vec2", "Hubert": "hubert", "Data2VecAudio": "data2vec_audio"}[CASES[case][0]]
    assert write_folder(model, section, tmp_path / "out", kind=kind) == kind
    again = transformers.AutoModelForCTC.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(
        again(sound, attention_mask=mask if padded else None).logits[real], expected.logits[real], rtol=1e-4, atol=1e-4
    )
    same_tensors(tmp_path)


def test_a_bare_model_leaves_the_head_to_be_trained(tmp_path: Path) -> None:
    theirs("hubert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    expected = read_folder(tmp_path)[1]
    bare = {name.removeprefix("hubert."): tensor for name, tensor in tensors.items() if not name.startswith("lm_head")} | {
        "masked_spec_embed": torch.ones(32)
    }
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    section, state, _, extra = read_folder(tmp_path)
    assert state.keys() == {name for name in expected if not name.startswith("objective.")}
    model = build_model(resolve(Recipe(section), Graph), vocabulary=extra["vocabulary"], sequence=64, specials={}, dtype=torch.float32)
    before = model.objective.head.weight.clone()
    load_into(model, section, tmp_path)
    assert torch.equal(model.objective.head.weight, before) and torch.equal(
        model.embedding.project.weight, expected["embedding.project.weight"]
    )


def test_what_no_family_expresses_is_refused(tmp_path: Path) -> None:
    theirs("wav2vec2").save_pretrained(tmp_path)
    section = read_folder(tmp_path)[0]
    with pytest.raises(UserError, match=r"neighbors|embedding"):
        family_for(section | {"embedding": section["embedding"] | {"neighbors": 0, "norm": None}})
