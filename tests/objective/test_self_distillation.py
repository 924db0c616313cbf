"""DINO: the loss written out, a teacher that moves by its share alone, a center that is the whole step's."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec
from ingot.core.seams import Field
from ingot.train.step import step

FIELDS = {"image": Field((3, 8, 8), "uint8"), "image_1": Field((3, 8, 8), "uint8")}
TREE = {
    "width": 16,
    "embedding": {"name": "patch", "patch": 4},
    "encoder": {"name": "transformer", "depth": 1, "dropout": 0.2, "mixer": {"name": "attention", "heads": 2}},
    "objective": {"name": "self_distillation", "outputs": 6, "bottleneck": 4, "momentum": 0.9},
}


def model(seed: int = 0) -> Any:
    built = build_model(resolve(Recipe(TREE), Graph), vocabulary=None, sequence=1, specials={}, dtype=torch.float64, fields=FIELDS).double()
    spec("model.init", "normal", std=0.3).build().apply(built, seed=seed)
    built.objective.begin(built)
    return built


def batch(rows: int = 6) -> dict[str, torch.Tensor]:
    image, other = torch.randint(0, 256, (2, rows, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return {"rows": torch.arange(rows), "key": torch.tensor(0), "image": image, "image_1": other}


def pairs(built: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    students = {"embedding": built.embedding, "encoder": built.encoder, "head": built.objective.head}
    return [
        (teacher, weight)
        for name, module in students.items()
        for teacher, weight in zip(getattr(built.objective.teacher, name).parameters(), module.parameters(), strict=True)
    ]


def test_teacher_starts_as_the_student_and_moves_by_its_share() -> None:
    built = model()
    assert all(torch.equal(teacher, weight) for teacher, weight in pairs(built))
    with torch.no_grad():
        for _, weight in pairs(built):
            weight.add_(torch.randn_like(weight))
    before = [teacher.clone() for teacher, _ in pairs(built)]
    built.objective.stepped(SimpleNamespace(model=built), {})
    for old, (teacher, weight) in zip(before, pairs(built), strict=True):
        torch.testing.assert_close(teacher - old, 0.1 * (weight - old), rtol=1e-12, atol=1e-13)
        assert not torch.equal(teacher, old)


def test_forget_moves_the_teacher_as_momentum_does() -> None:
    built = model()
    built.objective.forget = 0.25  # as a schedule sets it
    with torch.no_grad():
        built.encoder.blocks[0].mixer.query.weight.add_(1.0)
    built.objective.stepped(SimpleNamespace(model=built), {})
    teacher, weight = built.objective.teacher.encoder.blocks[0].mixer.query.weight, built.encoder.blocks[0].mixer.query.weight
    torch.testing.assert_close(weight - teacher, torch.full_like(weight, 0.75))


def test_no_gradient_reaches_the_teacher_and_it_drops_nothing() -> None:
    built = model().train()
    given = built.objective.prepare(batch())
    built(given)["distillation"].sum().backward()
    assert all(teacher.grad is None and not teacher.requires_grad for teacher, _ in pairs(built))
    assert not any(module.training for module in built.objective.teacher.modules())


def test_loss_is_the_papers() -> None:
    built = model().eval()
    with torch.no_grad():
        built.objective.center.copy_(torch.linspace(-0.2, 0.3, 6))
    given = built.objective.prepare(batch(3))
    objective = built.objective
    g = [objective.outputs_of(built, given | {"image": given[key]}, None, objective.head) for key in ("image", "image_1")]
    p = [((one - objective.center) / 0.04).softmax(dim=-1) for one in g]  # the teacher is the student's copy
    q = [(one / 0.1).log_softmax(dim=-1) for one in g]
    torch.testing.assert_close(built(given)["distillation"], -((p[0] * q[1]).sum(1) + (p[1] * q[0]).sum(1)) / 2)


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3)], ids=str)
def test_center_is_the_mean_of_the_whole_step(sizes: tuple[int, ...]) -> None:
    built, given = model().train(), batch()
    given["rows"][-1] = -1
    whole = built.objective.prepare(given)
    window = [
        {key: value if value.dim() == 0 else value[start : start + size] for key, value in whole.items()}
        for start, size in zip([sum(sizes[:index]) for index in range(len(sizes))], sizes, strict=True)
    ]
    outputs = torch.cat(
        [
            built.objective.outputs_of(built.eval(), whole | {"image": whole[key]}, None, built.objective.head)[:5]
            for key in ("image", "image_1")
        ]
    )
    optimizer = torch.optim.SGD([weight for weight in built.parameters() if weight.requires_grad], lr=0.0)
    state: Any = SimpleNamespace(model=built.train(), optimizer=optimizer, extra={})
    found = step(
        state,
        window,
        spec("parallel.layout", "single").build(),
        side_weights={},
        hooks={},
        judge=lambda outcome: True,
        stop=lambda: False,
        phase=lambda name: nullcontext(),
    )
    torch.testing.assert_close(built.objective.center, 0.1 * outputs.mean(dim=0), rtol=1e-9, atol=1e-12)
    assert 0 <= found.side["teacher_entropy"] <= 1.8


def test_small_looks_are_told_from_whole_ones_only_by_the_student() -> None:
    """Multi-crop: the teacher is given the whole looks alone; every other pair of looks counts, whatever their sizes."""
    built = model().eval()
    small = torch.randint(0, 256, (2, 3, 3, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    given = built.objective.prepare(batch(3) | {"image_2": small[0], "image_3": small[1]})
    objective, keys = built.objective, ("image", "image_1", "image_2", "image_3")
    g = [
        objective.outputs_of(built, {"rows": given["rows"], "key": given["key"], "image": given[key]}, None, objective.head) for key in keys
    ]
    p = [((one - objective.center) / 0.04).softmax(dim=-1) for one in g[:2]]
    q = [(one / 0.1).log_softmax(dim=-1) for one in g]
    wanted = torch.stack([-(p[t] * q[s]).sum(1) for t in range(2) for s in range(4) if s != t]).mean(dim=0)
    torch.testing.assert_close(built(given)["distillation"], wanted)
