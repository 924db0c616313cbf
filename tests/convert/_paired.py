"""What tests of converted families share: models of theirs with random gains and biases, their gradients under our names, tensors both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ingot.convert.hf import read_folder


def roughened(model: Any) -> Any:
    """The model with its gains and biases moved away from one and zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def gradients(reference: Any, twin: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Their gradients, read as if they were weights. twin: another model of the same kind."""
    found = {name: parameter.grad for name, parameter in reference.named_parameters()}
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(torch.zeros_like(parameter) if found[name] is None else found[name])
    twin.save_pretrained(folder)
    return read_folder(folder)[1]


# Attention does not change when all its keys are shifted alike, so the gradient of their bias is zero but for rounding; where keys are
# rotated by their position, a bias shifts them differently.
ZERO = ("key.bias",)
LEAST = 1e-5  # of the largest gradient's norm: below it a gradient is rounding


def agree(
    model: Any, wanted: dict[str, torch.Tensor], tolerance: float = 1e-4, without: tuple[str, ...] = (), zero: tuple[str, ...] = ZERO
) -> None:
    """Every gradient of the model is theirs, relative; those known to be zero, by the ends of their names, are as good as zero in both."""
    scale = max(float(gradient.norm()) for gradient in wanted.values())
    for name, parameter in model.named_parameters():
        if name in without:
            continue
        if name.endswith(zero):
            assert max(float(parameter.grad.norm()), float(wanted[name].norm())) < LEAST * scale, name
            continue
        assert float((parameter.grad - wanted[name]).norm()) < tolerance * max(float(wanted[name].norm()), LEAST * scale), name


def same_tensors(folder: Path) -> None:
    """What was written to folder/out is what was read from folder/in, and nothing of it is missing."""
    before, after = (load_file(folder / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in after)
