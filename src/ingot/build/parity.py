"""Whether accumulation, ranks and layout change a recipe's gradient: the first window's gradient, computed every way and compared.

Gradients are compared, tensor by tensor, because AdamW hides a gradient of the wrong scale. Run as a module this file is one rank:

    python -m ingot.build.parity RECIPE.yaml FOLDER ACCUMULATIONS
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import RunError
from ..train.step import forward_backward

if TYPE_CHECKING:
    from .run import Run

TOLERANCE = {"fp32": 3e-6, "fp64": 1e-12}
Gradients = dict[str, Tensor]


def window_gradients(run: Run, accumulation: int | None = None, start: int = 0) -> tuple[Gradients, dict[str, float]]:
    """The gradient of one window, nothing updated: {parameter: full tensor, summed over ranks}, {loss: per scored unit}.

    The window is the first stage's from row `start` on, prepared and selected as in training. accumulation: into how many
    micro-batches a rank cuts its share (fewer when it has fewer rows); the run's own number when not given. Collective.
    """
    state = run.state()
    stage = run.program.enter(state)
    share = -(-stage.rows_read // run.layout.ranks)
    windows = stage.open(start, stage.rows_read, stage.micro_rows if accumulation is None else -(-share // accumulation))
    try:
        window = [stage.prepare(micro) for micro in next(iter(windows))]
    finally:
        windows.close()
    for hook in stage.hooks.values():
        if hasattr(hook, "select"):
            window = hook.select(state, window)
    state.model.zero_grad(set_to_none=True)
    shares = forward_backward(state.model, window, run.layout, stage.side).shares
    gradients = {name: whole(parameter.grad) for name, parameter in state.model.named_parameters() if parameter.grad is not None}
    totals = run.layout.total(torch.stack([share.double() for share in shares.values()])).tolist()
    state.model.zero_grad(set_to_none=True)
    return gradients, dict(zip(shares, totals, strict=True))


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, gathered where the tensor is sharded."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found.detach().cpu().clone().contiguous()


def worst_difference(wanted: Gradients, found: Gradients) -> tuple[float, str]:
    """The largest |found - wanted| / |wanted| of a tensor (Euclidean norms), and its name; infinite for one that is on one side only.

    A gradient that is zero but for rounding, such as that of a key's bias, is measured against the norm of all.
    """
    norms = {name: float(value.double().norm()) for name, value in wanted.items()}
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    worst = (0.0, "")
    for name in sorted(wanted.keys() | found.keys()):
        # FSDP gives zeros to what nothing used, the other layouts give no gradient.
        one, other = (side.get(name) for side in (wanted, found))
        if one is None or other is None:
            present = one if other is None else other
            assert present is not None
            difference = float("inf") if bool(present.any()) else 0.0
        else:
            rounding = 16 * torch.finfo(one.dtype).eps * total
            difference = float((other.double() - one.double()).norm()) / ((norms[name] if norms[name] > rounding else total) or 1.0)
        worst = max(worst, (difference, name))
    return worst


@dataclass(frozen=True)
class Case:
    """One way of computing the gradient, compared with one process that does not accumulate."""

    layout: str
    ranks: int
    accumulation: int
    difference: float
    tensor: str
    loss_difference: float

    def equal(self, tolerance: float) -> bool:
        """Whether gradients and losses agree, relative."""
        return self.difference <= tolerance and self.loss_difference <= tolerance


def compare(recipe: dict[str, Any], folder: Path, ways: list[tuple[str, int]], accumulations: list[int]) -> list[Case]:
    """Compute the gradient of a resolved recipe every way: (layout, ranks) by accumulations. Raises RunError with a worker's last words."""
    from ..core.recipe import dump

    cases = []
    wanted: tuple[Gradients, dict[str, float]] | None = None
    for layout, ranks in [("single", 1), *(way for way in ways if way != ("single", 1))]:
        place = folder / f"{layout}-{ranks}"
        place.mkdir(parents=True)
        changes = {
            "name": "parity",
            "compile": False,
            **({"layout": layout} if recipe.get("layout", "auto") == "auto" or ranks == 1 else {}),
        }
        (place / "recipe.yaml").write_text(dump(recipe | changes), encoding="utf-8")
        counts = sorted({1, *accumulations}) if wanted is None else accumulations
        launch([str(place / "recipe.yaml"), str(place), ",".join(map(str, counts))], ranks, place / f"{counts[-1]}.safetensors")
        wanted = wanted or read(place / "1.safetensors")
        if (layout, ranks) in ways:
            cases += [_case(layout, ranks, count, wanted, read(place / f"{count}.safetensors")) for count in accumulations]
    return cases


def _case(
    layout: str, ranks: int, accumulation: int, wanted: tuple[Gradients, dict[str, float]], found: tuple[Gradients, dict[str, float]]
) -> Case:
    difference, tensor = worst_difference(wanted[0], found[0])
    losses = max(abs(found[1][name] - value) / (abs(value) or 1.0) for name, value in wanted[1].items())
    return Case(layout, ranks, accumulation, difference, tensor, losses)


def read(path: Path) -> tuple[Gradients, dict[str, float]]:
    """What a worker wrote: gradients and losses."""
    from safetensors.torch import load_file

    held = load_file(path)
    return (
        {name.removeprefix("gradient."): value for name, value in held.items() if name.startswith("gradient.")},
        {name.removeprefix("loss."): float(value) for name, value in held.items() if name.startswith("loss.")},
    )


def launch(arguments: list[str], ranks: int, result: Path, limit: float = 3600.0) -> None:
    """Run this module as so many processes. They are judged by the file they leave, since gloo may abort a process whose work is done."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    package = str(Path(__file__).resolve().parents[2])
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))}
    logs = [result.parent / f"rank-{rank}.log" for rank in range(ranks)]
    children = []
    for rank, log in enumerate(logs):
        with log.open("wb") as file:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} | (place if ranks > 1 else {"WORLD_SIZE": "1"})
            command = [sys.executable, "-m", "ingot.build.parity", *arguments]
            children.append(subprocess.Popen(command, env=os.environ | path | own, stdout=file, stderr=subprocess.STDOUT))
    deadline = time.monotonic() + limit
    try:
        while any(child.poll() is None for child in children) and time.monotonic() < deadline:
            if any(child.poll() for child in children) and not result.exists():
                break
            time.sleep(0.05)
    finally:
        for child in children:
            child.kill()
            child.wait()
    if not result.exists():
        words = [log.read_text(errors="replace").strip().splitlines() for log in logs]
        last = next(
            (lines[-1] for lines, child in zip(words, children, strict=True) if lines and child.returncode not in (0, -9)),
            "it ended without a word",
        )
        reason = re.sub(r"^[\w.]+(Error|Exception): ", "", last)
        raise RunError(f"the gradient on {ranks} ranks could not be computed: {reason}")


def main(recipe: str, folder: str, accumulations: str) -> None:
    """One rank: every accumulation of the recipe; rank 0 writes a file for each."""
    from safetensors.torch import save_file

    from .run import build

    run = build(recipe, runs=Path(folder) / "runs")
    for count in map(int, accumulations.split(",")):
        gradients, losses = window_gradients(run, count)
        if run.layout.rank == 0:
            held = {f"gradient.{name}": value for name, value in gradients.items()} | {
                f"loss.{name}": torch.tensor(value, dtype=torch.float64) for name, value in losses.items()
            }
            final = Path(folder) / f"{count}.safetensors"
            save_file(held, f"{final}.part")
            os.replace(f"{final}.part", final)


if __name__ == "__main__":
    from ..parallel.start import leave

    main(*sys.argv[1:])
    leave()
