"""Feature distillation: losses against torch's own, a teacher of transformers and of a run, what it costs, where it is kept, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import StopAt, lines, weights
from torch.nn import functional as F

import ingot
from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe, load
from ingot.core.resolve import resolve
from ingot.core.seams import Field
from ingot.model.graph import Model

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "vision" / "feature_distillation.yaml"
FIELDS = {"image": Field((3, 8, 8), "uint8"), "tokens": Field((6,), "int64", 20), "label": Field((), "int64", 3)}
SMALL = ["stages.0.budget=4 steps", "evaluate.every=100%", "evaluate.also=[]", "compile=false", "log.tensorboard=false", "precision=fp32"]


def stack(depth: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": "transformer", "depth": depth, "mixer": {"name": "attention", "heads": 2}} | more


def model(embedding: Any = None, teacher: dict[str, Any] | None = None, width: int = 16, **knobs: Any) -> Model:
    patches = {"name": "patch", "patch": 4}
    one = {"width": 12, "embedding": patches, "encoder": stack()} | (teacher or {})
    objective = {"name": "feature_distillation", "teacher": one} | knobs
    tree = {"width": width, "embedding": embedding or patches, "encoder": stack(), "objective": objective}
    torch.manual_seed(0)
    return build_model(resolve(Recipe(tree), Graph), vocabulary=20, sequence=6, specials={}, dtype=torch.float32, fields=FIELDS)


def images(*rows: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (len(rows), 3, 8, 8), generator=draw, dtype=torch.uint8)
    return {"rows": torch.tensor(rows), "key": torch.tensor(0), "image": image}


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("distance", ["smooth_l1", "cosine"])
def test_losses_are_those_of_torch(distance: str, whiten: bool) -> None:
    built = model(distance=distance, beta=0.25, whiten=whiten)
    given = built.objective.prepare(images(3, -1, 5))
    assert given["units"].tolist() == [4, 0, 4]
    (loss,) = built(given).values()
    teacher = built.objective.teacher.at(torch.device("cpu"), False)
    t = teacher.encode(given, causal=False).detach()
    p = F.linear(built.encode(given, causal=False), built.objective.head.weight, built.objective.head.bias)
    if whiten:
        t = (t - t.mean(-1, keepdim=True)) / (t.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    for row in (0, 2):
        if distance == "cosine":
            wanted = torch.nn.CosineEmbeddingLoss(reduction="sum")(p[row], t[row], torch.ones(4))
        else:
            wanted = torch.nn.SmoothL1Loss(reduction="sum", beta=0.25)(p[row], t[row]) / 12
        torch.testing.assert_close(loss[row], wanted, rtol=1e-5, atol=1e-6)
    assert loss[1] == 0
    loss.sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_that_is_the_teacher_has_nothing_to_learn() -> None:
    """The teacher's own weights and an identity as projection: zero, with dropout in the teacher, which must not be felt."""
    built = model(teacher={"width": 16, "encoder": stack(dropout=0.5)}, whiten=False)
    given = built.objective.prepare(images(0, 1))
    teacher = built.objective.teacher.at(torch.device("cpu"), False)
    built.embedding.load_state_dict(teacher.embedding.state_dict())
    built.encoder.load_state_dict(teacher.encoder.state_dict())
    with torch.no_grad():
        built.objective.head.weight.copy_(torch.eye(16))
        built.objective.head.bias.zero_()
    (loss,) = built.train()(given).values()
    assert float(loss.detach().abs().max()) < 1e-9
    with torch.no_grad():
        built.objective.head.bias.fill_(1.0)  # every difference is 1, beta 2: 1 / 4 of each of four positions
    torch.testing.assert_close(built(given)["features"], torch.ones(2))


def test_pooled_rows_of_text_leave_padding_out() -> None:
    """A teacher of another kind of position: one vector a row, that of the row without its padding."""
    teacher = {"embedding": "token", "pooling": "last"}
    built = model("token", teacher, each="row", distance="cosine")
    tokens = torch.tensor([[4, 5, 6, 0, 0, 0], [4, 5, 6, 9, 9, 9]])
    real = torch.tensor([[1, 1, 1, 0, 0, 0]] * 2, dtype=torch.int32)
    batch = {"rows": torch.tensor([0, 1]), "key": torch.tensor(0), "tokens": tokens, "segments": real, "positions": torch.arange(6) * real}
    given = built.objective.prepare(batch)
    assert given["units"].tolist() == [1, 1]
    padded = built(given)["features"]
    short = {name: value[:, :3] if value.dim() == 2 else value for name, value in given.items()}
    torch.testing.assert_close(padded, built(short)["features"])
    torch.testing.assert_close(padded[0], padded[1])
    every = model("token", {"embedding": "token"})
    assert every.objective.prepare(batch)["units"].tolist() == [3, 3]
    torch.testing.assert_close(every(every.objective.prepare(batch))["features"][0], every(every.objective.prepare(batch))["features"][1])


REFUSED = [
    ({"embedding": {"name": "patch", "patch": 2}}, {}, "makes 16 positions of a row, the student 4; set each: row"),
    ({"embedding": {"name": "series_patch", "patch": 2}}, {"each": "row"}, "reads series, which the data does not give"),
]


@pytest.mark.parametrize(("teacher", "knobs", "words"), REFUSED)
def test_what_cannot_be_compared_is_refused(teacher: dict[str, Any], knobs: dict[str, Any], words: str) -> None:
    fields = FIELDS | {"series": Field((8, 2))}
    patches = {"name": "patch", "patch": 4}
    objective = {"name": "feature_distillation", "teacher": {"width": 12, "encoder": stack()} | teacher} | knobs
    tree = {"width": 16, "embedding": patches, "encoder": stack(), "objective": objective}
    built = build_model(resolve(Recipe(tree), Graph), vocabulary=20, sequence=6, specials={}, dtype=torch.float32, fields=fields)
    with pytest.raises(UserError, match=words):
        built.objective.prepare(images(0))


def test_a_teacher_from_nowhere_or_not_there_is_refused(tmp_path: Path) -> None:
    teacher = "model.objective.teacher"
    _, problems = check(load(RECIPE, [f"{teacher}.encoder=null"], tiny=True), tmp_path)
    assert [problem.message for problem in problems] == ["the teacher comes from nowhere: give its start, or its embedding and encoder"]
    _, problems = check(load(RECIPE), tmp_path)
    assert any("there is no run at runs/mae_tiny" in problem.message for problem in problems)


def opened_from(start: str, width: int) -> list[str]:
    """What the command line says to learn from a teacher that exists."""
    teacher = "model.objective.teacher"
    return [f"{teacher}.start={start}", f"{teacher}.width={width}", f"{teacher}.embedding=null", f"{teacher}.encoder=null"]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(name: str, *more: str, stop: int | None = None, recipe: Path = RECIPE) -> Any:
        run = ingot.build(ingot.load_recipe(recipe, [*SMALL, f"name={name}", *more], tiny=True))
        run.train(StopAt(stop) if stop else None)
        return run

    return call


def test_a_run_teaches_another_and_stays_as_it_was(train: Any) -> None:
    """The teacher is the other run's encoder, no tensor of it is in the student's checkpoint, and a stopped run goes on to the bit."""
    teacher = train("teacher", recipe=ROOT / "recipes" / "vision" / "vit_tiny.yaml")
    before = weights(teacher)
    one = opened_from("runs/teacher", 32)
    straight = train("straight", *one)
    opened = straight.model.objective.teacher.at(torch.device("cpu"), False)
    assert all(torch.equal(value, before[f"encoder.{name}"]) for name, value in opened.encoder.state_dict().items())
    assert not [name for name in straight.model.state_dict() if "teacher" in name]
    students = sum(value.numel() for value in before.values()) - sum(
        value.numel() for name, value in before.items() if name.startswith("objective.")
    )
    assert straight.parameters() == students + 32 * 32 + 32
    train("broken", *one, stop=2)
    resumed = train("broken", *one)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(straight).items())
    with pytest.raises(UserError, match="gives vectors of 32, not of 33"):
        train("wide", *opened_from("runs/teacher", 33))
    assert not [line for line in map(json.loads, Path("runs/wide/ledger.jsonl").read_text().splitlines()) if line["kind"] == "step"]


def test_the_teachers_forward_is_metered(train: Any) -> None:
    """Two blocks more in the teacher cost what two blocks forward do: 24 T D^2 and 4 T^2 D each, for every row."""
    depth = "model.objective.teacher.encoder.depth"
    shallow, deep = (lines(train(f"deep{number}", f"{depth}={number}"), "step")[-1] for number in (1, 3))
    T, D, rows = 16, 24, 32
    assert deep["step_flops"] - shallow["step_flops"] == 2 * rows * (24 * T * D**2 + 4 * T**2 * D)


def test_beside_a_supervised_objective(train: Any) -> None:
    both = (
        "model.objective={name: weighted, objectives: {label: classification, teacher: {name: feature_distillation, teacher: "
        "{width: 24, embedding: {name: patch, patch: 4}, encoder: {name: transformer, depth: 1, mixer: {name: attention, heads: 2}}}}}}"
    )
    assert set(lines(train("both", both), "step")[-1]["losses"]) == {"label/cross_entropy", "teacher/features"}


def test_a_teacher_of_transformers(train: Any, tmp_path: Path) -> None:
    """Targets are what transformers' own ViT gives at the patches, brought to mean 0 and deviation 1."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=4, initializer_range=0.1
    )
    torch.manual_seed(2)
    reference = transformers.ViTModel(config, add_pooling_layer=False).eval()
    reference.save_pretrained(tmp_path / "vit")
    run = train("hf", *opened_from("hf:vit", 24))
    batch = next(iter(run.windows(run.data_of(0).train, start=0, rows=4, micro_rows=4)))[0]
    found = run.model.objective.targets(run.model, run.model.objective.prepare(batch))
    with torch.no_grad():
        wanted = reference(batch["image"].float() / 127.5 - 1).last_hidden_state[:, 1:]
    torch.testing.assert_close(found, F.layer_norm(wanted, (24,)), rtol=1e-4, atol=1e-4)
