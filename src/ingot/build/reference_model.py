"""Another run beside a run's own, for its model: frozen, whole on every rank, reading the same token ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError
from ..core.folders import run_and_checkpoint
from ..core.recipe import load
from .check import resolve_run
from .device import ALONE

if TYPE_CHECKING:
    from .run import Run


def run_at(run: Run, path: str, wanted: str) -> tuple[Run, Path | None]:
    """The run at `path`, on this run's device and whole, and the checkpoint that `path` names, if it names one. Raises UserError.

    Not collective: any rank may open it, alone.
    """
    from .run import Run

    folder, checkpoint = run_and_checkpoint(path)
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"no run at {path!r} to take {wanted} from")
    section = resolve_run(load(folder / "recipe.yaml"))
    section.device, section.precision, section.layout = run.section.device, run.section.precision, ALONE
    return Run(section, folder), checkpoint


def reference_model(run: Run, path: str) -> Any:
    """The model of the run or checkpoint at `path`, in evaluation mode. Raises UserError where it cannot judge this run's rows."""
    other, checkpoint = run_at(run, path, "the reference")
    if other.tokenizer.identity != run.tokenizer.identity:
        raise UserError(f"the reference {path!r} has another tokenizer: its losses are not of the same tokens")
    if other.section.model.objective.name != run.objective_spec.name:
        raise UserError(
            f"the reference {path!r} was trained on {other.section.model.objective.name!r}, this run is on {run.objective_spec.name!r}"
        )
    if other.load_weights(checkpoint) is None:
        raise UserError(f"the reference run {path!r} has no whole checkpoint yet")
    return other.model.eval().requires_grad_(False)
