"""What tests of converted families share: their gradients under our names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ingot.convert.hf import read_folder


def gradients(reference: Any, twin: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Their gradients, read as if they were weights. twin: another model of the same kind."""
    found = {name: parameter.grad for name, parameter in reference.named_parameters()}
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(torch.zeros_like(parameter) if found[name] is None else found[name])
    twin.save_pretrained(folder)
    return read_folder(folder)[1]


def agree(model: Any, wanted: dict[str, torch.Tensor], tolerance: float = 1e-4, without: tuple[str, ...] = ()) -> None:
    """Every gradient of the model is theirs, relative; those that are zero but for rounding against the largest."""
    scale = max(float(gradient.norm()) for gradient in wanted.values())
    for name, parameter in model.named_parameters():
        if name not in without:
            assert float((parameter.grad - wanted[name]).norm()) < tolerance * max(float(wanted[name].norm()), 1e-2 * scale), name
