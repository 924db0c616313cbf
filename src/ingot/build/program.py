"""The stages of a run for the loop: opening data, moving batches, choosing the micro-batch, setting knobs, entering a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import RunError, UserError
from ..core.parts import Spec
from ..ledger.lineage import described
from ..model.graph import spent
from ..train.lines import event
from ..train.stage import Knob, Stage
from ..train.state import State
from .annotate import annotate
from .groups import parameter_groups
from .grow import grow
from .memory_fit import fitting, stacks
from .reference_model import reference_model
from .rows import positions_per_row

if TYPE_CHECKING:
    from .run import Run
    from .schema import Stage as StageSection

Micro = dict[str, Tensor]
COUNTED = ("turn",)  # values of an optimizer's groups that are its state, not its knobs


class DeviceWindows:
    """A Loader's windows on the device, with the run's key for row-wise randomness."""

    def __init__(self, loader: Any, device: torch.device, key: Tensor, notices: Callable[[], None] = lambda: None):
        self.loader, self.device, self.key, self.notices = loader, device, key, notices

    def __iter__(self) -> Iterator[list[Micro]]:
        for window in self.loader:
            self.notices()
            yield [
                {name: value.to(self.device, non_blocking=True) for name, value in micro.items()} | {"key": self.key} for micro in window
            ]

    def close(self) -> None:
        self.loader.close()


class Program:
    """What the loop runs (train.loop.Program): built from a Run, one stage at a time."""

    def __init__(self, run: Run):
        self.run = run
        self.stages = len(run.section.stages)
        self.micro_rows: dict[str, int] = {}  # what was left open in the recipe, by stage
        self.checkpointing: dict[str, str] = {}
        self.fused_backward: dict[str, bool] = {}
        self._state: State | None = None
        self._scheduled: dict[str, Any] = {}  # knobs of the objective in force that a stage schedules, with the recipe's values
        self.say: Callable[[dict[str, Any]], None] = lambda line: None  # a line for the ledger, of rank 0 alone
        self.heard: list[dict[str, Any]] = []  # of the data, by this rank

    @property
    def step(self) -> int:
        """Steps of the run so far."""
        return self._state.progress.total_steps if self._state is not None else 0

    @property
    def hooks(self) -> dict[str, Any]:
        """Of the stage entered last, by name."""
        return self._state.hooks if self._state is not None else {}

    def enter(self, state: State) -> Stage:
        """Build the stage that state.progress names. When entering afresh, a changed optimizer or objective starts here."""
        run, index = self.run, state.progress.stage
        section = run.section.stages[index]
        if state.progress.entering:
            before = _shapes(state.model)
            self._begin(state, section, index)
            for name, value in self._scheduled.items():  # by the stage before
                setattr(run.model.objective, name, value)
            if section.transforms or _shapes(state.model) != before:
                self._restart_hooks(state, section)
            # Such as a teacher that starts as a copy; where the objective stays, so does what it has averaged.
            stays = section.objective is None if index else run.objective_started
            if not stays and hasattr(run.model.objective, "begin"):
                run.model.objective.begin(run.model)
        data = run.data_of(index)
        if said := annotate(run, state.extra, index, entering=state.progress.entering):
            self.say(event(state.progress.total_steps, "annotate", said))
        state.extra.setdefault("rows", {}).setdefault(str(run.data_index(index)), data.identity)
        sequence, rows = positions_per_row(run, index), run.batch_rows(index)
        self._state = state
        micro = self.choose_micro_rows(index, rows)
        for stack in stacks(run.model):
            stack.checkpointing = self.checkpointing[str(index)] if stack.automatic else stack.checkpointing
        hooks = {
            spec.name: spec.build(layout=run.layout, batch_rows=rows, sequence=sequence, open_model=lambda path: reference_model(run, path))
            for spec in section.hooks
        }
        state.attach_hooks(hooks)
        objective = run.model.objective
        if hasattr(objective, "stepped"):  # such as an average of the encoder that teaches it; its state lies in the model
            hooks["objective"] = SimpleNamespace(stepped=lambda state, log: None if log.get("skipped") else objective.stepped(state, log))
        before = state.progress.total_rows - state.progress.rows - state.extra["data_start"]
        stage = Stage(
            budget=section.budget,
            batch_rows=rows,
            tokens_per_row=sequence,
            micro_rows=micro,
            open=lambda start, size, micro_rows: run.windows(
                data.train, start=before + start, rows=size, micro_rows=micro_rows, data=run.data_index(index)
            ),
            prepare=lambda micro: counted(run.model, objective.prepare(micro)),
            sources=list(data.train.source_names),
            first=before,
            last=None if data.train.end is None else data.train.end - before,
            seconds_per_row=data.train.seconds_per_row,
            position=lambda row: data.train.epochs(before + row) - data.train.epochs(before),
            hooks=hooks,
            side=section.side,
            fused_backward=self.fused_backward[str(index)],
            evaluate=lambda: run.evaluate_streams(data.validation),
            sample=run.sample_prompts,
            averaged=lambda: averaged(hooks, run.model),
        )
        stage.knobs = list(self._knobs(section, stage, state, hooks, objective))
        return stage

    def _begin(self, state: State, section: StageSection, index: int) -> None:
        """What happens once, when a stage is entered afresh: its transforms, its objective, its optimizer."""
        run = self.run
        # A stage reads on where the last one on the same data stopped, also where others lay between.
        rows, read = state.progress.total_rows, state.extra.setdefault("read", {})
        if index:
            read[str(run.data_index(index - 1))] = rows - state.extra["data_start"]
        at, end = read.get(str(run.data_index(index)), 0), run.data_of(index).train.end
        if end is not None and at >= end:
            self.say(event(state.progress.total_steps, "data_again", f"the data of stage {index} are used up (max_epochs) and read again"))
            at = 0
        state.extra["data_start"] = rows - at
        if index and section.objective is not None:
            run.replace_objective(section.objective, index)
            self._scheduled.clear()
        before = run.section.stages[index - 1]
        same = index == 0 or (
            _rules(before.optimizer) == _rules(section.optimizer)
            and before.layer_decay == section.layer_decay
            and section.objective is None
        )
        if section.transforms:
            annotate(run, dict(state.extra), index, entering=True)  # growing looks at rows of the stage
            for line in grow(run, state, index, keep_optimizer=same):
                self.say(event(state.progress.total_steps, "transform", described(line), transform=line))
        elif not same:
            state.optimizer = make_optimizer(run, section)
        elif index:
            state.optimizer = going_on(state.optimizer, make_optimizer(run, section))

    def _restart_hooks(self, state: State, section: StageSection) -> None:
        """Hooks of the stage before go on in this one, but not on another model: those that would have are said to begin anew."""
        held = state.forget_hooks()
        for name in (spec.name for spec in section.hooks if spec.name in held):
            words = f"the hook {name!r} starts afresh: the model is not that of the stage before, so what it held no longer fits"
            self.say(event(state.progress.total_steps, "hook", words))

    def choose_micro_rows(self, index: int, rows: int) -> int:
        """Rows a rank holds at once: the recipe's number, the one chosen at start and recorded, or what memory allows.

        What else the recipe leaves open is settled with it, once: activation checkpointing and fused updates. Raises UserError where a
        stage cannot be taken so by these ranks.
        """
        ranks, key = self.run.layout.ranks, str(index)
        if self.run.section.stages[index].fused_backward is True and ranks > 1:
            raise UserError(
                f"stages.{index}.fused_backward: gradients cross {ranks} ranks after backward, so updates cannot be made inside it"
            )
        per_rank = -(-rows // ranks)
        open = not isinstance(self.run.section.micro_rows, int)
        if key not in self.checkpointing or (open and key not in self.micro_rows):
            found = fitting(self.run, index, per_rank)
            self.checkpointing[key], self.fused_backward[key] = found["checkpointing"], found["fused_backward"]
            if open:
                self.micro_rows.setdefault(key, found["micro_rows"])
        if isinstance(self.run.section.micro_rows, int):
            return min(per_rank, self.run.section.micro_rows)
        return min(per_rank, self.micro_rows[key])

    def _knobs(self, section: StageSection, stage: Stage, state: State, hooks: dict[str, Any], objective: Any) -> Iterator[Knob]:
        for name, curve in section.schedule.items():
            yield Knob(
                name,
                lambda moment, curve=curve: float(curve.build(moment=moment)),
                self._setter(name, section, stage, state, hooks, objective),
            )
        if "lr" not in section.schedule:
            yield Knob("lr", lambda moment: 1.0, self._setter("lr", section, stage, state, hooks, objective))

    def _setter(
        self, name: str, section: StageSection, stage: Stage, state: State, hooks: dict[str, Any], objective: Any
    ) -> Callable[[float], None]:
        head, _, rest = name.partition(".")
        if name == "batch":
            return lambda factor: setattr(stage, "batch_factor", factor)
        if head == "objective":
            base = self._scheduled.setdefault(rest, getattr(objective, rest))
            return lambda factor: setattr(objective, rest, base * factor)
        if head == "hooks":
            hook, _, knob = rest.partition(".")
            value = getattr(hooks[hook], knob)
            return lambda factor: setattr(hooks[hook], knob, value * factor)

        if not any(name in group for group in groups_of(name, state.optimizer, section.optimizer)):
            raise UserError(f"schedule.{name}: {section.optimizer.name} asks for it once, when it is made, so it cannot be scheduled")

        def set_group(factor: float) -> None:
            for group in groups_of(name, state.optimizer, section.optimizer):
                base = group.get(f"base_{name}", section.optimizer.knobs.get(name))
                group[name] = base * factor * (group.get("lr_scale", 1.0) if name == "lr" else 1.0)

        return set_group

    def save(self, state: State, metrics: dict[str, float]) -> Any:
        """Write a checkpoint of this moment."""
        return self.run.checkpoints.save(
            state, recipe_hash=self.run.recipe_hash, recipe=self.run.resolved, parents=self.run.parents, metrics=metrics
        )

    def restore(self, state: State) -> int | None:
        """Back to the newest whole checkpoint; its total step, or None when there is none."""
        path = self.run.checkpoints.latest()
        if path is None:
            return None
        self.run.checkpoints.load(state, path)
        self.pass_on(state)
        return state.progress.total_steps

    def pass_on(self, state: State) -> None:
        """Into the ledger with what came to be said since the last time."""
        messages, self.run.messages[:] = list(self.run.messages), []
        for message in messages:
            self.say(event(state.progress.total_steps, "notice", message))

    def hear(self, message: str) -> None:
        """A notice for the ledger, where it is told once."""
        self.heard.append(event(self.step, "notice", message))

    def notices(self) -> list[dict[str, Any]]:
        """Events of this rank's data since the last call, such as rows that were passed over."""
        heard, self.heard = self.heard, []
        return heard


def counted(model: Any, batch: Micro) -> Micro:
    """A prepared batch that says what its rows count as, where segments of tokens, as the one thing that the model reads, do not."""
    text = model.towers is None and tuple(getattr(model.embedding, "reads", ("tokens",))) == ("tokens",)
    return batch if text and "segments" in batch else batch | {"spent": spent(model, batch)}


@contextmanager
def averaged(hooks: dict[str, Any], model: Any) -> Iterator[None]:
    """The model with the averaged weights of those hooks that keep an average: what is evaluated and sampled."""
    with ExitStack() as stack:
        for hook in hooks.values():
            if hasattr(hook, "averaged"):
                stack.enter_context(hook.averaged(model))
        yield


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Of every weight, by name."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def make_optimizer(run: Run, section: StageSection) -> torch.optim.Optimizer:
    """The stage's optimizer over the model's parameter groups."""
    optimizer: torch.optim.Optimizer = section.optimizer.build(params=parameter_groups(run.model, run.initializer, section.layer_decay))
    claimed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    if len(claimed) != len(wanted) or {id(item) for item in claimed} != {id(item) for item in wanted}:
        raise RunError(
            f"optimizer {section.optimizer.name!r} updates {len(claimed)} of {len(wanted)} parameters; each must be claimed exactly once"
        )
    return optimizer


def groups_of(knob: str, optimizer: torch.optim.Optimizer, chosen: Spec) -> list[dict[str, Any]]:
    """The groups that an optimizer's knob is set in: those that it updates by itself, where an inner one updates the others by knobs of
    its own; of the learning rate and the weight decay all."""
    found: list[dict[str, Any]] = optimizer.param_groups
    inner = [getattr(optimizer, name, None) for name, value in chosen.knobs.items() if isinstance(value, Spec) and value.slot == "optim"]
    theirs = {id(group) for one in inner if one is not None for group in one.param_groups}
    own = [group for group in found if id(group) not in theirs]
    return own if own and knob not in ("lr", "weight_decay") else found


def _rules(optimizer: Spec) -> list[tuple[str, str]]:
    """Which optimizers work, by their place among each other."""
    return [(place, one.name) for place, one in optimizer.walk() if one.slot == "optim"]


def going_on(old: torch.optim.Optimizer, fresh: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer of a stage that goes on with the state of the one before, inner ones included; all knobs are its own."""
    fresh.state.update(old.state)
    for group, before in zip(fresh.param_groups, old.param_groups, strict=True):
        group.update({name: value for name, value in before.items() if name not in group or name in COUNTED})
    return fresh
