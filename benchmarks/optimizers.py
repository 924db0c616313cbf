"""Milliseconds per optimizer step, against torch.optim.AdamW, on the parameter shapes of a 6-layer GPT of width 384.

    python benchmarks/optimizers.py [--width 384] [--depth 6] [--vocabulary 8192] [--steps 10] [--device cpu] [--threads 1]

Optimizers take turns within one process, so that a busy machine slows them alike; the median and the ratio to AdamW are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from ingot.core.axes import Axes
from ingot.core.parts import parts_in
from ingot.core.resolve import spec


def shapes(width: int, depth: int, vocabulary: int) -> list[tuple[str, tuple[int, ...], Axes]]:
    """Name, shape and axes of every weight: tied embedding, four attention and two feed-forward matrices, two norms a block."""
    matrix, scale = Axes(("width", "width"), "matrix"), Axes(("width",), "scale")
    found: list[tuple[str, tuple[int, ...], Axes]] = [("embedding.weight", (vocabulary, width), Axes(("vocabulary", "width"), "embedding"))]
    for i in range(depth):
        found += [(f"{i}.mixer.{name}.weight", (width, width), matrix) for name in ("query", "key", "value", "output")]
        found += [(f"{i}.feedforward.up.weight", (4 * width, width), matrix), (f"{i}.feedforward.down.weight", (width, 4 * width), matrix)]
        found += [(f"{i}.{name}.weight", (width,), scale) for name in ("mixer_norm", "feedforward_norm")]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 384), ("depth", 6), ("vocabulary", 8192), ("steps", 10), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    named = shapes(given.width, given.depth, given.vocabulary)
    weights = [nn.Parameter(torch.randn(shape, device=given.device) * 0.02) for _, shape, _ in named]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    group = {"params": weights, "names": [name for name, _, _ in named], "axes": [axes for _, _, axes in named]}
    choices = {name: spec("optim", name, lr=1e-6) for name in parts_in("optim")}
    choices["muon, iteration in bf16"] = spec("optim", "muon", lr=1e-6, iteration_dtype="bf16")
    optimizers = {"torch.optim.AdamW": torch.optim.AdamW(weights, lr=1e-6, fused=True)}
    optimizers |= {label: choice.build(params=[group]) for label, choice in choices.items()}
    optimizers["torch.optim.Muon (matrices)"] = torch.optim.Muon([w for w, (_, _, axes) in zip(weights, named) if axes.role == "matrix"], lr=1e-6)
    seconds: dict[str, list[float]] = {label: [] for label in optimizers}
    for turn in range(given.steps + 1):
        for label, optimizer in optimizers.items():
            seconds[label].append(timed(optimizer, given.device))
            if turn == 0:
                seconds[label].clear()  # the first step creates the state
    base = statistics.median(seconds["torch.optim.AdamW"])
    print(f"{sum(weight.numel() for weight in weights):,} weights on {given.device}, median of {given.steps} steps")
    for label, values in seconds.items():
        middle = statistics.median(values)
        print(f"{label:30}{middle * 1e3:10.2f} ms   {middle / base:8.2f} x AdamW")


def timed(optimizer: torch.optim.Optimizer, device: str) -> float:
    start = time.perf_counter()
    optimizer.step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
