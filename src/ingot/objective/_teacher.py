r"""A teacher that is an average of the student.   Tarvainen & Valpola 2017, arXiv:1703.01780, section 2.

    t_0 = w_0        t_k = m t_{k-1} + (1 - m) w_k

Its weights are parameters without gradient, so they are saved, sharded and moved with the model. It never drops anything out. Buffers
(a sparse layer's mask, the biases that a router moves) are the student's, but for the salts by which layers draw.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """Frozen copies of modules, by name; ``embedding`` and ``encoder`` among them make it a tower of the model."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, copy.deepcopy(module))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Always as in evaluation."""
        return super().train(False)

    def begin(self, students: Mapping[str, nn.Module]) -> None:
        """Become the students' copy."""
        self.follow(students, 0.0)

    @torch.no_grad()
    def follow(self, students: Mapping[str, nn.Module], momentum: float) -> None:
        """Move to m t + (1 - m) w."""
        theirs = [local(weight) for module in students.values() for weight in module.parameters()]
        mine = [local(weight) for name in students for weight in getattr(self, name).parameters()]
        if momentum == 0.0:
            torch._foreach_copy_(mine, theirs)
        else:
            torch._foreach_lerp_(mine, theirs, 1 - momentum)
        for name, module in students.items():
            for held, given in zip(_buffers(getattr(self, name)), _buffers(module), strict=True):
                held.copy_(given)


def refuse_rising(knobs: Mapping[str, Any], context: Mapping[str, Any]) -> Iterable[str]:
    """Why a run's schedule of m is not what papers do, who let it rise to 1: a schedule multiplies by 1 at most."""
    run = context.get("run")
    for index, stage in enumerate(run.stages if run is not None else ()):
        if "objective.momentum" in stage.schedule and run.objective_at(index)[1].knobs is knobs:
            yield (
                f"a schedule lowers momentum, which is to rise to 1; set forget to {1 - knobs['momentum']:g}, its distance from 1, "
                f"and in stage {index} schedule objective.forget"
            )


def _buffers(module: nn.Module) -> list[Tensor]:
    return [local(value) for name, value in module.named_buffers() if name.rpartition(".")[2] != "salt"]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be sharded."""
    whole: Any = tensor
    found: Tensor = whole.to_local() if hasattr(whole, "to_local") else tensor
    return found.detach()
