"""Copies of the ledger for TensorBoard and Weights & Biases, both optional and imported only when asked for.

``log: {tensorboard: auto, wandb: false}``: *auto* writes where the package is installed and says nothing where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ..core.errors import missing_extra

Choice = bool | Literal["auto"]


def open_viewers(
    folder: str | Path, *, tensorboard: Choice = "auto", wandb: Choice = False, name: str = "", recipe: Any = None
) -> tuple[Any, ...]:
    """The viewers asked for. Raises UserError naming the extra when one that is set to true is not installed."""
    folder = Path(folder)
    wanted = [
        (tensorboard, lambda: TensorBoard(folder / "tensorboard")),
        (wandb, lambda: WeightsAndBiases(folder, name or folder.name, recipe)),
    ]
    opened = []
    for choice, make in wanted:
        if choice is False:
            continue
        try:
            opened.append(make())
        except ModuleNotFoundError as error:
            if choice is not True:
                continue
            package = (error.name or "").partition(".")[0]
            raise missing_extra("wandb" if package == "wandb" else "tensorboard", "wandb" if package == "wandb" else "report") from None
    return tuple(opened)


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The named numbers of a step or an evaluation line, named as both viewers show them."""
    if line["kind"] == "step":
        yield from _numbers("train", line, ("loss", "lr", "grad_norm"))
        yield from _numbers("train/losses", line.get("losses") or {})
        yield from _numbers("speed", line, ("tokens_per_second", "utilization", "step_seconds"))
        yield from _numbers("seconds", line.get("phases") or {})
        yield from _numbers("memory", line.get("memory") or {})
        yield from _numbers("spent", line, ("tokens", "flops", "seconds"))
    elif line["kind"] == "evaluation":
        for source, metrics in (line.get("results") or {}).items():
            yield from _numbers(f"evaluation/{source}", metrics)


def _numbers(group: str, values: Mapping[str, Any], keys: tuple[str, ...] | None = None) -> Iterator[tuple[str, float]]:
    for key in keys or tuple(values):
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{group}/{key}", float(value)


class TensorBoard:
    """Event files under ``tensorboard/``: loss, learning rate, gradient norm, speed, phases, memory, evaluations, samples, events.

    What earlier files tell of steps after the one that a run starts from is hidden, as the ledger drops it.
    """

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._make = str(folder), SummaryWriter
        self._writer: SummaryWriter | None = None  # until the first line tells where the run starts

    def write(self, line: Mapping[str, Any]) -> None:
        step = line.get("step", 0)
        if self._writer is None:
            fresh = (line.get("progress") or {}).get("total_steps", 0) + bool(line.get("resumed"))
            self._writer = self._make(self._folder, purge_step=fresh if line["kind"] == "start" else None, flush_secs=30)
        for tag, value in scalars(line):
            self._writer.add_scalar(tag, value, step)
        if line["kind"] == "sample":
            self._writer.add_text("sample", f"**{line.get('prompt', '')}**{line.get('text', '')}", step)
        elif line["kind"] == "event":
            self._writer.add_text(f"event/{line.get('name', '')}", str(line.get("message", "")), step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """The same numbers as one W&B run; a resumed run continues under its own id, which is kept in the run folder.

    Numbers are drawn against a `step` of their own: W&B's own counter only goes up, and numbers for a lower one are thrown away, such as
    those of the steps that a resumed run takes again.
    """

    def __init__(self, folder: Path, name: str, recipe: Any):
        import wandb

        kept = folder / "wandb_id"
        identity = kept.read_text().strip() if kept.is_file() else wandb.util.generate_id()
        kept.write_text(identity)
        self._run = wandb.init(id=identity, name=name, dir=str(folder), config=recipe, resume="allow")
        self._run.define_metric("*", step_metric="step")

    def write(self, line: Mapping[str, Any]) -> None:
        values = dict(scalars(line))
        if values:
            self._run.log(values | {"step": line.get("step", 0)})

    def close(self) -> None:
        self._run.finish()
