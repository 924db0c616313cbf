"""Fine-tuning on a copy: it learns, deeper layers move less, the model stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec


def test_learns_and_leaves_the_model_alone(setting: Any) -> None:
    before = {name: value.clone() for name, value in setting.model.state_dict().items()}
    generator = torch.get_rng_state()
    evaluator = spec("evaluate", "fine_tune", epochs=12, batch=16, lr=5e-3).build(layout=setting.layout)
    found = setting.measure(evaluator)
    assert found["accuracy"] > 0.7 and found["train_loss"] < 1.0
    assert all(torch.equal(before[name], value) for name, value in setting.model.state_dict().items()) and torch.equal(
        generator, torch.get_rng_state()
    )
    assert setting.measure(evaluator) == found


def test_deeper_layers_take_smaller_steps(setting: Any) -> None:
    evaluator = spec("evaluate", "fine_tune", lr=1.0, decay=0.5).build(layout=setting.layout)
    groups = evaluator.groups(setting.model, torch.nn.Linear(16, 4))
    assert [group["lr"] for group in groups] == [0.125, 0.25, 0.5, 1.0]
    named = {id(parameter): name for name, parameter in setting.model.named_parameters()}
    assert {named[id(parameter)].split(".")[0] for parameter in groups[0]["params"]} == {"embedding"}
    assert all(named[id(parameter)].startswith("encoder.blocks.1.") for parameter in groups[2]["params"])


def test_several_ranks_are_refused(setting: Any) -> None:
    setting.layout.ranks = 2
    with pytest.raises(UserError, match="in one process"):
        setting.measure(spec("evaluate", "fine_tune").build(layout=setting.layout))


def test_rows_without_a_class_teach_nothing(setting: Any) -> None:
    evaluator = spec("evaluate", "fine_tune", epochs=2, batch=8).build(layout=setting.layout)

    def training(hidden: int) -> Any:
        for number, window in enumerate(setting.training()):
            yield [micro | {"label": micro["label"].masked_fill(torch.tensor(number < hidden), -100)} for micro in window]

    found = setting.measure(evaluator, training=lambda rows: training(9))
    assert 0 < found["train_loss"] < 10 and found == setting.measure(evaluator, training=lambda rows: training(9))
    with pytest.raises(UserError, match="no training row has a label"):
        setting.measure(evaluator, training=lambda rows: training(100))
