"""Under fsdp no rank ever holds a whole model: its weights are drawn into slices, and are those that one process draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import ingot
from ingot.core.recipe import Recipe, merge_keys

LARGE = {"data": {"sequence": 16}, "model": {"width": 512, "encoder": {"depth": 12, "mixer": {"heads": 8}}}}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {
        "model": {
            "width": 32,
            "init": {"name": "mup", "base_width": 8, "zero_head": True},
            "embedding": {"name": "token", "position": "learned"},
            "objective": {"name": "causal_lm", "tied": False},
        }
    },
    "in factors": {"model": {"encoder": {"linear": {"name": "sltrain", "rank": 4}}}},
    "experts": {"model": {"encoder": {"feedforward": {"name": "moe", "experts": 4}}}},
}


def recipe(layout: str, *patches: dict[str, Any]) -> Recipe:
    tree: dict[str, Any] = {
        "name": "tiny",
        "precision": "fp32",
        "compile": False,
        "layout": layout,
        "device": "cpu",
        "log": {"tensorboard": False},
        "data": {"train": {"name": "text_files", "paths": ["texts"]}, "holdout": 0.2, "tokenizer": "bytes", "sequence": 24},
        "model": {
            "width": 16,
            "embedding": {"name": "token"},
            "objective": {"name": "causal_lm"},
            "encoder": {
                "name": "transformer",
                "depth": 2,
                "mixer": {"name": "attention", "heads": 2},
                "feedforward": "swiglu",
                "norm": "rms",
            },
        },
        "stages": [{"budget": "2 steps", "batch": "4 rows", "optimizer": {"name": "adamw", "lr": 0.003}}],
    }
    for patch in patches:
        tree = merge_keys(tree, patch)
    return Recipe(tree)


def texts(folder: Path) -> None:
    (folder / "texts").mkdir(exist_ok=True)
    for number in range(20):
        (folder / "texts" / f"{number}.txt").write_text(f"text {number} of twenty, " * 9)


def anonymous() -> int:
    """Bytes of this process's own memory."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))


def task(layout: Any, folder: Path, argument: str) -> dict[str, torch.Tensor]:
    """Initial tensors of the models, gathered; then the memory that a large one takes on this rank."""
    os.chdir(folder)
    result: dict[str, torch.Tensor] = {}
    for name, patch in MODELS.items():
        run = ingot.build(recipe("fsdp", patch))
        for key, value in (*run.model.named_parameters(), *run.model.named_buffers()):
            result[f"{name}/{key}"] = (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
    run = ingot.build(recipe("fsdp", LARGE))
    before = anonymous()
    model = run.model
    result["grown"] = torch.tensor(anonymous() - before)
    result["bytes"] = torch.tensor(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))
    result["held"] = torch.tensor(sum(parameter.to_local().nbytes for parameter in model.parameters()))
    return result


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory from /proc")
def test_drawn_into_slices(run_ranks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts(tmp_path)
    found = run_ranks("task", "fsdp", 2)
    monkeypatch.chdir(tmp_path)
    for name, patch in MODELS.items():
        model = ingot.build(recipe("single", patch)).model
        for key, value in (*model.named_parameters(), *model.named_buffers()):
            assert torch.equal(found[f"{name}/{key}"], value), f"{name}: {key}"
            assert value.numel() == 1 or name == "scaled" or bool(value.any()) or "bias" in key, f"{name}: {key} is all zeros"
    whole, held, grown = (int(found[key]) for key in ("bytes", "held", "grown"))
    assert whole > 120e6 and held < 0.51 * whole
    assert grown < 0.65 * whole, f"{grown / 1e6:.0f} MB for a model of {whole / 1e6:.0f} MB"


def test_tied_parameters_and_buffers_stay(tmp_path: Path) -> None:
    from torch import nn

    from ingot.build.graph import without_weights

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.other = nn.Linear(3, 3)
            weight = nn.Parameter(torch.ones(3, 3), requires_grad=False)
            self.one.weight = weight
            self.other.weight = weight
            self.register_buffer("kept", torch.arange(4))

    with without_weights():
        model = Tied()
    assert all(parameter.is_meta for parameter in model.parameters()) and model.kept.tolist() == [0, 1, 2, 3]
    assert model.one.weight is model.other.weight and not model.one.weight.requires_grad and model.one.bias.requires_grad
    assert not nn.Linear(2, 2).weight.is_meta
