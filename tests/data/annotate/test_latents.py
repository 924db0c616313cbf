"""Latents: found once over all rows by encoders that do not change, equal to those encoders' own output, mixed by row number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ingot
from ingot.build.check import resolve_run
from ingot.build.initial_weights import adopt_tokenizer
from ingot.build.latents import frozen
from ingot.build.run import Run
from ingot.cli import main
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe, load, merge_keys
from ingot.core.resolve import spec
from ingot.data.loader import Loader


@pytest.fixture
def run(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return Run(
        resolve_run(load(repository / "recipes/image_text/fusemix_emoji.yaml", ["data.train.count=40"], tiny=True)), tmp_path / "run"
    )


def entered(run: Any) -> Any:
    from ingot.build.annotate import annotate

    return annotate(run, {}, 0, entering=True)


def test_rows_hold_what_the_encoders_give(run: Any) -> None:
    data = run.data_of(0)
    plain = data.plain["synthetic_images"].sources["synthetic_images"]
    before = plain.rows(np.arange(5), np.arange(5))
    assert "found" in entered(run)
    rows = plain.rows(np.arange(5), np.arange(5))
    assert rows.keys() == {"rows", "label", "latent_image", "latent_text"} and np.array_equal(rows["label"], before["label"])
    chosen = run.section.stages[0].annotate
    batch = {key: torch.from_numpy(value) for key, value in before.items()} | {"key": run.key()}
    for name, one in chosen.knobs["encoders"].items():
        model = frozen(run, one, name).eval()
        h_BTD, context = model.encoded(batch, causal=False)
        weight = torch.ones(h_BTD.shape[:2]) if context.segments_BT is None else (context.segments_BT > 0).float()
        wanted = (h_BTD * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        np.testing.assert_allclose(rows[f"latent_{name}"], wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert "reused" in entered(run)


def test_blends_depend_on_the_row_number_alone(run: Any) -> None:
    entered(run)
    stream = run.data_of(0).train
    whole = next(Loader(stream, start=8, rows_per_step=8, micro_rows=8, prefetch=0))[0]
    parts = [
        micro for rank in range(2) for micro in next(Loader(stream, start=8, rows_per_step=8, micro_rows=2, rank=rank, ranks=2, prefetch=0))
    ]
    for key in ("latent_image", "latent_text", "label"):
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])
    plain = run.data_of(0).plain["synthetic_images"].sources["synthetic_images"]
    _, _, ids = stream.locate(np.arange(8, 16))
    assert not np.allclose(plain.rows(ids, ids)["latent_image"], whole["latent_image"].numpy())
    again = next(Loader(stream, start=48, rows_per_step=8, micro_rows=8, prefetch=0))[0]  # another epoch
    assert not torch.equal(again["latent_image"], whole["latent_image"])


def test_an_encoder_of_a_run(run: Any, tmp_path: Path, repository: Path) -> None:
    other = ingot.build(
        ingot.load_recipe(repository / "recipes/vision/vit_tiny.yaml", ["stages.0.budget=1 steps", "name=vit"], tiny=True),
        runs=tmp_path / "runs",
    )
    other.train()
    width = other.section.model.width
    one = type(run.section.stages[0].annotate.knobs["encoders"]["image"])(width=width, start=str(tmp_path / "runs" / "vit"))
    model = frozen(run, one, "image")
    wanted = dict(other.model.named_parameters())
    assert all(torch.equal(value, wanted[name]) and not value.requires_grad for name, value in model.named_parameters())
    with pytest.raises(UserError, match="gives vectors of 32, not of 33"):
        one.width += 1
        frozen(run, one, "image")


def locked(folder: Path, repository: Path, *given: str) -> Run:
    recipe = load(repository / "recipes/image_text/clip_locked_text.yaml", ["data.train.count=40", *given], tiny=True)
    return Run(resolve_run(recipe), folder / "run")


def test_what_is_kept_is_read_and_augmented_beside_the_latents(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = locked(tmp_path, repository)
    stream = run.data_of(0).train
    plain = run.data_of(0).plain["synthetic_images"].sources["synthetic_images"]
    _, _, ids = stream.locate(np.arange(8))
    before, whole = stream.batch(0, 8), plain.rows(ids, ids)
    expected = run.fields(0)
    entered(run)
    after = stream.batch(0, 8)
    assert after.keys() == before.keys() - {"tokens", "segments", "positions"} | {"latent_text"}
    assert stream.fields().keys() == after.keys() - {"rows", "source"} and expected.keys() >= stream.fields().keys()
    assert np.array_equal(after["image"], before["image"]) and not np.array_equal(after["image"], whole["image"])
    model = frozen(run, run.section.stages[0].annotate.knobs["encoders"]["text"], "text").eval()
    h_BTD, context = model.encoded({key: torch.from_numpy(value) for key, value in whole.items()} | {"key": run.key()}, causal=False)
    weight = (context.segments_BT > 0).float()
    wanted = (h_BTD * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
    np.testing.assert_allclose(after["latent_text"], wanted.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_latents_are_found_again_where_rows_are_read_in_another_way(run: Any, tmp_path: Path, repository: Path) -> None:
    assert "found" in entered(run) and "reused" in entered(run)
    for changed in ("data.train.noise=0.9", "data.sequence=12", "data.tokenizer={name: bytes, specials: [mask, other]}"):
        recipe = load(repository / "recipes/image_text/fusemix_emoji.yaml", ["data.train.count=40", changed], tiny=True)
        other = Run(resolve_run(recipe), tmp_path / "other")
        assert "found" in entered(other), changed


def test_what_cannot_be_kept_is_refused(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="fusemix blends rows, and would blend latents and what is kept with different ones"):
        locked(tmp_path, repository, "data.augment=[{name: fusemix}]")
    with pytest.raises(UserError, match=r"annotate\.keep: rows have no 'pictures'; they have image, label, tokens"):
        entered(locked(tmp_path, repository, "stages.0.annotate.keep=[pictures]", "data.augment=[]"))


def sentence_encoder(out: Path) -> Any:
    """A small BERT without a head, with its tokenizer."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "upright", "slanted", "level", "steep", "stripes"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    tokenizer.save_pretrained(out)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=len(words), pad_token_id=0)).eval()
    model.save_pretrained(out)
    return tokenizer, model


def test_texts_through_a_sentence_encoder_of_hugging_face(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer, model = sentence_encoder(tmp_path / "bert")
    given = ["stages.0.annotate.encoders.text={start: 'hf:bert', width: 32, embedding: null, encoder: null}", "model.towers.text.width=32"]
    run = locked(tmp_path, repository, *given, "data.tokenizer={name: pretrained, path: bert}")
    entered(run)
    source = run.data_of(0).plain["synthetic_images"].sources["synthetic_images"]
    asked = tokenizer(list(source.captions()[:8]), padding=True, return_tensors="pt")
    with torch.no_grad():
        h_BTD = model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"]).last_hidden_state
    weight = asked["attention_mask"][..., None]
    wanted = (h_BTD * weight).sum(1) / weight.sum(1)
    np.testing.assert_allclose(source.rows(np.arange(8), np.arange(8))["latent_text"], wanted.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="reads the ids of its own tokenizer"):
        entered(locked(tmp_path / "other", repository, *given))


def test_a_recipe_with_an_encoder_of_one_s_own_passes_its_check(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence_encoder(tmp_path / "bert")
    images = "{name: synthetic_images, count: 40, captions: true}"
    data = [f"data.train={images}", f"data.validation={images}", "data.tokenizer.path=bert", "model.embedding.patch=16"]
    place = "stages.0.annotate.encoders.text"
    encoder = [f"{place}.start=hf:bert", f"{place}.width=32", "model.towers.text.width=32"]
    recipe = str(repository / "recipes/image_text/clip_locked_text.yaml")
    assert main(["check", recipe, *data, *encoder]) == 0, capsys.readouterr().err
    assert "rehearsal: 2 steps" in capsys.readouterr().out


def test_an_encoder_from_nowhere_is_refused(repository: Path) -> None:
    with pytest.raises(UserError, match="comes from nowhere"):
        resolve_run(
            load(repository / "recipes/image_text/fusemix_emoji.yaml", ["stages.0.annotate.encoders.image.encoder=null"], tiny=True)
        )


def fusemix(folder: Path, repository: Path, *given: str) -> Run:
    return Run(resolve_run(load(repository / "recipes/image_text/fusemix_emoji.yaml", ["data.train.count=40", *given], tiny=True)), folder)


def test_a_second_source_of_the_same_rows_gets_their_latents(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fusemix(tmp_path / "run", repository, "data.validation.count=40", "data.validation.seed=0", "data.augment=[]")
    assert "found for 40 rows" in entered(run)
    data, ids = run.data_of(0), np.arange(40)
    train, held = (stream.sources["synthetic_images"] for stream in (data.train, data.validation["synthetic_images"]))
    assert train.identity == held.identity
    for key in ("latent_image", "latent_text", "label"):
        assert np.array_equal(train.rows(ids, ids)[key], held.rows(ids, ids)[key])


def test_augments_of_what_rows_hold_no_more_are_refused(tmp_path: Path, repository: Path) -> None:
    for name in ("mixup", "flip"):
        with pytest.raises(UserError, match=f"{name} changes image, which rows do not hold beside latents; name image in keep"):
            fusemix(tmp_path, repository, f"data.augment=[{name}]")
    assert fusemix(tmp_path, repository, "data.augment=[]").section.data.augment == []


def test_the_cache_may_lie_at_home(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert str(tmp_path / "home/c/latents") in entered(fusemix(tmp_path / "run", repository, "data.cache=~/c"))
    assert list((tmp_path / "home/c/latents").iterdir()) and not Path("~").exists()
    recipe, live = Recipe({"data": {"cache": "~/c"}}), spec("data.tokenizer", "bpe", vocabulary=258).build(texts=lambda: iter(["a"]))
    adopt_tokenizer(recipe, live)
    assert Path(recipe.tree["data"]["tokenizer"]["path"]).parent == tmp_path / "home/c/tokenizers"


def test_latents_of_a_table_are_found_again_where_other_rows_are_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are scaled by the rows that are trained on."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b\n" + "".join(f"{number},{number % 2}\n" for number in range(40)))
    encoder = {"width": 8, "embedding": "columns", "encoder": {"name": "mlp", "depth": 1}}
    tree = {
        "name": "t",
        "data": {"train": {"name": "table_csv", "paths": ["t.csv"], "numeric": ["a"], "label": "b", "classes": 2}},
        "model": {
            "width": 8,
            "embedding": {"name": "latent", "key": "latent_row"},
            "encoder": {"name": "mlp", "depth": 1},
            "objective": "classification",
        },
        "stages": [
            {
                "budget": "1 steps",
                "batch": "8 rows",
                "optimizer": {"name": "adamw", "lr": 0.001},
                "annotate": {"name": "latents", "encoders": {"row": encoder}},
            }
        ],
    }

    def latents(holdout: float) -> str:
        return str(entered(Run(resolve_run(Recipe(merge_keys(tree, {"data": {"holdout": holdout}}))), tmp_path / "run")))

    assert ["found" in latents(0.2), "found" in latents(0.5), "reused" in latents(0.2)] == [True, True, True]
