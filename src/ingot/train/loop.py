"""The life of a run, top to bottom: stages, steps, evaluation, checkpoints. Names no concrete part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from ..core.errors import RunError
from ..core.quantities import Quantity
from ..core.seams import Layout
from ..ledger.meter import Meter
from .anomaly import AnomalyGuard, worst_rows
from .checkpoint import Checkpoints
from .lines import evaluation_line, event, step_line
from .moments import Due, end_asked
from .spending import Spending
from .stage import Stage, Windows, close
from .state import State
from .step import HalfMade, Outcome, size_of, step


class Program(Protocol):
    """What the builder hands over: how many stages, and how to enter one (transforms and a new optimizer when state.progress.entering)."""

    stages: int

    def enter(self, state: State) -> Stage: ...
    def save(self, state: State, metrics: dict[str, float]) -> Any: ...
    def restore(self, state: State) -> int | None: ...
    def notices(self) -> list[dict[str, Any]]: ...  # events of this rank since the last call


@dataclass
class Loop:
    """Everything around a step. emit writes a ledger line (and shows it); all ranks call it, rank 0 writes."""

    program: Program
    layout: Layout
    meter: Meter
    guard: AnomalyGuard
    checkpoints: Checkpoints
    emit: Callable[[dict[str, Any]], None]
    matmul_rate: float
    evaluate_every: Quantity
    save_every: Quantity
    log_every: int = 1
    interrupted: str = ""
    best: dict[str, float] = field(default_factory=dict)
    saved: tuple[int, int] | None = None
    lines: Callable[[], int] = lambda: 0  # of the ledger so far
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.spending = Spending(self.layout)
        self.evaluation, self.saving = Due(self.evaluate_every), Due(self.save_every)

    def run(self, state: State) -> str:
        """Train until every stage is spent, or until a signal; the reason is returned. Raises RunError when it cannot go on."""
        with end_asked(self._asked):
            while state.progress.stage < self.program.stages:
                stage = self.program.enter(state)
                stage.put_back({} if state.progress.entering else state.extra.get("knobs", {}))
                if state.progress.entering:  # a resumed run does not enter twice
                    state.progress.entering = False
                    state.extra.pop("knobs", None)
                    self.guard.begin()
                    self._evaluate(stage, state)
                    self._save(state)
                if reason := self._stage(stage, state):
                    return reason
                if state.progress.stage + 1 == self.program.stages:
                    break
                state.progress.next_stage()
                state.progress.entering = True
        return "finished"

    def _stage(self, stage: Stage, state: State) -> str:
        """One stage to the end of its budget; returns why the run must stop, or nothing."""
        self._count_on(stage, state)
        windows: Windows | None = None
        stream: Iterator[Any] = iter(())
        size = 0
        try:
            while not stage.spent(state.progress, self._step_flops(state)):
                state.extra["knobs"] = stage.set_knobs(state.progress, self._step_flops(state))
                if self._skipped(stage, state):
                    close(windows)
                    windows = None
                    continue
                if windows is None or size != stage.rows_read:
                    close(windows)
                    size = stage.rows_read
                    windows = stage.open(state.progress.rows, size, stage.micro(self.layout.ranks))
                    stream = iter(windows)
                try:
                    outcome = self._step(stage, state, stream)
                except (torch.cuda.OutOfMemoryError, HalfMade) as error:
                    self._shrink(stage, state, windows, half_made=isinstance(error, HalfMade))
                    windows = None
                    continue
                if outcome is None:
                    self.emit(event(state.progress.total_steps, "data_end", "the sources are used up (max_epochs) before the budget"))
                    break
                if outcome.verdict is not None and outcome.verdict.action == "roll_back":
                    close(windows)
                    windows = None
                    self._roll_back(stage, state, outcome.read)
                    continue
                if self.evaluation.passed(stage, state):
                    self._evaluate(stage, state)
                if outcome.stop or self.saving.passed(stage, state):
                    self._save(state)
                if outcome.stop:
                    return self.interrupted or "interrupted"
            if stage.budget.value > 0:
                self._evaluate(stage, state, final=True)
            self._save(state)
            return ""
        finally:
            close(windows)
            self.checkpoints.wait()

    def _step(self, stage: Stage, state: State, stream: Iterator[Any]) -> Outcome | None:
        key = self._shape_key(stage, state)
        with self.meter.step(precise=(state.progress.total_steps + 1) % self.log_every == 0):
            with self.meter.phase("data"):
                window = next(stream, None)
                if window is None:
                    return None
                window = [stage.prepare(micro) for micro in window]
            rows, trained = stage.there(state.progress)
            key += size_of(window, getattr(state.model, "objective", None)) + (f"/of {rows}" if rows != stage.rows_read else "")
            fresh = not self.meter.known(key)
            with self.meter.counting(state.model, key):
                with self.meter.phase("hooks"):
                    for hook in stage.hooks.values():
                        if hasattr(hook, "select"):
                            window = hook.select(state, window)
                outcome = step(
                    state,
                    window,
                    self.layout,
                    side_weights=stage.side,
                    hooks=stage.hooks,
                    fused_backward=stage.fused_backward,
                    judge=lambda found: self._judge(stage, state, found),
                    stop=lambda: bool(self.interrupted),
                    phase=self.meter.phase,
                )
            if fresh and outcome.verdict is not None and not outcome.verdict.applies:
                self.meter.forget(key)  # without its update it is not what such a step costs
        spent, outcome.read = self.meter.finish(), rows
        seconds, notices = self.spending.total(spent, self.program.notices())
        flops = spent.flops
        state.extra["step_flops"] = flops
        self._pass_on(notices)
        # Budgets and schedules in tokens count what is trained on, in rows what is read.
        state.progress.advance(
            rows=rows,
            tokens=outcome.tokens,
            flops=flops,
            seconds=seconds,
            epochs=stage.position(state.progress.rows + rows),
            audio_seconds=trained * stage.seconds_per_row,
        )
        rate = self.matmul_rate * self.layout.ranks
        log = step_line(state, outcome, spent, rows=trained, seconds=seconds, rate=rate, device=self.meter.device)
        log["first_row"] = stage.first + state.progress.rows - rows
        if rows != trained:
            log["read_rows"] = rows
        if outcome.verdict is not None and not outcome.verdict.applies:
            log["skipped"] = True  # the update was held back
        with self.meter.step(), self.meter.phase("hooks"):  # in the next step's time, for this one's is told
            for hook in stage.hooks.values():
                if hasattr(hook, "stepped"):
                    hook.stepped(state, log)
        if state.progress.total_steps % self.log_every == 0:
            self.emit(log)
        return outcome

    def _judge(self, stage: Stage, state: State, outcome: Outcome) -> bool:
        """The guard's verdict on a step, equal on all ranks because its inputs are; False skips the update."""
        verdict = outcome.verdict = self.guard.judge(outcome.loss, outcome.gradient_norm)
        if verdict.event:
            rows = [row for part in self.layout.gather(outcome.rows) for row in part]
            named = [vars(row) for row in worst_rows(rows, stage.sources)]
            self.emit(event(state.progress.total_steps + 1, verdict.event, verdict.message, action=verdict.action, rows=named))
        if verdict.action == "stop":
            raise RunError(f"step {state.progress.total_steps + 1}: {verdict.message}; the last checkpoint is whole")
        return verdict.applies

    def _roll_back(self, stage: Stage, state: State, read: int) -> None:
        """Back to the last checkpoint; the window of so many rows that spoiled it is passed over when its rows come again."""
        at = replace(state.progress)
        skipped = [*state.extra.get("skipped_rows", []), [at.stage, at.rows - read, at.rows]]
        found = self._restore(stage, state)
        state.extra["skipped_rows"] = skipped
        self.emit(event(found, "rollback", f"back to step {found}; rows {at.rows - read} to {at.rows - 1} will be passed over"))

    def _restore(self, stage: Stage, state: State) -> int:
        """Back to the last checkpoint, and its step. What the undone steps spent stays spent."""
        before = replace(state.progress)
        found = self.program.restore(state)
        if found is None:
            raise RunError("roll back: there is no whole checkpoint to return to")
        state.progress.keep_spent(before)
        stage.put_back(state.extra.get("knobs", {}))
        self._count_on(stage, state)
        self.saved = None  # that checkpoint does not know of what is passed over from here
        return found

    def _count_on(self, stage: Stage, state: State) -> None:
        """What was due up to here has been done."""
        for due in (self.evaluation, self.saving):
            due.passed(stage, state)

    def _skipped(self, stage: Stage, state: State) -> bool:
        """Whether the coming window reaches into rows to pass over; where a batch is scheduled, it may not begin as the bad one did."""
        begin = state.progress.rows
        for number, start, end in state.extra.get("skipped_rows", []):
            if number == state.progress.stage and begin < end and start < begin + stage.rows_read:
                state.progress.rows, state.progress.total_rows = end, state.progress.total_rows + end - begin
                return True
        return False

    def _shrink(self, stage: Stage, state: State, windows: Windows | None, half_made: bool = False) -> None:
        """Out of device memory: half the micro-batch, the same global batch, the same rows again; those since the last checkpoint where an
        update was half made."""
        close(windows)
        # The other ranks already wait for this one inside the gradient's reduction, so they cannot be told to begin again.
        where = "over several ranks" if self.layout.ranks > 1 else getattr(self.layout, "holds_on", "")
        if stage.micro_rows == 1 or where:
            ranks = f", and {where} it cannot be lowered on the way" if where and stage.micro_rows > 1 else ""
            rows = f"{stage.micro_rows} row{'s' * (stage.micro_rows != 1)} a micro-batch"
            raise RunError(f"out of device memory with {rows}{ranks}; set micro_rows lower, or see ingot plan") from None
        stage.micro_rows = (stage.micro(self.layout.ranks) + 1) // 2
        state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        back = f", back to step {self._restore(stage, state)}, for an update was half made" if half_made else ""
        self.emit(event(state.progress.total_steps, "out_of_memory", f"micro-batch lowered to {stage.micro_rows} rows{back}"))

    def _evaluate(self, stage: Stage, state: State, final: bool = False) -> None:
        progress = state.progress
        if stage.evaluate is None or (final and state.extra.get("evaluated") == progress.total_steps):
            return
        began = time.perf_counter()
        with stage.averaged():
            results = stage.evaluate()
            samples = stage.sample() if stage.sample else []
        state.extra["evaluated"] = progress.total_steps
        self.saved = None  # a checkpoint of this step that was made before does not know of it
        self.best = {}  # where this stage has no rows to evaluate on, what another one's came to says nothing of it
        if results:
            self.results = results
            self.best = {"loss": sum(result["loss"] for result in results.values()) / len(results)}
            self.emit(evaluation_line(state, results, time.perf_counter() - began))
        for sample in samples:
            self.emit({"kind": "sample", "step": progress.total_steps, **sample})
        self._pass_on([notice for part in self.layout.gather(self.program.notices()) for notice in part])

    def _pass_on(self, notices: list[dict[str, Any]]) -> None:
        """What the data of all ranks has to tell, once."""
        for notice in notices:
            if notice["message"] not in self.told:
                self.told.add(notice["message"])
                self.emit(notice)

    def _save(self, state: State) -> None:
        here = (state.progress.stage, state.progress.total_steps)
        if self.saved == here:
            return
        began = time.perf_counter()
        state.extra |= {"guard": self.guard.state_dict(), "lines": self.lines(), "meter": self.spending.metered(self.meter)}
        path = self.program.save(state, self.best)
        self.saved = here
        self.emit(event(state.progress.total_steps, "checkpoint", str(path), took=time.perf_counter() - began))

    def _step_flops(self, state: State) -> float:
        """Of the stage's last step, 0 before its first: a step of the stage before says nothing of this one's."""
        return float(state.extra.get("step_flops", 0.0)) if state.progress.steps else 0.0

    def _shape_key(self, stage: Stage, state: State) -> str:
        """Names all that the FLOPs of the coming step depend on; a read window that is larger than the step is one of it."""
        read = [stage.rows_read] if stage.rows_read != stage.rows_per_step else []
        costs = [hook.cost(state) for hook in stage.hooks.values() if hasattr(hook, "cost")]
        ranks = self.layout.ranks  # FLOPs are a rank's own
        parts = (state.progress.stage, stage.rows_per_step, stage.micro(ranks), *read, *costs, f"over {ranks}")
        return "/".join(map(str, parts)) + getattr(state.optimizer, "phase", "")

    def _asked(self, name: str) -> bool:
        """The run ends after the step in hand, with a checkpoint; whether that had been asked for before."""
        again, self.interrupted = bool(self.interrupted), name
        return again
