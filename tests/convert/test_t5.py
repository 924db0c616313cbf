"""T5 against transformers with random weights: logits, loss and gradients with padding on both sides, tensors both ways, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients, same_tensors
from safetensors.torch import load_file, save_file

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert.hf import read_folder, write_folder
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve

transformers = pytest.importorskip("transformers")

SMALL = {
    "d_model": 48,
    "d_kv": 10,
    "d_ff": 70,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 101,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "relu": SMALL,
    "gated": SMALL
    | {
        "feed_forward_proj": "gated-gelu",
        "num_decoder_layers": 3,
        "tie_word_embeddings": False,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
    },
    "silu": SMALL | {"feed_forward_proj": "gated-silu"},
}


def theirs(case: str) -> Any:
    torch.manual_seed(3)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**CASES[case], attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    return model


def ours(folder: Path) -> tuple[Any, dict[str, Any], str]:
    section, state, _, extra = read_folder(folder)
    model = build_model(
        resolve(Recipe(section), Graph), vocabulary=101, sequence=32, specials={"end": 1, "sentinel_0": 100}, dtype=torch.float32
    ).eval()
    model.load_state_dict(state, strict=True)
    return model, section, extra["family"]


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    tokens, wanted = torch.randint(2, 101, (3, 21), generator=draw), torch.randint(2, 101, (3, 9), generator=draw)
    segments, documents = torch.ones_like(tokens), torch.ones_like(wanted)
    segments[1, 15:], documents[2, 6:] = 0, 0
    before = torch.cat([torch.zeros(3, 1, dtype=torch.int64), wanted[:, :-1]], dim=1)
    targets = wanted.masked_fill(documents == 0, -100)
    return {
        "rows": torch.arange(3),
        "key": torch.tensor(1),
        "tokens": tokens * segments,
        "segments": segments,
        "positions": torch.arange(21).expand(3, -1),
        "targets": targets,
        "decoder_tokens": before,
        "decoder_segments": documents,
        "decoder_positions": torch.arange(9).expand(3, -1),
        "units": (targets >= 0).sum(1),
    }


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_gradients_and_round_trip(case: str, tmp_path: Path) -> None:
    reference = theirs(case)
    reference.save_pretrained(tmp_path / "in")
    model, section, family = ours(tmp_path / "in")
    given = batch()
    asked = {"input_ids": given["tokens"], "attention_mask": given["segments"], "labels": given["targets"]}
    found, expected = model(given)["cross_entropy"].sum() / given["units"].sum(), reference(**asked)
    torch.testing.assert_close(found, expected.loss, rtol=1e-4, atol=0)
    h = model.objective.hidden(model, given)
    real = given["targets"] >= 0
    scores, wanted = model.logits(h)[real], reference(**asked | {"labels": None, "decoder_input_ids": given["decoder_tokens"]}).logits[real]
    assert float((scores - wanted).norm() / wanted.norm()) < 1e-4

    expected.loss.backward()
    found.backward()
    slopes = gradients(reference, type(reference)(reference.config), tmp_path / "gradients")
    assert slopes.keys() == dict(model.named_parameters()).keys()
    agree(model, slopes)

    assert write_folder(model, section, tmp_path / "out", sequence=32) == family == "t5"
    same_tensors(tmp_path)
    again = type(reference).from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(again(**asked | {"labels": None, "decoder_input_ids": given["decoder_tokens"]}).logits[real], wanted)


def test_a_cache_gives_what_whole_rows_give(tmp_path: Path) -> None:
    """Relative positions of a decoder that writes one token at a time."""
    from ingot.model.generate import answer

    theirs("gated").save_pretrained(tmp_path)
    model = ours(tmp_path)[0]
    row = {name: value[:1] for name, value in batch().items() if name in ("rows", "tokens", "segments", "positions")}
    assert len(list(answer(model, row, start=[0], max_new=8))) == 8
    assert list(answer(model, row, start=[0], max_new=8)) == list(answer(model, row, start=[0], max_new=8, cached=False))


def test_what_is_unknown_is_refused_by_name(tmp_path: Path) -> None:
    theirs("relu").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"decoder.block.0.surprise": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"surprise is unknown"):
        read_folder(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"relu"', '"gated-tanh"')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="feed_forward_proj='gated-tanh'"):
        read_folder(tmp_path)
