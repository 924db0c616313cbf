"""What a run will need before it starts: memory by kind, seconds, money, and the cheapest changes that make it fit.

Nothing of the planned size is made: the model stands on the meta device and the data is not prepared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.parts import Spec, signature
from ..core.quantities import Quantity
from ..ledger.forecast import Change, Forecast, changes, fitting_rows, forecast, sharded, step_seconds
from ..ledger.machine import matmul_rate
from .graph import build_model
from .groups import parameter_groups

if TYPE_CHECKING:
    from .run import Run

SPECIALS = {"end": 0, "mask": 1, "pad": 2}


def forecast_stage(run: Run, index: int, micro_rows: int, *, dtype: torch.dtype | None = None, optimizer: Spec | None = None, checkpointing: bool = False) -> Forecast:
    """One optimizer step of a stage on one rank, with micro-batches of so many rows; dtype, optimizer, checkpointing try a change."""
    section = run.section.stages[index]
    wanted = dtype or run.dtype
    model = meta_model(run, index, wanted)
    if checkpointing:
        model.encoder.checkpointing = True
    sequence = run.data_section(index).sequence
    batch = model.objective.prepare(example_batch(micro_rows, sequence))
    per_rank = -(-run.batch_rows(index) // run.layout.ranks)
    chosen = optimizer or section.optimizer
    found = forecast(model, batch, lambda twin: chosen.build(params=parameter_groups(twin, run.initializer)),
                     micro_batches=-(-per_rank // micro_rows), device="cpu", compiled=bool(run.choices.get("compile", False)))  # fmt: skip
    return sharded(found, run.layout.ranks) if run.layout_name == "fsdp" else found


def meta_model(run: Run, index: int, dtype: torch.dtype) -> Any:
    """The stage's model, shapes only."""
    stages = run.section.stages[: index + 1]
    objective = next((stage.objective for stage in reversed(stages) if stage.objective is not None), run.section.model.objective)
    with torch.device("meta"):
        model = build_model(run.section.model, vocabulary=vocabulary_of(run), sequence=run.data_section(index).sequence, specials=SPECIALS, dtype=dtype, objective=objective)
    return model.double() if dtype == torch.float64 else model


def vocabulary_of(run: Run) -> int:
    """Number of token ids, without preparing data where the tokenizer's knob says it."""
    if run.section.model.vocabulary:
        return run.section.model.vocabulary
    tokenizer = run.section.data.tokenizer
    if not run.opened and tokenizer is not None and "vocabulary" in signature(tokenizer.target).knobs:
        return int(tokenizer.knobs["vocabulary"])
    if not run.opened and tokenizer is not None and "texts" not in signature(tokenizer.target).wiring:
        return int(tokenizer.build(folder=Path.cwd()).vocabulary)
    return int(run.tokenizer.vocabulary)


def example_batch(rows: int, sequence: int) -> dict[str, torch.Tensor]:
    """A batch of token rows by shape, as a text source gives it."""
    numbers = torch.arange(rows)
    return {"rows": numbers, "source": torch.zeros_like(numbers), "tokens": torch.zeros(rows, sequence, dtype=torch.int64), "key": torch.tensor(0),
            "segments": torch.ones(rows, sequence, dtype=torch.int32), "positions": torch.arange(sequence).expand(rows, -1)}  # fmt: skip


def plan(run: Run, available: int) -> dict[str, Any]:
    """Per stage: the forecast at the chosen micro-batch, whether it fits, seconds and money, and changes that take less memory."""
    rate = matmul_rate(run.device, run.dtype)
    stages = [_plan_stage(run, index, available, rate) for index in range(len(run.section.stages))]
    seconds = [stage["seconds"] for stage in stages]
    total = sum(value for value in seconds if value is not None) if all(value is not None for value in seconds) else None
    price = run.section.price_per_hour
    return {"stages": stages, "available": available, "matmul_flops_per_second": rate, "parameters": stages[0]["forecast"]["parameters"] if stages else 0,
            "seconds": total, "cost": total / 3600 * price if total is not None and price else None, "fits": all(stage["fits"] for stage in stages)}  # fmt: skip


def _plan_stage(run: Run, index: int, available: int, rate: float) -> dict[str, Any]:
    rows = -(-run.batch_rows(index) // run.layout.ranks)
    micro = run.program.micro_rows.get(str(index)) or choose(run, index, rows, available)
    found = forecast_stage(run, index, micro)
    per_step = step_seconds(found.flops, rate, device=run.device.type, dtype=run.dtype)
    steps = steps_in(run, index, found.flops * run.layout.ranks, per_step)
    fits = found.peak <= available
    return {"forecast": found.as_dict(), "micro_rows": micro, "fits": fits, "steps": steps, "step_seconds": per_step, "seconds": steps * per_step,
            "budget": str(run.section.stages[index].budget), "changes": [vars(change) for change in _changes(run, index, found, micro, available)]}  # fmt: skip


def choose(run: Run, index: int, rows: int, available: int) -> int:
    """The recipe's micro-batch, else the largest that is predicted to fit, at least one row."""
    if isinstance(run.section.micro_rows, int):
        return min(rows, run.section.micro_rows)
    most = rows if run.device.type == "cuda" else min(rows, max(1, 16384 // run.data_section(index).sequence))
    return max(1, fitting_rows(lambda count: forecast_stage(run, index, count).peak, available, most))


def steps_in(run: Run, index: int, flops: float, seconds: float) -> float:
    """Optimizer steps that the stage's budget buys."""
    budget: Quantity = run.section.stages[index].budget
    rows, sequence = run.batch_rows(index), run.data_section(index).sequence
    per_step = {"steps": 1.0, "rows": rows, "tokens": rows * sequence, "flops": flops, "seconds": seconds}.get(budget.unit)
    if per_step is None:
        data = run.data_of(index)
        per_step = {"epochs": rows / data.train.rows_per_epoch}.get(budget.unit, 1.0)
    return max(1.0, budget.value / per_step)


def _changes(run: Run, index: int, now: Forecast, micro: int, available: int) -> list[Change]:
    """Full forecasts of the run with one thing changed each, cheapest to the user first."""
    smaller = max(1, micro // 4)
    alternatives: dict[str, Any] = {}
    if smaller < micro:
        alternatives[f"micro_rows={smaller}"] = (lambda: forecast_stage(run, index, smaller), "slightly slower matmuls, the same result")
    if run.dtype == torch.float32:
        alternatives["precision=bf16"] = (lambda: forecast_stage(run, index, micro, dtype=torch.bfloat16), "activations in 16 bits")
    name = run.section.stages[index].optimizer.name
    if name == "adamw":
        from ..core.resolve import spec

        alternatives[f"stages.{index}.optimizer=lion"] = (lambda: forecast_stage(run, index, micro, optimizer=spec("optim", "lion", lr=1e-4)), "another optimizer: tune its lr")
    return changes(replace(now), available, alternatives)
