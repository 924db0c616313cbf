"""ViT against transformers with random weights: logits, gradients, tensors both ways, a bare model, what cannot be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients, roughened, same_tensors
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert._section import complete
from ingot.convert.hf import family_for, load_into, read_folder, write_folder
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field
from ingot.model.graph import Model

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
    "initializer_range": 0.1,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": SMALL,
    "odd": SMALL
    | {"qkv_bias": False, "num_channels": 1, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_new", "num_labels": 3},
}


def theirs(case: str) -> Any:
    torch.manual_seed(3)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**CASES[case], attn_implementation="eager")).eval()
    return roughened(model)


def build(section: dict[str, Any]) -> Model:
    fields = {"image": Field((3, 32, 32), "uint8"), "label": Field((), "int64", 5)}
    return build_model(resolve(Recipe(section), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32, fields=fields).eval()


def ours(folder: Path) -> tuple[Model, dict[str, Any]]:
    section, state, _, _ = read_folder(folder)
    model = build(section)
    model.load_state_dict(state, strict=True)
    return model, section


@pytest.mark.parametrize("case", CASES)
def test_logits_gradients_and_round_trip(case: str, tmp_path: Path) -> None:
    reference = theirs(case)
    reference.save_pretrained(tmp_path / "in")
    model, section = ours(tmp_path / "in")
    pixels = torch.randn(3, CASES[case].get("num_channels", 3), 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2, 1])
    expected, found = reference(pixels).logits, model.logits(model.features({"image": pixels}))
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    F.cross_entropy(expected, labels).backward()
    F.cross_entropy(found, labels).backward()
    wanted = gradients(reference, theirs(case), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)

    assert write_folder(model, section, tmp_path / "out") == "vit"
    same_tensors(tmp_path)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(again(pixels).logits, expected)


def test_a_recipes_own_model_is_written_with_what_the_data_decided(tmp_path: Path) -> None:
    section = {
        "width": 16,
        "embedding": {"name": "patch", "patch": 8, "class_token": True},
        "encoder": {
            "name": "transformer",
            "depth": 1,
            "mixer": {"name": "attention", "heads": 2, "position": None, "bias": True},
            "feedforward": {"name": "gelu", "bias": True},
            "norm": "layer",
        },
        "objective": {"name": "classification", "pooling": "first", "smoothing": 0.1},
    }
    model = build(section)
    write_folder(model, section, tmp_path, sequence=512)
    reference = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(reference(pixels).logits, model.logits(model.features({"image": pixels})))
    with pytest.raises(UserError, match="pooling='mean'"):
        family_for(
            section
            | {"embedding": section["embedding"] | {"image": 32, "channels": 3}, "objective": {"name": "classification", "classes": 5}}
        )


def test_a_bare_model_leaves_the_classifier_to_be_trained(tmp_path: Path) -> None:
    theirs("plain").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    expected = read_folder(tmp_path)[1]
    bare = {name.removeprefix("vit."): tensor for name, tensor in tensors.items() if not name.startswith("classifier")} | {
        "pooler.dense.weight": torch.ones(2, 2)
    }
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    section, state, _, _ = read_folder(tmp_path)
    assert state.keys() == {name for name in expected if not name.startswith("objective.")}
    model = build(section)
    before = model.objective.head.weight.clone()
    load_into(model, section, tmp_path)
    assert torch.equal(model.objective.head.weight, before) and torch.equal(model.encoder.norm.weight, expected["encoder.norm.weight"])


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    theirs("plain").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "vit.embeddings.patch_embeddings.projection.weight"
    save_file(tensors | {name: tensors[name][:, :2].contiguous()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"projection.weight has shape \(48, 2, 8, 8\), the configuration wants \(48, 3, 8, 8\)"):
        read_folder(tmp_path)


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize("how", [IMAGENET, {"do_normalize": False}, IMAGENET | {"rescale_factor": 1 / 127.5}, {"image_mean": [0.25] * 3}])
def test_pixels_are_normalized_as_the_folder_says(how: dict[str, Any], tmp_path: Path) -> None:
    """Bytes through ours are what they are through transformers' processor and model; and it comes back out as it went in."""
    there = theirs("plain")
    there.save_pretrained(tmp_path / "there")
    processor = transformers.ViTImageProcessor(do_resize=False, **how)
    processor.save_pretrained(tmp_path / "there")
    image = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model, section = ours(tmp_path / "there")
    with torch.no_grad():
        expected = there(**processor([one.numpy() for one in image], return_tensors="pt", input_data_format="channels_first")).logits
        found = model.logits(model.features({"image": image, "rows": torch.arange(2)}))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    write_folder(model, section, tmp_path / "back")
    again = complete(read_folder(tmp_path / "back")[0], 17)["embedding"]
    assert all(again[name] == complete(section, 17)["embedding"][name] for name in ("mean", "std"))


def test_a_model_that_normalizes_otherwise_is_another(tmp_path: Path) -> None:
    theirs("plain").save_pretrained(tmp_path)
    section = read_folder(tmp_path)[0]
    own = section | {"embedding": section["embedding"] | {"mean": [0.485, 0.456, 0.406]}}
    load_into(build(own), own, tmp_path)  # the folder does not say
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    load_into(build(section), section, tmp_path)
    with pytest.raises(UserError, match=r"embedding\.mean=\[0\.485"):
        load_into(build(own), own, tmp_path)
