"""A model of two towers, and one encoder with two stems: what is read, and where the work is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.build.graph import build_model
from ingot.build.program import counted
from ingot.build.schema import Graph
from ingot.core.axes import axes_of
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field
from ingot.ledger.flops import FlopCount
from ingot.model.graph import Model, spent
from ingot.ops.flops import register

FIELDS = {"image": Field((3, 8, 8), "uint8"), "label": Field((), "int64", 4), "tokens": Field((6,), "int64", 20)}
ENCODER = {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 2}}


def model(**section: Any) -> Model:
    tree = {
        "width": 16,
        "embedding": {"name": "patch", "patch": 4, "class_token": True},
        "encoder": ENCODER,
        "objective": "classification",
    } | section
    torch.manual_seed(0)
    return build_model(resolve(Recipe(tree), Graph), vocabulary=20, sequence=6, specials={}, dtype=torch.float32, fields=FIELDS)


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    segments = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 6], dtype=torch.int32)
    return {
        "rows": torch.tensor([0, 1, -1]),
        "key": torch.tensor(0),
        "image": torch.randint(0, 256, (3, 3, 8, 8), generator=draw, dtype=torch.uint8),
        "tokens": torch.randint(0, 20, (3, 6), generator=draw),
        "segments": segments,
        "positions": torch.arange(6).expand(3, -1),
        "label": torch.tensor([0, 1, 0]),
    }


TEXT = {"text": {"width": 8, "embedding": "token", "encoder": ENCODER}}


def test_towers_have_their_own_width_and_read_their_own_keys() -> None:
    built, given = model(towers=TEXT), batch()
    assert built.features(given, tower="text").shape == (3, 8) and built.features(given).shape == (3, 16)
    assert torch.equal(built.features(given | {"tokens": given["tokens"] * 0}), built.features(given))
    hidden = given | {"tokens": given["tokens"].masked_fill(given["segments"] == 0, 3)}
    torch.testing.assert_close(built.features(hidden, tower="text")[:2], built.features(given, tower="text")[:2])
    assert "towers.text.encoder.blocks.0.mixer.query.weight" in axes_of(built)
    with pytest.raises(KeyError, match="no tower 'sound'; it has text"):
        built.tower("sound")


def test_positions_are_counted_over_all_towers() -> None:
    assert spent(model(), batch()).tolist() == [4, 4, 0]
    assert spent(model(towers=TEXT), batch()).tolist() == [10, 8, 0]


def test_rows_with_text_count_as_what_the_model_reads_of_them() -> None:
    """Pictures alone, pictures and their names, the names alone: of these the segments tell."""
    given = batch()
    assert counted(model(), given)["spent"].tolist() == [4, 4, 0]
    assert counted(model(embedding=STEMS), given)["spent"].tolist() == [11, 9, 0]
    assert "spent" not in counted(model(embedding="token"), given)


def test_work_is_filed_under_the_tower_that_did_it() -> None:
    register()
    built, given = model(towers=TEXT), batch()
    with FlopCount(built) as count:
        built.features(given).sum().backward()
        built.features(given, tower="text").sum().backward()
    assert {"embedding", "encoder", "towers.text"} == {name for name, flops in count.by_component.items() if flops} - {
        "other"
    }  # other: the pooling


STEMS = {"name": "stems", "stems": {"image": {"name": "patch", "patch": 4, "class_token": True}, "text": {"name": "token"}}}


def test_stems_read_what_is_there() -> None:
    built, given = model(embedding=STEMS), batch()
    h, context = built.encoded(given, causal=False)
    assert (
        h.shape == (3, 5 + 6, 16)
        and context.segments_BT[:, 5:].tolist() == given["segments"].tolist()
        and bool((context.segments_BT[:, :5] == 1).all())
    )
    assert context.positions_BT[0].tolist() == [*range(5), *range(6)]
    alone = {key: value for key, value in given.items() if key not in ("tokens", "segments", "positions")}
    assert built.encoded(alone, causal=False)[0].shape == (3, 5, 16)
    words = {key: value for key, value in given.items() if key != "image"}
    assert built.encoded(words, causal=False)[0].shape == (3, 6, 16)


def test_kept_positions_are_encoded_as_if_the_others_were_not_there() -> None:
    built, given = model().double(), batch()
    built.compute_dtype = torch.float64
    kept = torch.tensor([[2, 0], [1, 3], [0, 1]])
    x, context = built.embed(given | {"kept": kept}, causal=False)
    whole, _ = built.embed(given, causal=False)
    assert torch.equal(x[0], whole[0][[0, 3, 1]]) and context.positions_BT[0].tolist() == [0, 3, 1]


def test_hidden_positions_hold_the_objectives_vector() -> None:
    built, given = model(embedding={"name": "patch", "patch": 4, "position": None}), batch()
    masked = torch.tensor([[True, False, False, True]] * 3)
    vector = torch.arange(16.0)
    x, _ = built.embed(given | {"masked": masked}, causal=False, hide=vector)
    plain, _ = built.embed(given, causal=False)
    assert torch.equal(x[:, [0, 3]], vector.expand(3, 2, -1)) and torch.equal(x[:, [1, 2]], plain[:, [1, 2]])
