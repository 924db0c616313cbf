"""wav2vec 2.0's pre-training against transformers with random weights: scores, both losses, gradients, tensors both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients, same_tensors

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert.hf import load_into, read_folder, read_section, write_folder
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve

transformers = pytest.importorskip("transformers")
from transformers.models.wav2vec2 import modeling_wav2vec2  # noqa: E402

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 7,
    "num_codevector_groups": 2,
    "codevector_dim": 12,
    "proj_codevector_dim": 10,
    "num_negatives": 9,
    "mask_time_prob": 0.5,
    "mask_time_length": 4,
    "contrastive_logits_temperature": 0.2,
    "diversity_loss_weight": 0.3,
    "feat_quantizer_dropout": 0.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def theirs(more: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    model = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**SMALL | more, attn_implementation="eager")).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ours(folder: Path) -> tuple[Any, dict[str, Any]]:
    section, state, _, extra = read_folder(folder)
    assert extra["family"] == "wav2vec2_pretraining"
    section["embedding"]["normalize"] = False
    model = build_model(resolve(Recipe(section), Graph), vocabulary=None, sequence=64, specials={}, dtype=torch.float32)
    assert set(model.load_state_dict(state, strict=False).missing_keys) == {"objective.quantizer.usage", "objective.quantizer.seen"}
    return model.train(), section


@pytest.mark.parametrize("more", [{}, LARGE], ids=["base", "large"])
def test_losses_gradients_and_round_trip(more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = theirs(more)
    reference.save_pretrained(tmp_path / "in")
    model, section = ours(tmp_path / "in")
    objective = model.objective
    sound = torch.randn(3, 800, generator=torch.Generator().manual_seed(1))
    batch = objective.prepare({"rows": torch.arange(3), "key": torch.tensor(0), "waveform": sound})
    T = batch["masked"].shape[1]
    assert 0 < int(batch["masked"].sum()) < batch["masked"].numel()
    noise = objective.noise(batch, T)

    def with_our_noise(logits: torch.Tensor, tau: float, hard: bool) -> torch.Tensor:
        """The straight-through choice (Jang et al. 2016, arXiv:1611.01144) with the draws that ours makes."""
        soft = ((logits + noise.reshape(logits.shape)) / tau).softmax(dim=-1)
        return torch.zeros_like(soft).scatter(-1, soft.argmax(dim=-1, keepdim=True), 1.0) - soft.detach() + soft

    monkeypatch.setattr(modeling_wav2vec2.nn.functional, "gumbel_softmax", with_our_noise)
    reference.set_gumbel_temperature(objective.temperature)
    negatives = batch["negatives"] + (torch.arange(3) * T)[:, None, None]
    expected = reference(sound, mask_time_indices=batch["masked"], sampled_negative_indices=negatives)

    # The term of diversity is a tangent at a running average; taken at the batch's own p it has the batch's value and gradient.
    model(batch)
    objective.quantizer.counted({name.removeprefix("count/"): total for name, total in objective.quantizer.side.items()})
    found = {name: value.sum() for name, value in model(batch).items()}
    torch.testing.assert_close(found["contrastive"], expected.contrastive_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(found["diversity"], 0.3 * expected.diversity_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(sum(found.values()), expected.loss, rtol=1e-4, atol=0)
    (found["contrastive"] + found["diversity"]).backward()
    expected.loss.backward()
    wanted = gradients(reference, theirs(more), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)

    assert write_folder(model, section, tmp_path / "out") == "wav2vec2_pretraining"
    same_tensors(tmp_path)
    again = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert type(again) is type(reference)
    told = again.config.to_dict()
    assert {name: told[name] for name in SMALL | more} == SMALL | more
    again.train().set_gumbel_temperature(objective.temperature)
    torch.testing.assert_close(
        again(sound, mask_time_indices=batch["masked"], sampled_negative_indices=negatives).loss, expected.loss.detach()
    )


def test_a_bare_model_is_still_read_with_a_head_for_letters(tmp_path: Path) -> None:
    transformers.Wav2Vec2Model(theirs({}).config).save_pretrained(tmp_path)
    assert read_section(tmp_path)[0]["objective"]["name"] == "ctc"


def test_its_encoder_starts_a_recogniser(tmp_path: Path) -> None:
    theirs({}).save_pretrained(tmp_path)
    section, state, _, _ = read_folder(tmp_path)
    section = section | {"objective": {"name": "ctc"}}
    model = build_model(resolve(Recipe(section), Graph), vocabulary=12, sequence=64, specials={}, dtype=torch.float32)
    load_into(model, section, tmp_path)
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in state.items() if not name.startswith("objective."))
