"""The stages of a run for the loop: opening data, moving batches, choosing the micro-batch, setting knobs, entering a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import RunError
from ..train.stage import Knob, Stage
from ..train.state import NOT_VALUES, State
from .check import batch_rows
from .groups import parameter_groups

if TYPE_CHECKING:
    from .run import Run
    from .schema import Stage as StageSection

Micro = dict[str, Tensor]


class DeviceWindows:
    """A Loader's windows on the device, with the run's key for row-wise randomness."""

    def __init__(self, loader: Any, device: torch.device, key: Tensor):
        self.loader, self.device, self.key = loader, device, key

    def __iter__(self) -> Iterator[list[Micro]]:
        for window in self.loader:
            yield [{name: value.to(self.device, non_blocking=True) for name, value in micro.items()} | {"key": self.key} for micro in window]

    def close(self) -> None:
        self.loader.close()


class Program:
    """What the loop runs (train.loop.Program): built from a Run, one stage at a time."""

    def __init__(self, run: Run):
        self.run = run
        self.stages = len(run.section.stages)
        self.micro_rows: dict[str, int] = {}

    def enter(self, state: State) -> Stage:
        """Build the stage that state.progress names. When entering afresh, a changed optimizer or objective starts here."""
        run, index = self.run, state.progress.stage
        section = run.section.stages[index]
        if state.progress.entering and (index == 0 or run.data_index(index) != run.data_index(index - 1)):
            state.extra["data_start"] = state.progress.total_rows
        if state.progress.entering and index:
            if section.objective is not None:
                run.replace_objective(section.objective)
            previous = run.section.stages[index - 1].optimizer
            if previous.name != section.optimizer.name or section.objective is not None:
                state.optimizer = make_optimizer(run, section)
            else:
                take_knobs(state.optimizer, make_optimizer(run, section))
        data = run.data_of(index)
        state.extra.setdefault("rows", {}).setdefault(str(run.data_index(index)), data.identity)
        sequence = (section.data or run.section.data).sequence
        rows = batch_rows(section.batch, sequence)
        micro = self.choose_micro_rows(index, rows)
        hooks = {spec.name: spec.build() for spec in section.hooks}
        state.attach_hooks(hooks)
        objective = run.model.objective
        # Stages on the same data read on where the last one stopped.
        before = state.progress.total_rows - state.progress.rows - state.extra["data_start"]
        stage = Stage(
            budget=section.budget, batch_rows=rows, tokens_per_row=sequence, micro_rows=micro,
            open=lambda start, size, micro_rows: run.windows(data.train, start=before + start, rows=size, micro_rows=micro_rows, data=run.data_index(index)),
            prepare=objective.prepare, position=lambda row: data.train.epochs(before + row) - data.train.epochs(before), hooks=hooks, side=section.side,
            evaluate=lambda: run.evaluate_streams(data.validation), sample=run.sample_prompts,
            averaged=lambda: averaged(hooks, run.model),
        )  # fmt: skip
        stage.knobs = list(self._knobs(section, stage, state, hooks, objective))
        return stage

    def choose_micro_rows(self, index: int, rows: int) -> int:
        """Rows a rank holds at once: the recipe's number, the one chosen at start and recorded, or what memory allows."""
        per_rank = -(-rows // self.run.layout.ranks)
        if isinstance(self.run.section.micro_rows, int):
            return min(per_rank, self.run.section.micro_rows)
        key = str(index)
        if key not in self.micro_rows:
            self.micro_rows[key] = self.run.fitting_micro_rows(index, per_rank)
        return min(per_rank, self.micro_rows[key])

    def _knobs(self, section: StageSection, stage: Stage, state: State, hooks: dict[str, Any], objective: Any) -> Iterator[Knob]:
        for name, curve in section.schedule.items():
            yield Knob(name, lambda moment, curve=curve: float(curve.build(moment=moment)), self._setter(name, section, stage, state, hooks, objective))
        if "lr" not in section.schedule:
            yield Knob("lr", lambda moment: 1.0, self._setter("lr", section, stage, state, hooks, objective))

    def _setter(self, name: str, section: StageSection, stage: Stage, state: State, hooks: dict[str, Any], objective: Any) -> Callable[[float], None]:
        head, _, rest = name.partition(".")
        if name == "batch":
            return lambda factor: setattr(stage, "batch_factor", factor)
        if head == "objective":
            base = getattr(objective, rest)
            return lambda factor: setattr(objective, rest, base * factor)
        if head == "hooks":
            hook, _, knob = rest.partition(".")
            value = getattr(hooks[hook], knob)
            return lambda factor: setattr(hooks[hook], knob, value * factor)

        def set_group(factor: float) -> None:
            for group in state.optimizer.param_groups:
                base = group.get(f"base_{name}", section.optimizer.knobs.get(name))
                group[name] = base * factor * (group.get("lr_scale", 1.0) if name == "lr" else 1.0)

        return set_group

    def save(self, state: State, metrics: dict[str, float]) -> Any:
        """Write a checkpoint of this moment."""
        return self.run.checkpoints.save(state, recipe_hash=self.run.recipe_hash, recipe=self.run.resolved, parents=self.run.parents, metrics=metrics)

    def restore(self, state: State) -> int | None:
        """Back to the newest whole checkpoint; its total step, or None when there is none."""
        path = self.run.checkpoints.latest()
        if path is None:
            return None
        self.run.checkpoints.load(state, path)
        return state.progress.total_steps


@contextmanager
def averaged(hooks: dict[str, Any], model: Any) -> Iterator[None]:
    """The model with the averaged weights of those hooks that keep an average: what is evaluated and sampled."""
    with ExitStack() as stack:
        for hook in hooks.values():
            if hasattr(hook, "averaged"):
                stack.enter_context(hook.averaged(model))
        yield


def make_optimizer(run: Run, section: StageSection) -> torch.optim.Optimizer:
    """The stage's optimizer over the model's parameter groups."""
    optimizer: torch.optim.Optimizer = section.optimizer.build(params=parameter_groups(run.model, run.initializer))
    claimed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    if len(claimed) != len(wanted) or {id(item) for item in claimed} != {id(item) for item in wanted}:
        raise RunError(f"optimizer {section.optimizer.name!r} updates {len(claimed)} of {len(wanted)} parameters; each must be claimed exactly once")
    return optimizer


def take_knobs(optimizer: torch.optim.Optimizer, fresh: torch.optim.Optimizer) -> None:
    """A stage that keeps the optimizer's state takes the knobs of its own: group by group those of a freshly built one, inner ones included."""
    for group, other in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        group.update({name: value for name, value in other.items() if name not in NOT_VALUES})
