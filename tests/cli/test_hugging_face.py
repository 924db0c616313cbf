"""A Hugging Face folder continued on own texts and exported: transformers computes the loss that Ingot measured, on the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _small import WORDS
from torch.nn import functional as F

import ingot
from ingot.build.initial_weights import adopt
from ingot.build.run import open_run
from ingot.cli import main

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "text" / "continue_hf.yaml")
SETTINGS = [
    "data.sequence=32",
    "data.holdout=0.2",
    "data.pack={name: stream, attend: row}",
    "stages.0.budget=50 steps",
    "stages.0.batch=256 tokens",
    "stages.0.optimizer.lr=1e-3",
    "evaluate.every=100%",
    "evaluate.rows=64",
    "checkpoint.every=100%",
    "precision=fp32",
    "compile=false",
    "log.tensorboard=false",
]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}


def texts() -> list[str]:
    """Documents in which each word says much about the next."""
    return [
        " ".join(WORDS[(start + step * (1 + start % 2)) % len(WORDS)] for step in range(60 + start)) + f" {start}.\n" for start in range(40)
    ]


def byte_level(specials: list[str]) -> Any:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(), tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def word_piece() -> Any:
    """The words and every character, whole and as a continuation; a trained vocabulary would differ from process to process, by its ties."""
    characters = sorted(set("".join(texts())) - set(" \n"))
    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters), *WORDS])
    inner = tokenizers.models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(inner)
    tokenizer.normalizer, tokenizer.pre_tokenizer = tokenizers.normalizers.BertNormalizer(), tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def llama(out: Path) -> None:
    tokenizer = byte_level(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        out
    )
    size = tokenizer.get_vocab_size() + 4  # rows of the embedding that no token uses
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, vocab_size=size, num_key_value_heads=2, bos_token_id=1, eos_token_id=2)
    ).save_pretrained(out)


def gpt2(out: Path) -> None:
    tokenizer = byte_level(["<|endoftext|>"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>").save_pretrained(
        out
    )
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, vocab_size=tokenizer.get_vocab_size(), bos_token_id=0, eos_token_id=0)
    ).save_pretrained(out)


def bert(out: Path) -> None:
    tokenizer = word_piece()
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(out)
    transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, vocab_size=tokenizer.get_vocab_size(), pad_token_id=0)).save_pretrained(
        out
    )


def qwen(name: str, **more: Any) -> Callable[[Path], None]:
    """Qwen2 and Qwen3: byte-level tokens, the end of a text marks its beginning too."""

    def make(out: Path) -> None:
        tokenizer = byte_level(["<|endoftext|>"])
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(out)
        config = getattr(transformers, f"{name}Config")(
            **SIZES, **more, vocab_size=tokenizer.get_vocab_size(), num_key_value_heads=2, bos_token_id=0, eos_token_id=0
        )
        getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(out)

    return make


SHAPES: dict[str, tuple[Callable[[Path], None], str, dict[str, int]]] = {
    "llama": (llama, "AutoModelForCausalLM", {"bos_token_id": 1, "eos_token_id": 2}),
    "qwen2": (qwen("Qwen2", tie_word_embeddings=True), "AutoModelForCausalLM", {"bos_token_id": 0, "eos_token_id": 0}),
    "qwen3": (qwen("Qwen3", head_dim=16), "AutoModelForCausalLM", {"bos_token_id": 0, "eos_token_id": 0}),
    "gpt2": (gpt2, "AutoModelForCausalLM", {"bos_token_id": 0, "eos_token_id": 0}),
    "bert": (bert, "AutoModelForMaskedLM", {"pad_token_id": 0}),
}


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shape's name; its folder ``model`` and texts lie in the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    SHAPES[request.param][0](tmp_path / "model")
    (tmp_path / "corpus").mkdir()
    for number, text in enumerate(texts()):
        (tmp_path / "corpus" / f"{number:02}.txt").write_text(text)
    return str(request.param)


def their_loss(shape: str, folder: str, run: Any) -> float:
    """Mean loss by transformers over the run's whole validation stream, from tokens to the number."""
    model = getattr(transformers, SHAPES[shape][1]).from_pretrained(folder, dtype=torch.float32).eval()
    (stream,) = run.data_of(0).validation.values()
    batch = {name: torch.from_numpy(value).long() for name, value in stream.batch(0, stream.rows_per_epoch).items()}
    batch = run.model.objective.prepare(batch | {"key": run.key()})
    there = (batch["segments"] > 0).long()
    with torch.no_grad():
        logits = model(input_ids=batch.get("inputs", batch["tokens"]), attention_mask=there).logits
    return float(F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=-100))


def test_continued_and_exported_it_computes_the_same_loss(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", RECIPE, "--from", "hf:model", "name=more", *SETTINGS]) == 0, capsys.readouterr().err
    assert main(["export", "runs/more", "out"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["evaluate", "runs/more", "--json"]) == 0
    (ours,) = json.loads(capsys.readouterr().out)["results"].values()
    run = open_run("runs/more")
    after, before = their_loss(shape, "out", run), their_loss(shape, "model", run)
    assert after == pytest.approx(ours["loss"], abs=1e-4)
    assert after < before - 0.5
    config = json.loads(Path("out/config.json").read_text())
    assert {name: config[name] for name in SHAPES[shape][2]} == SHAPES[shape][2]


@pytest.mark.parametrize("shape", ["llama"], indirect=True)
def test_a_run_goes_on_where_its_folder_is_gone(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It has weights and a tokenizer of its own; what has not begun is refused."""
    again = ["train", RECIPE, "--from", "hf:model", "name=more", *SETTINGS, "stages.0.budget=2 steps"]
    assert main(again) == 0, capsys.readouterr().err
    Path("model").rename("elsewhere")
    assert main(again) == 0, capsys.readouterr().err
    assert main(["train", "runs/more/recipe.yaml"]) == 0, capsys.readouterr().err
    assert main([*again, "model.encoder.depth=1"]) == 2
    assert "model.encoder.depth: 2 -> 1" in capsys.readouterr().err
    assert main([*again, "name=new"]) == 2


def test_the_tokenizer_comes_out_as_it_went_in(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "hf:model", "runs/model"]) == 0, capsys.readouterr().err
    assert main(["export", "runs/model", "out"]) == 0, capsys.readouterr().err
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(folder) for folder in ("model", "out"))
    for text in (*texts()[:3], "Ünïcode  and\tspace 東京 <s> [MASK]"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert"], indirect=True)
def test_documents_begin_and_end_as_the_model_knows_them(shape: str) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained("model")
    recipe = ingot.load_recipe(RECIPE, ["name=more", *SETTINGS, "data.pack={name: document}", "data.holdout=0"])
    adopt(recipe, "hf:model")
    run = ingot.build(recipe)
    (source,) = run.data_of(0).train.sources.values()
    rows = source.rows(np.arange(len(source)), np.arange(len(source)))
    stored = [tokens[segments > 0].tolist() for tokens, segments in zip(rows["tokens"], rows["segments"], strict=True)]
    wanted = [[*found, *[run.tokenizer.end] * (found[-1] != run.tokenizer.end)] for found in theirs(texts())["input_ids"]]
    assert sorted([piece for ids in wanted for piece in (ids[at : at + 32] for at in range(0, len(ids), 32))]) == sorted(stored)
    assert {ids[0] for ids in wanted} == {"llama": {1}, "bert": {2}}.get(shape, {ids[0] for ids in wanted})


@pytest.mark.parametrize("shape", ["llama"], indirect=True)
def test_a_prompt_begins_as_documents_do(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["import", "hf:model", "runs/model"]) == 0
    run, asked = open_run("runs/model"), []
    run.model.objective.writer = "token_by_token"
    monkeypatch.setattr(
        "ingot.model.write.WRITERS", {"token_by_token": lambda model, tokens, manner: asked.append(list(tokens)) or iter(())}
    )
    theirs = transformers.AutoTokenizer.from_pretrained("model")
    for prompt in ("the of", ""):
        assert "".join(run.generate(prompt)) == ""
        assert asked.pop() == theirs(prompt)["input_ids"]


@pytest.mark.parametrize("shape", ["gpt2", "qwen3"], indirect=True)
def test_plan_and_check_look_at_the_folder_s_model(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", RECIPE, "--from", "hf:model", "--memory", "1 GiB", "--json", *SETTINGS]) == 0
    model = getattr(transformers, SHAPES[shape][1]).from_pretrained("model")
    assert json.loads(capsys.readouterr().out)["parameters"] == sum(parameter.numel() for parameter in model.parameters())


VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
SERIES = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 24, "context_length": 16, "patch_length": 4}
BARE: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaModel", SIZES | {"vocab_size": 304, "num_key_value_heads": 2}, "objective.head.weight"),
    "bert": ("BertModel", SIZES | {"vocab_size": 120}, "objective.transform.linear.weight"),
    "vit": ("ViTModel", VISION, "objective.head.weight"),
    "patchtst": ("PatchTSTModel", SERIES | {"patch_stride": 4, "norm_type": "layernorm", "prediction_length": 3}, "objective.head.weight"),
}


@pytest.mark.parametrize("kind", BARE)
def test_a_model_without_a_head_is_imported_and_what_starts_afresh_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, sizes, fresh = BARE[kind]
    config = getattr(transformers, name).config_class(**sizes)
    getattr(transformers, name)(config).save_pretrained("bare")
    if kind in ("llama", "bert"):
        tokenizer = byte_level(["<unk>", "<s>", "</s>"]) if kind == "llama" else word_piece()
        specials = {"eos_token": "</s>"} if kind == "llama" else {"mask_token": "[MASK]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained("bare")
    assert main(["import", "hf:bare", "runs/bare"]) == 0
    said = capsys.readouterr().out
    assert fresh in said and "starts afresh" in said
    found = open_run("runs/bare").evaluate(rows=4)
    assert all(result["loss"] > 0 for result in found.values())


@pytest.mark.parametrize("kind", ["clip", "wav2vec2"])
def test_data_is_drawn_of_what_the_model_reads(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_level(["<unk>", "<s>", "</s>"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained("model")
    size = tokenizer.get_vocab_size()
    if kind == "clip":
        text = SIZES | {"vocab_size": size, "max_position_embeddings": 77, "eos_token_id": 2}
        made = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))
    else:
        stem = {"conv_dim": [16] * 2, "conv_kernel": [10, 8], "conv_stride": [40, 8], "num_feat_extract_layers": 2}
        more = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": size}
        made = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SIZES, **stem, **more))
    made.save_pretrained("model")
    assert main(["import", "hf:model", "runs/model"]) == 0
    assert all(result["loss"] > 0 for result in open_run("runs/model").evaluate(rows=4).values())


@pytest.mark.parametrize("shape", ["bert"], indirect=True)
def test_what_cannot_write_is_refused_before_anything_is_shown(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "hf:model", "runs/model"]) == 0
    capsys.readouterr()
    assert main(["generate", "runs/model", "the of"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "only a causal language model" in shown.err
