"""Classification: torch's cross entropy with soft and smoothed labels, over any encoder and pooling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field
from ingot.model.graph import Model

FIELDS = {"image": Field((3, 8, 8), "uint8"), "label": Field((), "int64", 5)}
ENCODER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}


def model(embedding: Any = None, **knobs: Any) -> Model:
    tree = {
        "width": 16,
        "embedding": embedding or {"name": "patch", "patch": 4, "class_token": True},
        "encoder": ENCODER,
        "objective": {"name": "classification"} | knobs,
    }
    torch.manual_seed(0)
    return build_model(resolve(Recipe(tree), Graph), vocabulary=20, sequence=6, specials={}, dtype=torch.float32, fields=FIELDS)


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "rows": torch.tensor([0, 1, 2, -1]),
        "image": torch.randint(0, 256, (4, 3, 8, 8), generator=draw, dtype=torch.uint8),
        "label": torch.tensor([3, -100, 0, 0]),
    }


def test_rows_without_a_label_are_not_scored() -> None:
    built, given = model(), batch()
    prepared = built.objective.prepare(given)
    assert prepared["units"].tolist() == [1, 0, 1, 0]
    loss = built(prepared)["cross_entropy"]
    scores = built.logits(built.features(given))
    torch.testing.assert_close(loss, F.cross_entropy(scores, given["label"], reduction="none", ignore_index=-100) * prepared["units"])


def test_smoothed_and_mixed_labels_are_torchs() -> None:
    built = model(smoothing=0.2)
    given = built.objective.prepare(
        batch()
        | {
            "label": torch.tensor([3, 1, 0, 0]),
            "label_other": torch.tensor([1, 1, 4, 0]),
            "label_share": torch.tensor([0.7, 1.0, 0.2, 1.0]),
        }
    )
    scores = built.logits(built.features(given))
    share = given["label_share"][:, None]
    soft = share * F.one_hot(given["label"], 5) + (1 - share) * F.one_hot(given["label_other"], 5)
    torch.testing.assert_close(
        built(given)["cross_entropy"], F.cross_entropy(scores, soft, reduction="none", label_smoothing=0.2) * given["units"]
    )
    built.eval()
    torch.testing.assert_close(
        built(given)["cross_entropy"], F.cross_entropy(scores, soft, reduction="none") * given["units"]
    )  # held-out loss is the plain one


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_padding_is_not_pooled(pooling: str) -> None:
    built = model("token", pooling=pooling, classes=3).eval()
    tokens = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(2))
    given = {"rows": torch.arange(2), "tokens": tokens, "segments": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    changed = given | {"tokens": tokens.masked_fill(given["segments"] == 0, 9)}
    torch.testing.assert_close(built.features(given), built.features(changed))
    short = {"rows": torch.arange(1), "tokens": tokens[1:, :4]}
    torch.testing.assert_close(built.features(given)[1:], built.features(short))


def test_a_class_token_is_left_out_of_the_mean() -> None:
    built, given = model(), batch()
    h = built.encode(given, causal=False)
    torch.testing.assert_close(built.features(given), h[:, 1:].mean(dim=1))
    torch.testing.assert_close(model(pooling="first").features(given), h[:, 0])


def test_scores_tell_right_from_wrong() -> None:
    built, given = model(), batch()
    guess = built.logits(built.features(given)).argmax(dim=1)
    assert built.objective.scores(built, given | {"label": guess})["accuracy"].tolist() == [1.0] * 4


def test_what_is_missing_is_said() -> None:
    with pytest.raises(UserError, match="name the column of labels"):
        model().objective.prepare({"rows": torch.arange(2)})
    tree = {"width": 16, "embedding": "token", "encoder": ENCODER, "objective": "classification"}
    with pytest.raises(UserError, match="does not say how many classes"):
        build_model(resolve(Recipe(tree), Graph), vocabulary=20, sequence=6, specials={}, dtype=torch.float32)
