"""Every flagship recipe's tiny twin, trained for two steps, is exported: transformers' class gives the same outputs, or one sentence says
what the recipe would have to change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ingot.build.export import Exported, export, random_rows
from ingot.build.run import Run, build
from ingot.convert._compare import OUTPUTS
from ingot.convert.hf import families, read_folder
from ingot.core.errors import UserError

transformers = pytest.importorskip("transformers")

TWO_STEPS = ["stages.0.budget=2 steps", "precision=fp32", "compile=false", "log.tensorboard=false", "device=cpu", "checkpoint.every=100%"]
WRITTEN = {
    "vision/vit_tiny": "IJepaForImageClassification",
    "vision/vit_base_supervised": "ViTForImageClassification",
    "vision/mae_tiny": "ViTMAEForPreTraining",
    "vision/mae_vit_base": "ViTMAEForPreTraining",
    "vision/simclr_tiny": "IJepaModel",
    "vision/dino_tiny": "IJepaModel",
    "vision/ijepa_tiny": "IJepaModel",
    "speech/hubert_tiny": "HubertModel",
    "speech/hubert_base": "HubertModel",
    "speech/wav2vec2_tiny": "Wav2Vec2ForPreTraining",
    "speech/wav2vec2_base": "Wav2Vec2ForPreTraining",
    "speech/data2vec_audio": "Data2VecAudioModel",
    "image_text/clip_vit_b32": "CLIPModel",
    "text/t5_base": "T5ForConditionalGeneration",
    "text/t5_tiny": "T5ForConditionalGeneration",
    "text/ul2_base": "T5ForConditionalGeneration",
    "text/electra_base": "ElectraForPreTraining",
    "text/electra_tiny": "ElectraForPreTraining",
}
# recipe: (what the sentence names, what to change, the class that then holds the model)
FIXABLE = {
    "series/patchtst_etth1": ("encoder.final_norm=True", "model.encoder.final_norm=false", "PatchTSTForPrediction"),
    "text/bert_base": (
        "model without objective.transform",
        "model.objective={name: masked_lm, transform: layer, bias: true}",
        "BertForMaskedLM",
    ),
    "text/gpt_small": ("encoder.feedforward=relu2", "model.encoder.feedforward=swiglu", "Qwen3ForCausalLM"),
    "text/fim_small": ("encoder.feedforward=relu2", "model.encoder.feedforward=swiglu", "Qwen3ForCausalLM"),
}
REFUSED = {
    "image_text/clip_emoji": "model without embedding.norm",
    "image_text/siglip_emoji": "encoder.feedforward.approximate='none'",
    "series/ttm_etth1": "encoder.mixer=mlp_mixing",
    "speech/ctc_digits": "embedding=log_mel",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose prepared texts all recipes share."""
    return tmp_path_factory.mktemp("flagships")


def trained(recipe: str, place: Path, monkeypatch: pytest.MonkeyPatch, *changes: str) -> Run:
    monkeypatch.chdir(place)
    more = ["stages.1.budget=1 steps"] if recipe.startswith("speech/hubert") else []
    run = build(recipe, [*TWO_STEPS, "evaluate.also=[]", *more, *changes], tiny=True, runs=place / "runs")
    run.train()
    return run


def outputs(run: Run, done: Exported) -> tuple[torch.Tensor, torch.Tensor]:
    theirs = getattr(transformers, done.architecture).from_pretrained(done.folder, dtype=torch.float32).eval()
    family = families()[done.family]
    run.model.eval()
    with torch.no_grad():
        return OUTPUTS["encoder" if done.architecture == family.bare else family.outputs](run.model, theirs, random_rows(run))


@pytest.mark.parametrize("recipe", WRITTEN)
def test_transformers_computes_the_same(recipe: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(recipe, place, monkeypatch)
    done = export(run, place / recipe.replace("/", "-"), check=False)
    assert done.architecture == WRITTEN[recipe]
    mine, theirs = outputs(run, done)
    assert mine.shape == theirs.shape and float(theirs.std()) > 1e-3
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-4
    assert bool(done.left) == (done.architecture == families()[done.family].bare or recipe == "text/electra_base")
    tensors = load_file(done.folder / "model.safetensors")
    section, state, _, _ = read_folder(done.folder)
    assert len(tensors) and section["width"] == run.graph.width
    own = dict(run.model.named_parameters())
    assert all(torch.equal(state[name], value.detach()) for name, value in own.items() if name.startswith("encoder.") and name in state)


@pytest.mark.parametrize("recipe", FIXABLE)
def test_what_the_refusal_names_is_all_that_has_to_change(recipe: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, change, architecture = FIXABLE[recipe]
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=named):
        build(recipe, TWO_STEPS, tiny=True, runs=place / "runs").export(place / "refused")
    done = export(
        run := trained(recipe, place, monkeypatch, change, f"name=changed-{recipe.replace('/', '-')}"),
        place / recipe.replace("/", "-"),
        check=False,
    )
    mine, theirs = outputs(run, done)
    assert done.architecture == architecture and float((mine - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.parametrize("recipe", REFUSED)
def test_what_is_refused_says_what_stands_in_the_way(recipe: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    run = build(recipe, TWO_STEPS, tiny=True, runs=place / "runs")
    with pytest.raises(UserError, match=REFUSED[recipe]) as caught:
        run.export(place / "refused")
    assert "\n" not in str(caught.value) and not (place / "refused").exists()
