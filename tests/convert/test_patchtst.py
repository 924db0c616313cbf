"""PatchTST against transformers with random weights: forecasts and masked patches, losses, gradients, tensors both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _paired import agree, gradients, roughened, same_tensors

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.convert.hf import read_folder, read_section, write_folder
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve

transformers = pytest.importorskip("transformers")
from transformers.models.patchtst import modeling_patchtst  # noqa: E402

SMALL = {
    "num_input_channels": 3,
    "context_length": 32,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "ffn_dim": 24,
    "norm_type": "layernorm",
    "prediction_length": 6,
    "positional_encoding_type": "random",
    "init_std": 0.2,
}
CASES: dict[str, dict[str, Any]] = {
    "flat": SMALL | {"pooling_type": None},
    "pooled": SMALL | {"patch_stride": 5, "scaling": None, "bias": False},
    "norms after": SMALL | {"pooling_type": None, "pre_norm": False},
}


def theirs(case: str, kind: str) -> Any:
    torch.manual_seed(3)
    model = getattr(transformers, kind)(transformers.PatchTSTConfig(**CASES[case], attn_implementation="eager")).eval()
    return roughened(model)


def ours(folder: Path) -> tuple[Any, dict[str, Any]]:
    section, state, _, _ = read_folder(folder)
    model = build_model(resolve(Recipe(section), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32).eval()
    model.load_state_dict(state, strict=True)
    return model, section


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    series = 3 + 2 * torch.randn(4, 38, 3, generator=generator).cumsum(dim=1)
    return {
        "rows": torch.arange(4),
        "source": torch.zeros(4).long(),
        "key": torch.tensor(2),
        "series": series[:, :32],
        "future": series[:, 32:],
    }


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).detach().norm()) < 1e-4 * float(wanted.norm())


def same_gradients(model: Any, reference: Any, case: str, folder: Path) -> None:
    """Their gradients, as weights of a twin, read under our names."""
    wanted = gradients(reference, theirs(case, type(reference).__name__), folder)
    assert wanted.keys() == dict(model.named_parameters()).keys()
    agree(model, wanted)


def round_trip(model: Any, section: dict[str, Any], folder: Path, family: str) -> None:
    assert write_folder(model, section, folder / "out") == family
    same_tensors(folder)


@pytest.mark.parametrize("case", CASES)
def test_forecasts(case: str, tmp_path: Path) -> None:
    reference = theirs(case, "PatchTSTForPrediction")
    reference.save_pretrained(tmp_path / "in")
    model, section = ours(tmp_path / "in")
    rows = model.objective.prepare(batch())
    expected = reference(past_values=rows["series"], future_values=rows["future"])
    assert close(model.objective.forecast(model, rows), expected.prediction_outputs)
    loss = model(rows)["squared_error"].sum() / rows["units"].sum()
    assert close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    same_gradients(model, reference, case, tmp_path / "gradients")
    round_trip(model, section, tmp_path, "patchtst")
    again = transformers.PatchTSTForPrediction.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(again(past_values=rows["series"]).prediction_outputs, expected.prediction_outputs)


def test_masked_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = theirs("flat", "PatchTSTForPretraining")
    reference.save_pretrained(tmp_path / "in")
    model, section = ours(tmp_path / "in")
    rows = model.objective.prepare(batch())
    hidden = rows["masked"].view(4, 3, 4)
    assert (hidden.sum(dim=2) == 2).all()
    monkeypatch.setattr(modeling_patchtst, "random_masking", lambda inputs, **_: (inputs.masked_fill(hidden[..., None], 0), hidden.float()))
    expected = reference(past_values=rows["series"])
    loss = model(rows)["squared_error"].sum() / rows["units"].sum()
    assert close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    same_gradients(model, reference, "flat", tmp_path / "gradients")
    round_trip(model, section, tmp_path, "patchtst_pretraining")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").random_mask_ratio == 0.5


def test_fixed_sines_are_read_as_values(tmp_path: Path) -> None:
    config = transformers.PatchTSTConfig(**SMALL | {"positional_encoding_type": "sincos"})
    reference = transformers.PatchTSTForPrediction(config).eval()
    reference.save_pretrained(tmp_path / "in")
    model, _ = ours(tmp_path / "in")
    rows = batch()
    assert close(model.objective.forecast(model, rows), reference(past_values=rows["series"]).prediction_outputs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_type": "batchnorm"}, "norm_type='batchnorm'"),
        ({"use_cls_token": True}, "use_cls_token=True"),
        ({"pooling_type": "max"}, "pooling_type='max'"),
    ],
)
def test_what_cannot_be_said_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    transformers.PatchTSTConfig(**SMALL | change).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=said):
        read_section(tmp_path)
