"""What a run will need before it starts: memory by kind, seconds, money, and the cheapest changes that make it fit.

Nothing of the planned size is made: the model stands on the meta device and the data is not prepared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ..core.errors import Problem, UserError
from ..core.parts import Spec, signature
from ..ledger.forecast import Forecast, forecast, pretended_model, sharded
from ..ledger.machine import matmul_doubt, matmul_rate
from ..train.fused_backward import FusedBackward
from .graph import build_model
from .groups import parameter_groups
from .grow import graph_of
from .memory_fit import settle, settle_naively, stacks
from .reference_model import run_at
from .remedies import Remedies
from .rows import example_batch, steps_in

if TYPE_CHECKING:
    from .run import Run

SPECIALS = {
    name: index
    for index, name in enumerate(
        (
            "end",
            "mask",
            "pad",
            "prefix",
            "suffix",
            "middle",
            "regular",
            "sequential",
            "extreme",
            *(f"sentinel_{number}" for number in range(200)),
        )
    )
}


def forecast_stage(
    run: Run,
    index: int,
    micro_rows: int,
    *,
    dtype: torch.dtype | None = None,
    optimizer: Spec | None = None,
    checkpointing: str | None = None,
    fused: bool | None = None,
) -> Forecast:
    """One optimizer step of a stage on one rank, with micro-batches of so many rows; dtype, optimizer, checkpointing, fused try a change."""
    section = run.section.stages[index]
    model = meta_model(run, index, dtype or run.dtype)
    for stack in stacks(model):
        if checkpointing is not None:  # offloading leaves on the device what full checkpointing leaves, and computes nothing again
            stack.checkpointing = "full" if checkpointing == "offload" else checkpointing
    batch = model.objective.prepare(example_batch(run.fields(index), micro_rows))
    per_rank = -(-run.batch_rows(index) // run.layout.ranks)
    chosen = optimizer or section.optimizer
    fusing = section.fused_backward is True if fused is None else fused
    hooks = [spec.build(open_model=lambda path: _reference(run, path)) for spec in section.hooks]
    found = forecast(
        model,
        batch,
        lambda twin: chosen.build(params=parameter_groups(twin, run.initializer)),
        micro_batches=-(-per_rank // micro_rows),
        device="cpu",
        compiled=run.section.compile is True or bool(run.choices.get("compile", False)),
        last_backward=(lambda optimizer, phase: FusedBackward(optimizer, phase).updating) if fusing else None,
        copies=sum(getattr(hook, "copies", 0) for hook in hooks),
        selecting=[hook for hook in hooks if hasattr(hook, "reads")],
    )
    found = replace(found, recomputed=0.0) if checkpointing == "offload" else found
    return sharded(found, run.layout.ranks) if run.layout_name == "fsdp" else found


def _reference(run: Run, path: str) -> Any:
    """The model of the run at `path`, pretended as the one that it judges rows for: asked for inside the forecast."""
    mode = detect_fake_mode()
    assert mode is not None
    with unset_fake_temporarily():
        other, _ = run_at(run, path, "the reference")
        model = meta_model(other, len(other.section.stages) - 1, run.dtype)
    return pretended_model(model, mode, "cpu").eval()


def meta_model(run: Run, index: int, dtype: torch.dtype) -> Any:
    """The stage's model, shapes only."""
    graph = graph_of(run.section, index)
    chosen_at, objective = replace(run.section, model=graph).objective_at(index)
    with torch.device("meta"):
        model = build_model(
            graph,
            vocabulary=vocabulary_of(run),
            sequence=run.sequence,
            specials=SPECIALS,
            dtype=dtype,
            objective=objective,
            fields=run.fields(),
            objective_fields=run.fields(chosen_at),
            context={"frozen": run.frozen},
        )
    return model.double() if dtype == torch.float64 else model


def refuse_unschedulable(run: Run, index: int) -> None:
    """Raise UserError where a stage schedules what its objective asks for once, when it is made: a knob that it does not hold under its
    own name, as the number that the recipe gives."""
    wanted = [knob.partition(".")[2] for knob in run.section.stages[index].schedule if knob.startswith("objective.")]
    if not wanted:
        return
    chosen, made = run.section.objective_at(index)[1], meta_model(run, index, torch.float32).objective
    message = f"{chosen.name} asks for it once, when it is made, so it cannot be scheduled"
    held = {knob: getattr(made, knob, None) for knob in wanted}
    lost = [knob for knob, value in held.items() if not isinstance(value, float) or value != chosen.knobs[knob]]
    if lost:
        raise UserError([Problem(f"stages.{index}.schedule.objective.{knob}", message) for knob in lost])


def vocabulary_of(run: Run) -> int | None:
    """Number of token ids, without preparing data where the tokenizer's knob says it."""
    if run.section.model.vocabulary:
        return run.section.model.vocabulary
    tokenizer = run.section.data.tokenizer
    if tokenizer is None and not run.has_text:
        return None
    if not run.opened and tokenizer is not None and "vocabulary" in signature(tokenizer.target).knobs:
        return int(tokenizer.knobs["vocabulary"])
    if not run.opened and tokenizer is not None and "texts" not in signature(tokenizer.target).wiring:
        return int(tokenizer.build(folder=Path.cwd()).vocabulary)
    return int(run.tokenizer.vocabulary)


def plan(run: Run, available: int) -> dict[str, Any]:
    """Per stage: the forecast at the chosen micro-batch, whether it fits, seconds and money; where it does not, what would take less.

    changes: one by one; together: the cheapest combination that fits, or the one that needs least; none where the stage fits.
    """
    rate = matmul_rate(run.device, run.dtype)
    stages = [_plan_stage(run, index, available, rate) for index in range(len(run.section.stages))]
    seconds = [stage["seconds"] for stage in stages]
    total = sum(value for value in seconds if value is not None) if all(value is not None for value in seconds) else None
    price = run.section.price_per_hour
    return {
        "stages": stages,
        "available": available,
        "matmul_flops_per_second": rate,
        "matmul_doubt": matmul_doubt(run.device, run.dtype),
        "parameters": stages[0]["forecast"]["parameters"] if stages else 0,
        "active_parameters": stages[0]["forecast"]["active_parameters"] if stages else 0,
        "seconds": total,
        "cost": total / 3600 * price if total is not None and price else None,
        "fits": all(stage["fits"] for stage in stages),
    }


def _plan_stage(run: Run, index: int, available: int, rate: float) -> dict[str, Any]:
    refuse_unschedulable(run, index)
    rows = -(-run.batch_rows(index) // run.layout.ranks)
    setting = settle(run, index, rows, available, rate)
    found = setting.forecast
    steps = steps_in(run, index, flops=found.flops * run.layout.ranks, seconds=setting.seconds)
    naive = settle_naively(run, index, rows, rate)
    remedies = None if setting.fits else Remedies(run, index, setting, available)
    return {
        "forecast": found.as_dict(),
        "micro_rows": setting.micro_rows,
        "checkpointing": setting.checkpointing,
        "fused_backward": setting.fused_backward,
        "fits": setting.fits,
        "steps": steps,
        "step_seconds": setting.seconds,
        "seconds": steps * setting.seconds,
        "naive": {"micro_rows": naive.micro_rows, "peak": naive.forecast.peak, "step_seconds": naive.seconds},
        "slower": setting.seconds / naive.seconds,
        "budget": str(run.section.stages[index].budget),
        "changes": [vars(change) for change in remedies.one_by_one()] if remedies else [],
        "together": remedies.together().as_dict() if remedies else None,
    }
