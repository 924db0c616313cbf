"""data2vec's targets and loss by hand from the paper's equations; the teacher starts as the student and follows it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field

SECTION = {
    "width": 8,
    "embedding": {"name": "waveform", "channels": 6, "kernels": [10, 3], "strides": [5, 2], "neighbors": 4, "groups": 2},
    "encoder": {
        "name": "transformer",
        "depth": 3,
        "mixer": {"name": "attention", "heads": 2, "position": None},
        "norm": "layer",
        "block": "post",
    },
}


def build(**knobs: Any) -> Any:
    torch.manual_seed(0)
    section = SECTION | {"objective": {"name": "data2vec_audio", "layers": 2, "span": 3} | knobs}
    model = build_model(
        resolve(Recipe(section), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32, fields={"waveform": Field((300,))}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def batch() -> dict[str, torch.Tensor]:
    return {
        "rows": torch.arange(2),
        "key": torch.tensor(1),
        "waveform": torch.randn(2, 300, generator=torch.Generator().manual_seed(1)),
        "lengths": torch.tensor([300, 220]),
    }


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_targets_and_loss_by_hand(beta: float) -> None:
    model = build(beta=beta)
    prepared = model.objective.prepare(batch())
    x, context = model.embed({key: value for key, value in prepared.items() if key != "masked"}, causal=False)
    outputs = []
    for block in model.objective.teacher.encoder.blocks:  # post-norm: x = norm(x + f(x)), section 3.3 takes f's output
        x = block.mixer_norm(x + block.mixer(x, context))
        f = block.feedforward(x)
        outputs.append(f)
        x = block.feedforward_norm(x + f)
    h = model.encode(prepared, causal=False, hide=model.objective.hidden.weight)
    wanted = []
    for row, length in enumerate(model.embedding.lengths(prepared).tolist()):
        y = np.mean(
            [
                (f[row, :length] - f[row, :length].mean(0)).div((f[row, :length].var(0, unbiased=False) + 1e-5).sqrt()).detach().numpy()
                for f in outputs[-2:]
            ],
            axis=0,
        )
        p = F.linear(h[row, :length], model.objective.head.weight, model.objective.head.bias).detach().numpy()
        d = np.abs(p - y)
        error = d**2 if not beta else np.where(d <= beta, 0.5 * d**2 / beta, d - 0.5 * beta)
        wanted.append(error[prepared["masked"][row, :length].numpy()].sum() / np.sqrt(8))
    torch.testing.assert_close(
        model(prepared)["regression"].detach(), torch.tensor(np.array(wanted), dtype=torch.float32), rtol=1e-4, atol=1e-4
    )


def test_the_teacher_begins_as_the_student_follows_and_gets_no_gradient() -> None:
    model = build(forget=0.25)
    model.objective.begin(model)
    name = "blocks.0.mixer.query.weight"
    teacher, student = (dict(module.named_parameters())[name] for module in (model.objective.teacher.encoder, model.encoder))
    assert torch.equal(teacher, student) and not teacher.requires_grad
    before = teacher.clone()
    with torch.no_grad():
        student.add_(1.0)
    model.objective.stepped(type("State", (), {"model": model}), {})
    torch.testing.assert_close(teacher, before + 0.25)
    sum(loss.sum() for loss in model(model.objective.prepare(batch())).values()).backward()
    assert teacher.grad is None and model.encoder.blocks[0].mixer.query.weight.grad.any()


def test_what_is_masked_does_not_reach_the_teacher() -> None:
    model = build().train()
    prepared = model.objective.prepare(batch())
    other = prepared | {"masked": ~prepared["masked"]}
    assert torch.equal(model.objective.targets(model, prepared), model.objective.targets(model, other))
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.objective.hidden.weight.add_(1.0)
    assert torch.equal(moved.objective.targets(moved, prepared), model.objective.targets(model, prepared)) and not torch.equal(
        moved(prepared)["regression"], model(prepared)["regression"]
    )
