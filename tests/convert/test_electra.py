"""ELECTRA's discriminator, and its generator inside of the joint training, against transformers with random weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _paired import agree, gradients, roughened, same_tensors
from safetensors.torch import load_file, save_file

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert.hf import read_folder, write_folder
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec

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
NARROW = SMALL | {"embedding_size": 20}
GENERATOR = SMALL | {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}


def theirs(kind: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    config = transformers.ElectraConfig(**settings, initializer_range=0.1, attn_implementation="eager", pad_token_id=0)
    model = getattr(transformers, f"ElectraFor{kind}")(config).eval()
    return roughened(model)


def build(section: dict[str, Any]) -> Any:
    return build_model(resolve(Recipe(section), Graph), vocabulary=101, sequence=32, specials={"mask": 3}, dtype=torch.float32).eval()


def rows() -> dict[str, torch.Tensor]:
    tokens = torch.randint(4, 101, (3, 21), generator=torch.Generator().manual_seed(1))
    segments = torch.ones_like(tokens)
    segments[1, 15:] = 0
    return {
        "rows": torch.arange(3),
        "key": torch.tensor(1),
        "tokens": tokens,
        "segments": segments,
        "positions": torch.arange(21).expand(3, -1),
    }


@pytest.mark.parametrize("settings", [SMALL, NARROW], ids=["plain", "narrow embedding"])
def test_detection_loss_gradients_and_round_trip(settings: dict[str, Any], tmp_path: Path) -> None:
    reference = theirs("PreTraining", settings)
    reference.save_pretrained(tmp_path / "in")
    section, state, _, extra = read_folder(tmp_path / "in")
    model = build(section)
    assert set(model.load_state_dict(state, strict=False).missing_keys) == {"objective.counts"}

    given = model.objective.prepare(rows())
    guessed = model.objective._from_table(given)
    inputs = model.objective.corrupted(given, guessed)
    labels = (inputs != given["tokens"]).long()
    expected = reference(input_ids=inputs, attention_mask=given["segments"], labels=labels)
    found = model(given)["detection"].sum() / given["units"].sum() / 50
    torch.testing.assert_close(found, expected.loss, rtol=1e-4, atol=0)
    real = given["segments"] > 0
    scores = model.logits(model.encode(given | {"inputs": inputs}, causal=False))[real]
    assert float((scores - expected.logits[real]).norm() / expected.logits[real].norm()) < 1e-4

    expected.loss.backward()
    found.backward()
    wanted = gradients(reference, type(reference)(reference.config), tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)

    assert write_folder(model, section, tmp_path / "out", sequence=32) == extra["family"] == "electra"
    same_tensors(tmp_path)
    again = type(reference).from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(again(input_ids=inputs, attention_mask=given["segments"]).logits, expected.logits.detach())


def test_the_generator_beside_it(tmp_path: Path) -> None:
    """Narrower than its embedding, which it shares: loss and gradients of the joint model's generator; export leaves it behind."""
    reference = theirs("MaskedLM", GENERATOR)
    section, _, _, _ = read_folder(_saved(theirs("PreTraining", SMALL), tmp_path / "in"))
    inner = {
        "name": "transformer",
        "depth": 1,
        "mixer": section["encoder"]["mixer"] | {"heads": 2},
        "feedforward": {"name": "gelu", "hidden": 40, "bias": True},
        "norm": section["encoder"]["norm"],
        "block": "post",
    }
    section = section | {
        "objective": {"name": "replaced_token", "generator": inner, "generator_width": 24, "norm": {"name": "layer", "eps": 1e-12}}
    }
    model = build(section)
    weights, own = reference.state_dict(), dict(model.named_parameters())
    with torch.no_grad():
        for name, place in mapping().items():
            own[place].copy_(weights[name])
    given = model.objective.prepare(rows())
    scored = given["wanted"] >= 0
    hidden = torch.zeros_like(given["tokens"]).scatter_add_(1, given["chosen"], scored.long()) > 0
    labels = torch.full_like(given["tokens"], -100).scatter(1, given["chosen"], given["wanted"])
    expected = reference(input_ids=given["tokens"].masked_fill(hidden, 3), attention_mask=given["segments"], labels=labels).loss
    found = model(given)["generator"].sum() / given["units/generator"].sum()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    expected.backward()
    found.backward()
    wanted = dict(reference.named_parameters())
    for name, place in mapping().items():
        assert float((own[place].grad - wanted[name].grad).norm()) < 1e-4 * max(1e-4, float(wanted[name].grad.norm())), name
    assert write_folder(model, section, tmp_path / "out", sequence=32) == "electra"
    assert not [name for name in load_file(tmp_path / "out" / "model.safetensors") if "generator" in name]


def mapping() -> dict[str, str]:
    """Their generator's names and ours."""
    found = {
        f"electra.embeddings.{theirs}.weight": f"embedding.{ours}weight"
        for theirs, ours in (
            ("word_embeddings", ""),
            ("position_embeddings", "position."),
            ("token_type_embeddings", "segment."),
            ("LayerNorm", "norm."),
        )
    }
    found["electra.embeddings.LayerNorm.bias"] = "embedding.norm.bias"
    layer, block = "electra.encoder.layer.0", "objective.generator.blocks.0"
    pairs = {f"{layer}.attention.self.{name}": f"{block}.mixer.{name}" for name in ("query", "key", "value")} | {
        f"{layer}.attention.output.dense": f"{block}.mixer.output",
        f"{layer}.attention.output.LayerNorm": f"{block}.mixer_norm",
        f"{layer}.intermediate.dense": f"{block}.feedforward.up",
        f"{layer}.output.dense": f"{block}.feedforward.down",
        f"{layer}.output.LayerNorm": f"{block}.feedforward_norm",
        "electra.embeddings_project": "objective.enter",
        "generator_predictions.dense": "objective.generator_head.linear",
        "generator_predictions.LayerNorm": "objective.generator_head.norm",
    }
    found |= {f"{theirs}.{leaf}": f"{ours}.{leaf}" for theirs, ours in pairs.items() for leaf in ("weight", "bias")}
    return found | {"generator_lm_head.bias": "objective.generator_head.bias"}


def _saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def test_what_is_unknown_is_refused_by_name(tmp_path: Path) -> None:
    folder = _saved(theirs("PreTraining", SMALL), tmp_path / "known")
    save_file(load_file(folder / "model.safetensors") | {"electra.surprise": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"surprise is unknown"):
        read_folder(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"gelu"', '"relu"'))
    with pytest.raises(UserError, match="hidden_act='relu'"):
        read_folder(folder)


def test_a_generator_cannot_share_a_table_that_is_narrower_than_the_model(tmp_path: Path) -> None:
    section = read_folder(_saved(theirs("PreTraining", NARROW), tmp_path))[0]
    inner = section["encoder"] | {"depth": 1}
    section = section | {"objective": {"name": "replaced_token", "generator": inner}}
    run = SimpleNamespace(model=SimpleNamespace(objective=spec("objective", **section["objective"])), stages=[])
    embedding = spec("nn.embedding", **section["embedding"])
    assert [said for said in embedding.target.check(embedding.knobs, {"run": run}) if "needs inner: null" in said]


def test_a_factor_on_what_the_head_reads_is_written(tmp_path: Path) -> None:
    """It stands before a layer and its gelu, so that no factor on the scores does the same."""
    theirs("PreTraining", SMALL).save_pretrained(tmp_path / "in")
    section, state, _, _ = read_folder(tmp_path / "in")
    model = build(section)
    model.load_state_dict(state, strict=False)
    model.objective.output_scale = 0.5
    write_folder(model, section, tmp_path / "out", sequence=32)
    again = transformers.ElectraForPreTraining.from_pretrained(tmp_path / "out").eval()
    tokens = rows()["tokens"]
    expected = model.logits(model.encode({"tokens": tokens}, causal=False))
    torch.testing.assert_close(again(input_ids=tokens).logits, expected, rtol=1e-4, atol=1e-5)
