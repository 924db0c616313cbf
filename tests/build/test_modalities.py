"""Whole runs without text: no tokenizer, positions counted, damaged rows in the ledger, evaluators beside the loss, exact resuming."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from _runs import StopAt, lines
from PIL import Image

import ingot
from ingot.build.check import check
from ingot.build.evaluation import windows
from ingot.build.plan import forecast_stage
from ingot.build.rows import example_batch, positions_per_row
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe, merge_keys


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> Callable[..., Recipe]:
    monkeypatch.chdir(tmp_path)

    def make(*patches: dict[Any, Any]) -> Recipe:
        tree: dict[str, Any] = {
            "name": "pictures",
            "precision": "fp32",
            "compile": False,
            "micro_rows": 6,
            "data": {
                "train": {"name": "synthetic_images", "count": 60, "size": 8},
                "validation": {"name": "synthetic_images", "count": 12, "size": 8, "seed": 1},
                "augment": ["flip", "pad_crop"],
            },
            "model": {
                "width": 16,
                "embedding": {"name": "patch", "patch": 4, "class_token": True},
                "objective": "classification",
                "encoder": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}, "dropout": 0.1},
            },
            "stages": [{"budget": "6 steps", "batch": "16 images", "optimizer": {"name": "adamw", "lr": 0.003}, "hooks": ["clip"]}],
            "evaluate": {"every": "50%", "rows": 12, "batch_rows": 4},
            "checkpoint": {"every": "2 steps"},
            "log": {"tensorboard": False},
        }
        for patch in patches:
            tree = merge_keys(tree, patch)
        return Recipe(tree)

    return make


def test_needs_no_tokenizer_and_counts_positions(recipe: Any) -> None:
    run = ingot.build(recipe())
    assert run.tokenizer is None and run.vocabulary is None and positions_per_row(run, 0) == 4
    run.train()
    steps = lines(run, "step")
    assert [line["step_tokens"] for line in steps] == [16 * 4] * 6 and steps[-1]["rows"] == 96
    assert not (run.folder / "tokenizer").exists()
    (results,) = lines(run, "evaluation")[-1]["results"].values()
    assert {"loss", "accuracy", "units", "rows"} == results.keys() and results["rows"] == 12


def test_resumes_to_the_bit(recipe: Any) -> None:
    straight = ingot.build(recipe({"name": "straight"}))
    straight.train()
    broken = ingot.build(recipe({"name": "broken"}))
    broken.train(StopAt(3))
    again = ingot.build(recipe({"name": "broken"}))
    again.train()
    wanted, found = straight.model.state_dict(), again.model.state_dict()
    assert len(lines(again, "step")) == 6 and all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_accumulation_changes_nothing_but_rounding(recipe: Any) -> None:
    runs = [ingot.build(recipe({"name": f"micro{rows}", "micro_rows": rows, "precision": "fp64"})) for rows in (16, 5)]
    for run in runs:
        run.train()
    for name, value in runs[0].model.state_dict().items():
        assert float((runs[1].model.state_dict()[name] - value).norm() / value.norm()) < 1e-7, name


def pictures(folder: Path, damaged: set[int]) -> None:
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    rows = []
    for number in range(40):
        held = io.BytesIO()
        image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(held, "PNG")
        rows.append(b"broken" if number in damaged else held.getvalue())
    writer.write_table(pyarrow.table({"image": rows, "label": [number % 4 for number in range(40)]}), folder / "pictures.parquet")


def test_damaged_rows_are_passed_over_and_stand_in_the_ledger(recipe: Any, tmp_path: Path) -> None:
    pictures(tmp_path, {3, 17})
    data = {"data": {"train": {"name": "images_parquet", "paths": ["pictures.parquet"], "size": 8, "label": "label", "skip": 0.1}}}
    run = ingot.build(recipe(data))
    run.train()
    events = [line["message"] for line in lines(run, "event") if line["name"] == "skip"]
    assert len(events) == 2 and all(any(f"pictures.parquet row {row}:" in message for message in events) for row in (3, 17))
    steps = lines(run, "step")
    assert sum(line["step_tokens"] for line in steps) < 6 * 16 * 4 and all(np.isfinite(line["loss"]) for line in steps)
    refusing = ingot.build(recipe(data, {"name": "refusing", "data": {"train": {"skip": 0.0}}}))
    with pytest.raises(UserError, match=r"pictures.parquet row \d+: the image cannot be decoded"):
        refusing.train()


def test_evaluators_stand_beside_the_loss_and_may_raise_an_alarm(recipe: Any) -> None:
    also = [{"name": "knn", "k": 3}, {"name": "linear_probe", "l2": [0.01], "rows": 40}, {"name": "health", "least_rank": 1000.0}]
    run = ingot.build(recipe({"name": "measured", "evaluate": {"also": also}}))
    run.train()
    (results,) = lines(run, "evaluation")[-1]["results"].values()
    assert {"knn.accuracy", "linear_probe.accuracy", "health.rank", "loss"} < results.keys()
    alarms = [line for line in lines(run, "event") if line["name"] == "alarm"]
    assert alarms and "health on synthetic_images: the representation collapses" in alarms[0]["message"]
    assert alarms[0]["step"] > 0  # untrained rows may well be alike
    plain = ingot.build(recipe({"name": "plain"}))
    plain.train()
    assert all(
        torch.equal(value, plain.model.state_dict()[name]) for name, value in run.model.state_dict().items()
    )  # measuring changes nothing
    offline = run.evaluate(also=[])
    assert offline.keys() == {"synthetic_images"} and "knn.accuracy" not in offline["synthetic_images"]


def test_an_evaluator_without_its_rows_is_refused(recipe: Any) -> None:
    run = ingot.build(
        recipe(
            {
                "data": {
                    "train": "python_library",
                    "validation": None,
                    "holdout": 0.5,
                    "augment": [],
                    "tokenizer": "bytes",
                    "sequence": 16,
                },
                "model": {"embedding": "token", "objective": "causal_lm"},
                "evaluate": {"also": ["knn"]},
            },
            {"data": {"train": {"name": "python_library", "packages": ["json"]}}},
        )
    )
    with pytest.raises(UserError, match="knn reads label, which no validation data of this run gives"):
        run.data_of(0)
        run.evaluate_streams(run.data_of(0).validation)


def test_is_planned_without_reading_a_picture(recipe: Any) -> None:
    nowhere = {"name": "image_folder", "paths": ["nowhere"], "size": 16, "labels": "folder", "classes": 7}
    from ingot.build.check import resolve_run
    from ingot.build.run import Run

    run = Run(resolve_run(recipe({"data": {"train": nowhere, "validation": nowhere}})), Path("runs"))
    found = forecast_stage(run, 0, 4)
    assert found.flops > 0 and {"embedding", "encoder", "objective"} <= {name for name, flops in found.flops_by_component.items() if flops}
    assert example_batch(run.fields(0), 3)["image"].shape == (3, 3, 16, 16) and positions_per_row(run, 0) == 16
    unknown = Run(resolve_run(recipe({"data": {"train": nowhere | {"classes": None}}})), Path("runs"))
    with pytest.raises(UserError, match="no such file or directory"):
        unknown.fields(0)


def test_mixtures_of_pictures_and_text_hold_both(recipe: Any) -> None:
    sources = {"pictures": {"name": "synthetic_images", "count": 40, "size": 8}, "text": {"name": "python_library", "packages": ["json"]}}
    stems = {"name": "stems", "stems": {"image": {"name": "patch", "patch": 4}, "text": {"name": "token"}}}
    tree = recipe().tree
    tree["data"] = {
        "train": {"name": "mixture", "sources": sources, "weights": {"pictures": 0.5, "text": 0.5}},
        "tokenizer": "bytes",
        "sequence": 24,
    }
    tree["model"]["embedding"] = stems
    run = ingot.build(Recipe(tree))
    batch = run.data_of(0).train.batch(0, 20)
    assert (
        {"image", "label", "tokens", "segments"} < batch.keys()
        and not batch["segments"][batch["source"] == 0].any()
        and batch["segments"][batch["source"] == 1].any()
    )


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"stages": {0: {"batch": "512 tokens"}}}, "a number of them, such as '256 images'"),
        ({"data": {"views": 2, "augment": []}}, "would be alike"),
        ({"stages": {0: {"batch": "60 s audio"}}}, "needs a source of audio"),
        ({"stages": {0: {"schedule": {"lr": {"name": "cosine", "warmup": "60 s audio"}}}}}, "needs a source of audio"),
        ({"model": {"embedding": {"position": "rotary"}}}, "turns queries and keys"),
        ({"model": {"embedding": {"image": 10}}}, "patches of 4 do not divide"),
    ],
)
def test_what_cannot_be_is_refused_before_it_starts(recipe: Any, patch: dict[Any, Any], words: str) -> None:
    _, problems = check(recipe(patch))
    assert any(words in str(problem) for problem in problems), [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("objective", "fine"),
    [
        ({"name": "masked_patches", "rate": 0.5}, True),
        ({"name": "by_source", "objectives": {"a": "classification", "b": "classification"}}, True),
        ("classification", False),
    ],
)
def test_sources_with_classes_of_their_own_go_together_where_none_are_put_together(
    recipe: Any, tmp_path: Path, objective: Any, fine: bool
) -> None:
    for source, names in (("a", ("cat", "dog")), ("b", ("eel", "fox"))):
        for name in names:
            (tmp_path / source / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(tmp_path / source / name / f"{number}.png")
    sources = {name: {"name": "image_folder", "paths": [name], "size": 8, "labels": "folder", "classes": 2} for name in "ab"}
    decoder = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}, "cross": None}
    made = recipe(
        {
            "data": {"train": {"name": "mixture", "sources": sources}, "validation": None, "holdout": 0.3, "augment": []},
            "model": {"objective": objective} | ({"decoder": decoder} if "rate" in objective else {}),
        }
    )
    if fine:
        assert ingot.build(made).data_of(0).train.source_names == ["a", "b"]
    else:
        with pytest.raises(UserError, match=r"data\.train: the classes of 'b' are not those of 'a'"):
            ingot.build(made).data_of(0)


def test_a_stage_with_labels_follows_one_without(recipe: Any, tmp_path: Path) -> None:
    """What the later objective is told of its rows is of its own stage's data: how many classes there are."""
    pictures(tmp_path, set())
    unlabeled = {"name": "images_parquet", "paths": ["pictures.parquet"], "size": 8}
    labeled = {"train": unlabeled | {"label": "label"}, "validation": {"name": "synthetic_images", "count": 12, "size": 8, "seed": 1}}
    stage = {"budget": "2 steps", "batch": "8 images", "optimizer": {"name": "adamw", "lr": 0.003}}
    decoder = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}, "cross": None}
    change = {
        "data": {"train": unlabeled, "validation": unlabeled, "augment": []},
        "model": {"objective": "masked_patches", "decoder": decoder},
        "stages": [stage, stage | {"objective": "classification", "data": labeled}],
    }
    run = ingot.build(recipe(change))
    assert [one["forecast"]["parameters"] > 0 for one in run.plan()["stages"]] == [True, True]
    assert run.train()["step"] == 4
    again = ingot.open_run(run.folder)
    assert again.model.objective.head.weight.shape[0] == 4 and again.evaluate().keys() == {"synthetic_images"}


def test_an_evaluator_learns_from_the_training_rows_that_have_what_it_reads(recipe: Any, tmp_path: Path) -> None:
    pictures(tmp_path, set())
    unlabeled = {"name": "images_parquet", "paths": ["pictures.parquet"], "size": 8}
    change = {"data": {"train": unlabeled, "augment": []}, "model": {"objective": "contrastive"}, "evaluate": {"also": ["linear_probe"]}}
    views = {"data": {"augment": ["flip"], "views": 2}}
    with pytest.raises(UserError, match="none that hold what the evaluator reads"):
        ingot.build(recipe(change, views)).train()
    both = {
        "name": "mixture",
        "sources": {"bare": unlabeled, "known": unlabeled | {"label": "label"}},
        "weights": {"bare": 0.5, "known": 0.5},
    }
    run = ingot.build(recipe(change, views, {"data": {"train": both}, "name": "both"}))
    run.train()
    (found,) = lines(run, "evaluation")[-1]["results"].values()
    assert 0 <= found["linear_probe.accuracy"] <= 1


def test_rows_are_compared_with_those_of_their_piece_however_many_ranks_there_are(recipe: Any) -> None:
    """Of 12 rows two pieces of 5 and one of 2, by row number; a rank that none is left for takes part with padding."""
    views = {"data": {"augment": ["flip"], "views": 2}}
    run = ingot.build(recipe(views, {"model": {"objective": "contrastive"}, "evaluate": {"batch_rows": 5}}))
    (stream,) = run.data_of(0).validation.values()
    assert run.model.objective.couples_batch
    found = {}
    for ranks in (1, 2, 4):
        shares = []
        for rank in range(ranks):
            run.layout = SimpleNamespace(rank=rank, ranks=ranks)
            shares.append([micro["rows"][micro["rows"] >= 0].tolist() for window in windows(run, stream, 12) for micro in window])
        assert len({len(share) for share in shares}) == 1
        found[ranks] = sorted(piece for share in shares for piece in share if piece)
    assert found[1] == found[2] == found[4] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


@pytest.mark.parametrize(("stride", "refused"), [(1, True), (7, True), (8, False)])
def test_moments_that_are_trained_on_are_not_held_out(recipe: Any, tmp_path: Path, stride: int, refused: bool) -> None:
    (tmp_path / "moments.csv").write_text("x\n" + "\n".join(str(moment % 7) for moment in range(200)))
    data = {
        "train": {"name": "series_csv", "paths": ["moments.csv"], "look_back": 6, "horizon": 2, "stride": stride},
        "validation": None,
        "holdout": 0.2,
        "augment": [],
    }
    _, problems = check(recipe({"data": data}))
    assert any("would be trained on" in str(problem) for problem in problems) == refused
