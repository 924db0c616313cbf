"""CLIP, SigLIP and ViTMAE against transformers with random weights: outputs, losses, gradients, tensors both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients
from safetensors.torch import load_file

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert.hf import family_for, read_folder, write_folder
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve

transformers = pytest.importorskip("transformers")

STACK = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGE = STACK | {"image_size": 16, "patch_size": 8}
TEXT = STACK | {
    "vocab_size": 40,
    "max_position_embeddings": 6,
    "hidden_size": 24,
    "eos_token_id": 39,
    "bos_token_id": 38,
    "pad_token_id": 1,
}


def theirs(name: str) -> Any:
    torch.manual_seed(3)
    if name == "clip":
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=20))
    elif name == "siglip":
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT | {"projection_size": 32}, vision_config=IMAGE))
    else:
        model = transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(
                **STACK,
                image_size=32,
                patch_size=8,
                decoder_hidden_size=24,
                decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2,
                decoder_intermediate_size=40,
                norm_pix_loss=True,
            )
        )
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if "logit" not in own:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def ours(folder: Path) -> tuple[Any, dict[str, Any]]:
    section, state, _, extra = read_folder(folder)
    model = build_model(
        resolve(Recipe(section), Graph),
        vocabulary=extra["vocabulary"],
        sequence=extra["sequence"],
        specials={},
        dtype=torch.float32,
        fields={},
    )
    model.load_state_dict(state, strict=True)
    return model.eval(), section


def written(name: str, model: Any, section: dict[str, Any], folder: Path, sequence: int) -> None:
    assert write_folder(model, section, folder / "out", sequence=sequence) == name
    before, after = (load_file(folder / place / "model.safetensors") for place in ("in", "out"))
    before = {
        key.replace("decoder_encoder.layer.", "decoder_layers."): value for key, value in before.items()
    }  # an old name that version 5 writes
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_two_sides(name: str, tmp_path: Path) -> None:
    reference = theirs(name)
    reference.save_pretrained(tmp_path / "in")
    model, section = ours(tmp_path / "in")
    draw = torch.Generator().manual_seed(1)
    pixels, tokens = torch.randn(3, 3, 16, 16, generator=draw), torch.randint(2, 38, (3, 6), generator=draw)
    tokens[:, -1] = 39
    expected = reference(input_ids=tokens, pixel_values=pixels, return_loss=True)
    batch = model.objective.prepare({"rows": torch.arange(3), "key": torch.tensor(0), "image": pixels, "tokens": tokens})
    found = model.objective.represent(model, batch)
    torch.testing.assert_close(found["main"], expected.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["other"], expected.text_embeds, rtol=1e-4, atol=1e-5)
    loss = sum(value.sum() for value in model(batch).values()) / 3
    torch.testing.assert_close(loss, expected.loss, rtol=1e-4, atol=0)
    expected.loss.backward()
    loss.backward()
    wanted = gradients(reference, theirs(name), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)
    written(name, model, section, tmp_path, 6)
    again = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    again_found = again(input_ids=tokens, pixel_values=pixels)
    torch.testing.assert_close(again_found.logits_per_image, expected.logits_per_image, rtol=1e-4, atol=1e-4)


def test_masked_patches(tmp_path: Path) -> None:
    reference = theirs("vit_mae")
    reference.save_pretrained(tmp_path / "in")
    model, section = ours(tmp_path / "in")
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batch = model.objective.prepare({"rows": torch.arange(3), "key": torch.tensor(0), "image": pixels})
    noise = torch.ones(3, 16).scatter(1, batch["kept"], torch.arange(4.0).expand(3, 4) / 10)
    expected = reference(pixel_values=pixels, noise=noise)
    values = (
        expected.logits.view(3, 16, 8, 8, 3).permute(0, 1, 4, 2, 3).flatten(2).gather(1, batch["hidden"][..., None].expand(-1, -1, 192))
    )
    torch.testing.assert_close(model.objective.predicted(model, batch), values, rtol=1e-4, atol=1e-4)
    loss = model(batch)["squared_error"].sum() / batch["units"].sum()
    torch.testing.assert_close(loss, expected.loss, rtol=1e-4, atol=0)
    expected.loss.backward()
    loss.backward()
    fixed = ("embedding.position.weight", "objective.fill.position.weight")  # theirs do not train
    wanted = gradients(reference, theirs("vit_mae"), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted, without=fixed)
    written("vit_mae", model, section, tmp_path, 17)
    again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(again(pixel_values=pixels, noise=noise).loss, expected.loss)


def test_a_tower_of_another_name_is_refused(tmp_path: Path) -> None:
    theirs("clip").save_pretrained(tmp_path)
    section = read_folder(tmp_path)[0]
    section |= {"towers": {"words": section["towers"]["text"]}, "objective": section["objective"] | {"tower": "words"}}
    with pytest.raises(UserError, match=r"no model without towers\.text, towers\.words"):
        family_for(section)
