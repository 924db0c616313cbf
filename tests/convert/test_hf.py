"""Every family against transformers with random weights: logits, gradients, tensors both ways, and what must be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import ZERO, agree, roughened
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ingot.convert.hf import expected_shapes, families, family_for, load_into, read_folder, read_section, write_folder
from ingot.core.axes import axes_of
from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.graph import Model

transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5e5,
}
SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 101,
    "max_position_embeddings": 64,
}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 101, "n_positions": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied-odd": ("GPT2", GPT2 | {"tie_word_embeddings": False, "vocab_size": 97, "n_inner": 70, "activation_function": "gelu"}),
    "llama": ("Llama", SMALL),
    "llama-tied-grouped": ("Llama", SMALL | {"tie_word_embeddings": True, "num_key_value_heads": 2}),
    "llama-biased": ("Llama", SMALL | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "vocab_size": 67}),
    "llama-3": ("Llama", SMALL | {"rope_parameters": LLAMA3, "head_dim": 16}),
    "mistral-window": ("Mistral", SMALL | {"sliding_window": 5, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2", SMALL | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2-untied": ("Qwen2", SMALL | {"num_key_value_heads": 4}),
    "qwen2-window": ("Qwen2", SMALL | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", SMALL | {"num_key_value_heads": 2, "head_dim": 24}),
    "qwen3-tied-biased": ("Qwen3", SMALL | {"num_key_value_heads": 4, "tie_word_embeddings": True, "attention_bias": True, "head_dim": 12}),
    "bert": ("Bert", SMALL),
    "bert-odd": ("Bert", SMALL | {"vocab_size": 89, "type_vocab_size": 3, "layer_norm_eps": 1e-6}),
}
UNTIED_BERT = {"bert-untied": ("Bert", SMALL | {"tie_word_embeddings": False})}  # holds a bias that it does not use


def theirs(case: str) -> Any:
    """A transformers model of the case with random weights, biases and gains included."""
    kind, settings = (CASES | UNTIED_BERT)[case]
    extra = {} if kind == "GPT2" else {"initializer_range": 0.1}
    config = getattr(transformers, f"{kind}Config")(**settings, **extra, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config._attn_implementation = "eager"
    head = "ForMaskedLM" if kind == "Bert" else "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    torch.manual_seed(3)
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    return roughened(model)


def build(section: dict[str, Any], sequence: int, vocabulary: int) -> Model:
    """A Model from a plain section."""
    parts = {}
    for name, slot in (("embedding", "nn.embedding"), ("encoder", "model.encoder"), ("objective", "objective")):
        knobs = dict(section[name])
        wiring = {
            "width": section["width"],
            "sequence": sequence,
            "vocabulary": vocabulary,
            "specials": {"mask": 0},
            "linear": spec("nn.linear", "dense"),
        }
        parts[name] = spec(slot, knobs.pop("name"), **knobs).build(**wiring)
    return Model(**parts).eval()


def ours(folder: Path) -> tuple[Model, dict[str, Any], dict[str, Any]]:
    section, state, _, extra = read_folder(folder)
    model = build(section, extra["sequence"], extra["vocabulary"])
    model.load_state_dict(state, strict=True)
    axes_of(model)
    return model, section, extra


@pytest.mark.parametrize("case", CASES)
def test_logits_gradients_and_round_trip(case: str, tmp_path: Path) -> None:
    reference = theirs(case)
    reference.save_pretrained(tmp_path / "in")
    model, section, extra = ours(tmp_path / "in")
    tokens = torch.randint(3, extra["vocabulary"], (3, 21), generator=torch.Generator().manual_seed(1))

    expected = reference(input_ids=tokens).logits
    found = model.logits(model.encode({"tokens": tokens}, causal=model.objective.causal))
    assert torch.linalg.norm(found - expected) / torch.linalg.norm(expected) < 1e-5

    F.cross_entropy(expected.flatten(0, 1), tokens.flatten()).backward()
    F.cross_entropy(found.flatten(0, 1), tokens.flatten()).backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    twin = type(reference)(reference.config)
    for p in twin.parameters():
        p.data.zero_()
    named = dict(twin.named_parameters())
    for name, gradient in gradients.items():
        named[name].data.copy_(gradient)
    twin.save_pretrained(tmp_path / "gradients")
    _, wanted, _, _ = read_folder(tmp_path / "gradients")
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted, zero=ZERO if CASES[case][0] in ("GPT2", "Bert") else ())  # the others rotate their keys

    assert write_folder(model, section, tmp_path / "out", sequence=extra["sequence"]) == extra["family"]
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("in", "out"))
    assert set(after) <= set(before)
    assert all(torch.equal(after[name], before[name]) for name in after)
    again = type(reference).from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    assert torch.equal(again(input_ids=tokens).logits, reference(input_ids=tokens).logits)


def save_case(case: str, folder: Path) -> dict[str, torch.Tensor]:
    theirs(case).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_transposed_tensor_is_refused_by_name(tmp_path: Path) -> None:
    tensors = save_case("llama", tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(tmp_path, tensors | {name: tensors[name].T})
    with pytest.raises(UserError, match=name):
        read_folder(tmp_path)


def test_unknown_and_missing_tensors_are_refused_by_name(tmp_path: Path) -> None:
    tensors = save_case("llama", tmp_path)
    missing = {name: tensor for name, tensor in tensors.items() if "layers.0.self_attn.q_proj" not in name}
    rewrite(tmp_path, missing | {"model.layers.0.surprise.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"(?s)layers.0.self_attn.q_proj.weight is missing.*surprise.weight is unknown"):
        read_folder(tmp_path)


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    tensors = save_case("gpt2", tmp_path)
    rewrite(tmp_path, tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1})
    with pytest.raises(UserError, match=r"lm_head\.weight differs"):
        read_folder(tmp_path)


def test_bare_and_old_names_are_read(tmp_path: Path) -> None:
    tensors = save_case("gpt2", tmp_path / "gpt2")
    expected = read_folder(tmp_path / "gpt2")[1]
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()} | {"h.0.attn.bias": torch.ones(1, 1, 4, 4)}
    rewrite(tmp_path / "gpt2", bare)
    found = read_folder(tmp_path / "gpt2")[1]
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    tensors = save_case("bert", tmp_path / "bert")
    expected = read_folder(tmp_path / "bert")[1]
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    rewrite(tmp_path / "bert", old | {"bert.pooler.dense.weight": torch.ones(2, 2), "cls.seq_relationship.bias": torch.ones(2)})
    found = read_folder(tmp_path / "bert")[1]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_without_a_head_is_read_and_the_head_starts_afresh(tmp_path: Path) -> None:
    whole = theirs("bert")
    whole.bert.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    section, state, _, extra = read_folder(tmp_path)
    assert not [name for name in state if name.startswith("objective.")]
    model = build(section, extra["sequence"], extra["vocabulary"])
    left = load_into(model, section, tmp_path)
    assert left and all(name.startswith("objective.") for name in left)
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(model.encode({"tokens": tokens}, causal=False), whole.bert(tokens).last_hidden_state, rtol=1e-4, atol=1e-5)
    rewrite(tmp_path, {name: tensor for name, tensor in whole.bert.state_dict().items() if "layer.1.output.dense.weight" not in name})
    with pytest.raises(UserError, match=r"layer\.1\.output\.dense\.weight is missing"):
        read_folder(tmp_path)


def test_shards_are_read(tmp_path: Path) -> None:
    theirs("qwen2").save_pretrained(tmp_path / "whole")
    theirs("qwen2").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    whole, shards = read_folder(tmp_path / "whole")[1], read_folder(tmp_path / "shards")[1]
    assert whole.keys() == shards.keys() and all(torch.equal(whole[name], shards[name]) for name in whole)


def test_shards_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs("llama").save_pretrained(tmp_path / "in")
    model, section, _ = ours(tmp_path / "in")
    monkeypatch.setattr("ingot.convert.hf.SHARD_BYTES", 20000)
    write_folder(model, section, tmp_path / "out", sequence=64)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), theirs("llama").parameters(), strict=True))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mpt"}, "type 'mpt'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "yarn"),
    ],
)
def test_configurations_that_are_not_understood_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[]", "config.json: wants a JSON object"),
        ("config.json", "{", "config.json: not JSON"),
        (
            "config.json",
            '{"model_type": "llama", "hidden_size": null, "num_attention_heads": 2}',
            "configuration is not one of llama|needs",
        ),
        ("model.safetensors.index.json", "[1]", "index.json: wants a JSON object"),
        ("model.safetensors.index.json", "{}", "index.json: wants a weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "index.json: wants a weight_map"),
    ],
)
def test_malformed_json_is_one_clear_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_one_clear_line(tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedforward": "relu2"}, r"feedforward=relu2"),
        ({"block": "hybrid"}, r"block=hybrid"),
        ({"mixer": {"name": "attention", "heads": 4, "softcap": 30.0}}, r"softcap"),
    ],
)
def test_what_no_family_expresses_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    encoder = {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 4}, "feedforward": "swiglu"} | changes
    section = {"width": 48, "embedding": "token", "encoder": encoder, "objective": "causal_lm"}
    with pytest.raises(UserError, match=message):
        family_for(section)


def test_a_family_is_found_by_what_the_section_is() -> None:
    mixer = {"name": "attention", "heads": 4}
    section = {
        "width": 48,
        "embedding": "token",
        "encoder": {"name": "transformer", "depth": 2, "mixer": mixer, "feedforward": "swiglu"},
        "objective": "causal_lm",
    }
    assert family_for(section).name == "llama"
    section["encoder"]["mixer"] = mixer | {"bias": True, "output_bias": False}  # type: ignore[index]
    assert family_for(section).name == "qwen2"
    section["encoder"]["mixer"] = mixer | {"qk_norm": "rms"}  # type: ignore[index]
    assert family_for(section).name == "qwen3"


def test_a_factor_on_the_logits_goes_into_an_untied_head(tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path / "in")
    model, section, _ = ours(tmp_path / "in")
    model.objective.output_scale = 0.5  # type: ignore[assignment]
    write_folder(model, section, tmp_path / "out", sequence=64)
    tokens = torch.arange(12)[None]
    expected = model.logits(model.encode({"tokens": tokens}, causal=True))
    found = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")(input_ids=tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_an_untied_bert_keeps_the_bias_of_its_head(tmp_path: Path) -> None:
    tensors = save_case("bert-untied", tmp_path / "in")
    own, other = "cls.predictions.decoder.bias", "cls.predictions.bias"
    assert not torch.equal(tensors[own], tensors[other])
    model, section, _ = ours(tmp_path / "in")
    write_folder(model, section, tmp_path / "out", sequence=64)
    tokens = torch.arange(12)[None]
    expected = theirs("bert-untied")(input_ids=tokens).logits
    torch.testing.assert_close(model.logits(model.encode({"tokens": tokens}, causal=False)), expected, rtol=1e-4, atol=1e-5)
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(again(input_ids=tokens).logits, expected, rtol=1e-5, atol=1e-6)
    rewrite(tmp_path / "in", {name: tensor for name, tensor in tensors.items() if name != own})  # a folder may lack it
    assert torch.equal(read_folder(tmp_path / "in")[1]["objective.bias"], tensors[other])


def test_weights_load_into_a_model_of_the_section_with_another_objective(tmp_path: Path) -> None:
    theirs("llama-tied-grouped").save_pretrained(tmp_path)
    section, extra = read_section(tmp_path)
    assert extra["tokenizer"] is None and extra["vocabulary"] == 101
    state = read_folder(tmp_path)[1]
    for objective in ({"name": "causal_lm", "tied": False}, {"name": "masked_lm", "transform": "layer"}):
        changed = section | {"objective": objective}
        model = build(changed, extra["sequence"], extra["vocabulary"])
        load_into(model, changed, tmp_path)
        found = model.state_dict()
        assert all(torch.equal(found[name], state[name]) for name in state)
        if not objective.get("tied", True):
            assert torch.equal(found["objective.head.weight"], state["embedding.weight"])


def test_weights_do_not_load_into_another_model(tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    section, extra = read_section(tmp_path)
    changed = section | {"encoder": section["encoder"] | {"depth": 3}}
    with pytest.raises(UserError, match=r"encoder\.depth=3"):
        load_into(build(changed, extra["sequence"], extra["vocabulary"]), changed, tmp_path)
    with pytest.raises(UserError, match=r"embedding\.weight"):
        load_into(build(section, extra["sequence"], 64), section, tmp_path)


def test_the_tokenizer_goes_with_the_model(tmp_path: Path) -> None:
    tokenizer = spec("data.tokenizer", "bytes").build()
    section = {
        "width": 32,
        "embedding": "token",
        "encoder": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 4}, "feedforward": "swiglu"},
        "objective": "causal_lm",
    }
    plain = {name: {"name": value} if isinstance(value, str) else value for name, value in section.items()}
    model = build(plain, 64, tokenizer.vocabulary)
    assert write_folder(model, section, tmp_path, tokenizer) == "llama"
    text = "Größe: 3 m² of \u4e2d\u6587\n"
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again(text, add_special_tokens=False)["input_ids"] == tokenizer.encode([text])[0].tolist()
    assert again.eos_token_id == tokenizer.end
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.eos_token_id == tokenizer.end and loaded.config.max_position_embeddings == 64
    tokens = torch.tensor([tokenizer.encode([text])[0].tolist()])
    torch.testing.assert_close(
        loaded(input_ids=tokens).logits, model.logits(model.encode({"tokens": tokens}, causal=True)), rtol=1e-4, atol=1e-5
    )
    assert read_folder(tmp_path)[2] == tmp_path / "tokenizer.json"


def test_every_family_is_tested_here() -> None:
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    assert [
        name
        for name in families()
        if not any(f'"{name}"' in text or f"test_{name}.py" in text for text in texts)
        and not Path(__file__).with_name(f"test_{name}.py").exists()
    ] == []
    assert expected_shapes(
        {
            "width": 8,
            "embedding": {"name": "token"},
            "encoder": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}},
            "objective": {"name": "causal_lm"},
        },
        sequence=4,
        vocabulary=5,
    )["embedding.weight"] == (5, 8)
