"""IJepa against transformers with random weights: logits, gradients, tensors both ways, a bare model, and what is written of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients, roughened, same_tensors
from safetensors.torch import load_file
from torch.nn import functional as F

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert.hf import family_for, read_folder, write_folder
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
    "attn_implementation": "eager",
}
OWN = {
    "width": 16,
    "embedding": {"name": "patch", "patch": 8, "position": "sincos"},
    "encoder": {
        "name": "transformer",
        "depth": 1,
        "mixer": {"name": "attention", "heads": 2, "position": None, "bias": True},
        "feedforward": {"name": "gelu", "bias": True},
        "norm": "layer",
    },
}


def theirs(more: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    return roughened(transformers.IJepaForImageClassification(transformers.IJepaConfig(**SMALL | {"num_labels": 5} | more)).eval())


def build(section: dict[str, Any]) -> Any:
    fields = {"image": Field((3, 32, 32), "uint8"), "label": Field((), "int64", 5)}
    return build_model(resolve(Recipe(section), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32, fields=fields).eval()


@pytest.mark.parametrize(
    "more", [{}, {"qkv_bias": False, "num_channels": 1, "hidden_act": "gelu_new", "num_labels": 3}], ids=["plain", "odd"]
)
def test_logits_gradients_and_round_trip(more: dict[str, Any], tmp_path: Path) -> None:
    reference = theirs(more)
    reference.save_pretrained(tmp_path / "in")
    section, state, _, extra = read_folder(tmp_path / "in")
    model = build(section)
    model.load_state_dict(state, strict=True)
    pixels = torch.randn(3, more.get("num_channels", 3), 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2, 1])
    expected, found = reference(pixels).logits, model.logits(model.features({"image": pixels}))
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    F.cross_entropy(expected, labels).backward()
    F.cross_entropy(found, labels).backward()
    wanted = gradients(reference, theirs(more), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)
    assert write_folder(model, section, tmp_path / "out") == extra["family"] == "ijepa"
    same_tensors(tmp_path)


@pytest.mark.parametrize(("class_token", "name"), [(False, "IJepaModel"), (True, "ViTModel")])
def test_an_encoder_that_an_unknown_objective_trained_is_written_alone(class_token: bool, name: str, tmp_path: Path) -> None:
    """With its computed positions as tensors, and saying what stays behind; read back, it is the same encoder."""
    section = OWN | {"embedding": OWN["embedding"] | {"class_token": class_token}, "objective": {"name": "contrastive", "outputs": 8}}
    model, said = build(section), []
    assert write_folder(model, section, tmp_path, say=said.append) == ("vit" if class_token else "ijepa")
    assert said == [f"{name} has no place for objective.head, which stayed behind"]
    again, told = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert {key for key in told["missing_keys"] if not key.startswith("pooler.")} == set() == set(told["unexpected_keys"])
    pixels = torch.randn(2, 3, 32, 32)
    expected = model.encode({"image": pixels, "rows": torch.arange(2)}, causal=False)
    torch.testing.assert_close(again.eval()(pixels).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    read, state, _, _ = read_folder(tmp_path)
    twin = build(read)
    assert {key.split(".")[0] for key in twin.load_state_dict(state, strict=False).missing_keys} == {"objective"}
    torch.testing.assert_close(twin.encode({"image": pixels, "rows": torch.arange(2)}, causal=False), expected)


def test_a_classifier_is_never_left_behind(tmp_path: Path) -> None:
    section = OWN | {"objective": {"name": "classification", "classes": 5, "pooling": "last"}}
    whole = section | {"embedding": section["embedding"] | {"image": 32, "channels": 3}}
    with pytest.raises(UserError, match="pooling='last'"):
        family_for(whole)
    assert family_for(whole | {"objective": section["objective"] | {"pooling": "mean"}}).name == "ijepa"


def test_an_encoder_that_transformers_has_no_class_for_is_refused(tmp_path: Path) -> None:
    section = OWN | {"encoder": OWN["encoder"] | {"feedforward": "swiglu"}, "objective": {"name": "contrastive", "outputs": 8}}
    with pytest.raises(UserError, match="feedforward=swiglu"):
        write_folder(build(section), section, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_positions_are_those_of_the_model(tmp_path: Path) -> None:
    section = OWN | {"objective": {"name": "classification", "classes": 5}}
    model = build(section)
    write_folder(model, section, tmp_path)
    held = load_file(tmp_path / "model.safetensors")["ijepa.embeddings.position_embeddings"]
    assert torch.equal(held[0], model.embedding.position(torch.arange(16)[None])[0])
