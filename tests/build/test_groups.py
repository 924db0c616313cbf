"""Layer-wise learning rates: lr decay^(L - l) for every parameter, in the optimizer and in the loop, on one tower and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import lines

import ingot
from ingot.build.groups import depth_scales, parameter_groups
from ingot.core.resolve import spec

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "stages.0.budget=2 steps",
    "evaluate.also=[]",
    "evaluate.every=100%",
    "compile=false",
    "log.tensorboard=false",
    "precision=fp32",
]


def power(name: str, depth: int) -> int:
    """L - l, read off a parameter's path."""
    if name.startswith("embedding."):
        return depth + 1
    if name.startswith("encoder.blocks."):
        return depth + 1 - (1 + int(name.split(".")[2]))
    return 0  # the final norm, the head


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> Any:
    monkeypatch.chdir(tmp_path)
    return lambda recipe, *more, start=None: ingot.build(
        ingot.load_recipe(ROOT / "recipes" / recipe, [*SETTINGS, *more], tiny=True), start_from=start
    )


def test_every_parameter_learns_at_the_rate_of_its_depth(build: Any) -> None:
    """ViT of three blocks: embedding decay^4, blocks decay^3 to decay^1, norm and head 1, also while the rate is scheduled."""
    run = build("vision/vit_tiny.yaml", "stages.0.layer_decay=0.5", "model.encoder.depth=3", "stages.0.optimizer.lr=0.01", "name=layers")
    state = run.state()
    assert sorted({group["lr_scale"] for group in state.optimizer.param_groups}) == [0.5**4, 0.5**3, 0.5**2, 0.5, 1.0]
    stage = run.program.enter(state)
    (knob,) = [knob for knob in stage.knobs if knob.name == "lr"]
    for factor in (1.0, 0.3):
        knob.apply(factor)
        rates = {name: group["lr"] for group in state.optimizer.param_groups for name in group["names"]}
        assert rates.keys() == dict(run.model.named_parameters()).keys()
        assert rates == pytest.approx({name: 0.01 * factor * 0.5 ** power(name, 3) for name in rates}, rel=1e-12)


def test_the_update_follows_the_rate(build: Any) -> None:
    """One step of plain gradient descent from the same weights: every weight moves by decay^(L - l) of what it moves without."""
    moved = {}
    for name, decay in (("even", 1.0), ("layered", 0.25)):
        optimizer = "stages.0.optimizer={name: sgd, lr: 0.1, momentum: 0.0, weight_decay: 0.0}"
        run = build(
            "vision/vit_tiny.yaml",
            f"stages.0.layer_decay={decay}",
            optimizer,
            "stages.0.budget=1 steps",
            "stages.0.schedule={}",
            f"name={name}",
        )
        before = {key: value.detach().clone() for key, value in run.model.named_parameters()}
        run.train()
        moved[name] = {key: value.detach() - before[key] for key, value in run.model.named_parameters()}
    for key, step in moved["even"].items():
        torch.testing.assert_close(moved["layered"][key], step * 0.25 ** power(key, 2), rtol=1e-3, atol=1e-7)


def test_towers_count_their_own_blocks_and_decoders_learn_at_the_whole_rate() -> None:
    names = ["embedding.a", "encoder.blocks.0.a", "encoder.blocks.1.a", "towers.text.embedding.a", "towers.text.encoder.blocks.0.a"]
    names += ["encoder.norm.a", "decoder.blocks.0.a", "objective.head.a", "objective.teacher.encoder.blocks.0.a"]
    assert list(depth_scales(names, 0.5).values()) == [0.125, 0.25, 0.5, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_without_decay_groups_are_as_they_were(build: Any) -> None:
    run = build("vision/vit_tiny.yaml", "name=plain")
    groups = parameter_groups(run.model, spec("model.init", "normal").build())
    assert [group["lr_scale"] for group in groups] == [1.0] * len(groups) and len(groups) <= 4


def test_a_masked_model_is_fine_tuned_with_decay_from_its_run(build: Any) -> None:
    """MAE, then ``--from`` its run the class with a head that starts afresh; its decoder stays behind; the loop's rates are the layers'."""
    masked = build("vision/mae_tiny.yaml", "name=masked")
    masked.train()
    trained = masked.model.state_dict()
    tuned = build(
        "vision/vit_tiny.yaml", "model.embedding.class_token=true", "stages.0.layer_decay=0.75", "name=tuned", start="runs/masked"
    )
    kept = {name: value.clone() for name, value in tuned.model.state_dict().items() if not name.startswith("objective.")}
    assert kept and all(torch.equal(value, trained[name]) for name, value in kept.items())
    assert any("classification starts afresh, not as masked_patches" in line for line in tuned.messages)
    assert tuned.train()["reason"] == "finished" and tuned.parents[0]["path"].startswith("runs/masked")
    again = build("vision/vit_tiny.yaml", "model.embedding.class_token=true", "name=again", start="runs/masked")
    head = build("vision/vit_tiny.yaml", "model.embedding.class_token=true", "name=other", start="runs/masked").model.objective.state_dict()
    assert all(torch.equal(value, head[name]) for name, value in again.model.objective.state_dict().items())  # from the seed alone
    assert [line["message"] for line in lines(tuned, "event") if "starts afresh" in line["message"]]
