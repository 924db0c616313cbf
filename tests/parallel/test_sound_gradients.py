"""Objectives of sound, with their masks, noise, teachers and usage averages: gradients and updates do not depend on accumulation, ranks or layout."""

from __future__ import annotations

import importlib.util
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.build.graph import build_model
from ingot.build.parity import whole
from ingot.core.progress import Progress
from ingot.core.resolve import spec
from ingot.train.state import State, model_tensors
from ingot.train.step import forward_backward, step

TOLERANCE, ROWS, STEPS = 1e-12, 11, 2
OBJECTIVES = {
    "hubert": spec("objective", "hubert", clusters=6, span=3, units=8, unmasked=0.5, dropout=0.1),
    "wav2vec2": spec("objective", "wav2vec2", span=3, negatives=4, entries=4, code=8, units=8, temperature=0.5),
    "data2vec_audio": spec("objective", "data2vec_audio", span=3, layers=2, forget=0.3),
    "ctc": spec("objective", "ctc", hide=0.2, span=2, dropout=0.1),
}


def _suite() -> Any:
    """The conformance suites' models and rows."""
    found = importlib.util.spec_from_file_location("sound_suite", Path(__file__).parents[1] / "conformance" / "conftest.py")
    assert found is not None and found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


suite = _suite()


def build(objective: str) -> Any:
    section = suite.section_of(OBJECTIVES[objective], dropout=0.1)
    fields = suite.batches.fields(suite.keys_of(section))
    model = build_model(
        section, vocabulary=suite.VOCABULARY, sequence=suite.SEQUENCE, specials={}, dtype=torch.float64, fields=fields
    ).double()
    suite.randomize(model)
    if hasattr(model.objective, "begin"):
        model.objective.begin(model)
    return model


def window(objective: Any, keys: list[str], start: int, rank: int, ranks: int, accumulation: int) -> list[dict[str, Tensor]]:
    """This rank's contiguous share of rows start to start + ROWS - 1, the last micro-batches filled with padding."""
    mine = torch.tensor_split(torch.arange(start, start + ROWS), ranks)[rank].tolist()
    size = math.ceil(math.ceil(ROWS / ranks) / accumulation)
    pieces = [mine[at * size : (at + 1) * size] for at in range(accumulation)]
    return [objective.prepare(suite.batches.batch([*piece, *[-1] * (size - len(piece))], keys)) for piece in pieces]


def keys_of(objective: str) -> list[str]:
    keys: list[str] = suite.keys_of(suite.section_of(OBJECTIVES[objective]))
    return keys


def gradients(objective: str, layout: Any, accumulation: int) -> dict[str, Tensor]:
    model = layout.shard(build(objective), torch.float64)
    forward_backward(model, window(model.objective, keys_of(objective), 0, layout.rank, layout.ranks, accumulation), layout, {})
    return {name: whole(parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None}


def trained(objective: str, layout: Any, accumulation: int) -> dict[str, Tensor]:
    """Weights, teacher and averages after some updates."""
    model = layout.shard(build(objective), torch.float64)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    state = State(model=model, optimizer=optimizer, progress=Progress())

    for number in range(STEPS):
        micros = window(model.objective, keys_of(objective), number * ROWS, layout.rank, layout.ranks, accumulation)
        step(
            state, micros, layout, side_weights={}, hooks={}, judge=lambda found: True, stop=lambda: False, phase=lambda name: nullcontext()
        )
        if hasattr(model.objective, "stepped"):
            model.objective.stepped(state, {})
    return {name: whole(value) for name, value in model_tensors(model).items()}


def everything(layout: Any) -> dict[str, Tensor]:
    return {
        f"{kind}/{objective}/{accumulation}/{name}": value.detach().clone()
        for objective in OBJECTIVES
        for kind, accumulations, found in (("gradient", (1, 2, 5), gradients), ("weight", (1, 5), trained))
        for accumulation in accumulations
        for name, value in found(objective, layout, accumulation).items()
    }


def task(layout: Any, folder: Path, argument: str) -> dict[str, Tensor]:
    return everything(layout)


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return everything(spec("parallel.layout", "single").build())


@pytest.mark.parametrize(("layout", "ranks"), [("single", 1), ("replicate", 2), ("fsdp", 2)])
def test_same_gradients_and_updates(run_ranks: Any, alone: dict[str, Tensor], layout: str, ranks: int) -> None:
    found = alone if layout == "single" else run_ranks("task", layout, ranks)
    for objective in OBJECTIVES:
        for kind, accumulations in (("gradient", (1, 2, 5)), ("weight", (1, 5))):
            wanted = {name.split("/", 3)[3]: value.double() for name, value in alone.items() if name.startswith(f"{kind}/{objective}/1/")}
            total = sum(float(value.norm()) ** 2 for value in wanted.values()) ** 0.5
            assert len(wanted) > 20 and total > 0
            for accumulation in accumulations:
                for name, value in wanted.items():
                    other = found[f"{kind}/{objective}/{accumulation}/{name}"].double()
                    off = float((other - value).norm()) / max(float(value.norm()), 1e-6 * total)
                    assert off <= TOLERANCE, f"{kind} of {objective} x{accumulation}: {name} differs by {off:.1e}"


def test_what_is_kept_beside_the_weights_is_among_what_is_compared(alone: dict[str, Tensor]) -> None:
    """The averaged teacher has moved away from where it began, the usage of codes from evenness: otherwise nothing would be shown."""
    before = model_tensors(build("data2vec_audio"))
    teacher = [name for name in before if ".teacher." in name]
    assert teacher and any(not torch.equal(alone[f"weight/data2vec_audio/1/{name}"], before[name]) for name in teacher)
    usage = alone["weight/wav2vec2/1/model.objective.quantizer.usage"]
    assert float((usage - 1 / usage.shape[1]).abs().max()) > 1e-3
