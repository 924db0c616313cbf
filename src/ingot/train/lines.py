"""Lines of the ledger: what the loop tells of a step, an evaluation, an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ledger.memory import measure

if TYPE_CHECKING:
    import torch

    from ..ledger.meter import Spent
    from .state import State
    from .step import Outcome


def step_line(
    state: State, outcome: Outcome, spent: Spent, *, rows: int, seconds: float, rate: float, device: torch.device
) -> dict[str, Any]:
    """A step that was made. spent: FLOPs of all ranks, phases of this one. seconds: of all, on average. rate: FLOP/s that all could do."""
    progress, flops = state.progress, spent.flops
    return {
        "kind": "step",
        "stage": progress.stage,
        "step": progress.total_steps,
        "rows": progress.total_rows,
        "tokens": progress.total_tokens,
        "epochs": progress.epochs,
        "flops": progress.total_flops,
        "seconds": progress.total_seconds,
        **({"audio_seconds": progress.audio_seconds} if progress.audio_seconds else {}),
        "loss": outcome.loss,
        "losses": outcome.losses,
        "lr": state.optimizer.param_groups[0]["lr"],
        "grad_norm": outcome.gradient_norm,
        "batch_rows": rows,
        "step_tokens": outcome.tokens,
        "step_flops": flops,
        "step_recomputed": spent.recomputed,
        "step_seconds": seconds,
        "phases": spent.phases,
        "flops_by_component": spent.flops_by_component,
        "tokens_per_second": outcome.tokens / seconds if seconds else 0.0,
        "utilization": flops / (seconds * rate) if seconds and rate else None,
        "memory": measure(state.model, state.optimizer, device) | {"gradients": outcome.gradient_bytes},
        **({"side": outcome.side} if outcome.side else {}),
        **({"hooks": outcome.hooks} if outcome.hooks else {}),
    }


def evaluation_line(state: State, results: dict[str, dict[str, float]], took: float) -> dict[str, Any]:
    """An evaluation that took so many seconds."""
    progress = state.progress
    return {
        "kind": "evaluation",
        "stage": progress.stage,
        "step": progress.total_steps,
        "tokens": progress.total_tokens,
        "flops": progress.total_flops,
        "seconds": progress.total_seconds,
        "took": took,
        "results": results,
    }


def event(step: int, name: str, message: str, **more: Any) -> dict[str, Any]:
    """Something that happened at a step."""
    return {"kind": "event", "step": step, "name": name, "message": message, **more}
