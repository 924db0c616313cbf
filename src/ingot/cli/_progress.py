"""How a run is followed: a progress bar on a terminal, plain lines on a pipe, nothing under ``--json``.

A reporter receives the ledger's own lines as they are written:

    start(info)   step(line)   evaluation(line)   event(line)   sample(line)   end(line)

info of start is the ledger's start line, with `budgets` (one recipe amount per stage, such as "20M tokens"), `progress` (where the
run stands, as core.progress.Progress.as_dict gives it) and `price_per_hour` where known.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from ..core.amounts import count, duration, money
from ..core.quantities import parse_quantity
from ._output import close_stdout

LINE_EVERY = 2.0
QUIET = ("checkpoint",)
SAMPLE = 72
METRICS = ("loss", "perplexity", "bits_per_byte")
DUMB = ("dumb", "unknown")  # terminals whose cursor cannot be moved back over a line
UNITS = ("steps", "rows", "tokens", "flops", "seconds")
WAITING = 0.05  # share of the steps' time spent waiting for data that is worth a word


@dataclass
class Standing:
    """Works out from the lines how much of the budget is spent, how fast, and what is left."""

    price_per_hour: float | None = None
    budgets: list[Any] = field(default_factory=list)
    entered: dict[str, float] = field(default_factory=dict)  # what the run had spent when it entered the stage
    reached: dict[str, float] = field(default_factory=dict)  # and by now
    line: dict[str, Any] = field(default_factory=dict)
    stage: int = 0
    began: tuple[float, float] | None = None
    worked: float = 0.0  # seconds of this process's steps; but the first, which waits for the loader to begin
    waited: float = 0.0  # those of them spent waiting for data
    recent: float = 0.0  # share of waiting, over the last ten steps or so

    def start(self, info: dict[str, Any]) -> None:
        self.budgets = [parse_quantity(budget) for budget in info.get("budgets", ())]
        if self.price_per_hour is None:
            self.price_per_hour = info.get("price_per_hour")
        progress = info.get("progress") or {}
        self.stage = int(progress.get("stage", 0))
        self.reached = {unit: progress.get(f"total_{unit}", 0) for unit in UNITS}
        self.entered = {unit: total - progress.get(unit, 0) for unit, total in self.reached.items()}

    def step(self, line: dict[str, Any]) -> None:
        if line.get("stage", 0) != self.stage:
            self.stage, self.entered, self.began = line["stage"], self.reached, None
        self.line, self.reached = line, {unit: _total(line, unit) for unit in UNITS}
        seconds = line.get("step_seconds", 0.0)
        if self.began is None:
            self.began = (self.share - self.share_of_step, time.monotonic() - seconds)
        elif seconds:
            waited = line.get("phases", {}).get("data", 0.0)
            self.waited, self.worked = self.waited + waited, self.worked + seconds
            self.recent = 0.9 * self.recent + 0.1 * waited / seconds

    @property
    def share_of_step(self) -> float:
        """Share of the stage's budget that the last step spent."""
        if not self.budgets:
            return 0.0
        budget = self.budgets[self.stage]
        if budget.unit in ("epochs", "audio_seconds"):  # the line has them for the stage
            return self.share / max(1.0, self.line.get("step", 0) - self.entered["steps"])
        spent = self.line.get(
            f"step_{budget.unit}", 1 if budget.unit == "steps" else self.line.get("batch_rows", 0) if budget.unit == "rows" else 0
        )
        return spent / budget.value if budget.value else 0.0

    @property
    def share(self) -> float:
        """Share of the stage's budget that is spent, 0 to 1."""
        if "fraction" in self.line:
            return float(self.line["fraction"])
        if not self.budgets or self.stage >= len(self.budgets):
            return 0.0
        budget = self.budgets[self.stage]
        spent = _total(self.line, budget.unit) - self.entered.get(budget.unit, 0.0)
        return min(1.0, spent / budget.value) if budget.value else 1.0

    @property
    def seconds_left(self) -> float:
        """Time to the end of the stage at the pace since this process began, evaluations and checkpoints included."""
        if self.began is None or self.share <= self.began[0]:
            return float("inf")
        return (time.monotonic() - self.began[1]) * (1 - self.share) / (self.share - self.began[0])

    def spent_money(self) -> str:
        return money(self.line.get("seconds", 0.0) / 3600 * self.price_per_hour) if self.price_per_hour else ""

    def words(self) -> dict[str, str]:
        """The columns of a line: where the run is, its loss and its pace."""
        line = self.line
        columns = {"step": str(line.get("step", 0)), "share": f"{self.share:4.0%}", "loss": f"{_finite(line.get('loss')):.4f}"}
        columns["lr"] = f"{line['lr']:.2e}" if isinstance(line.get("lr"), float) else ""
        columns["rate"] = f"{count(float(line.get('tokens_per_second') or 0.0))} tokens/s"
        columns["utilization"] = f"{line['utilization']:.0%} of peak" if line.get("utilization") else ""
        columns["data"] = f"{self.recent:.0%} waiting for data" if self.recent >= WAITING else ""
        left = self.seconds_left
        columns["left"] = f"{duration(left)} left" if left != float("inf") else ""
        columns["money"] = f"{self.spent_money()} spent" if self.spent_money() else ""
        if len(self.budgets) > 1:
            columns["step"] = f"{self.stage + 1}/{len(self.budgets)}:{columns['step']}"
        return columns


def _total(line: dict[str, Any], unit: str) -> float:
    return float(line.get({"steps": "step"}.get(unit, unit), 0.0))


class Quiet:
    """Says nothing: ``--json``, or a rank that does not speak."""

    def start(self, info: dict[str, Any]) -> None: ...
    def step(self, line: dict[str, Any]) -> None: ...
    def evaluation(self, line: dict[str, Any]) -> None: ...
    def event(self, line: dict[str, Any]) -> None: ...
    def sample(self, line: dict[str, Any]) -> None: ...
    def end(self, line: dict[str, Any]) -> None: ...


class Lines(Quiet):
    """Plain lines, at most one every two seconds for steps; for pipes, logs and terminals without cursor control."""

    def __init__(self, stream: TextIO | None = None, *, price_per_hour: float | None = None):
        self.stream, self.standing = stream or sys.stdout, Standing(price_per_hour)
        self.said = 0.0
        self.unsaid = False

    def say(self, text: str) -> None:
        """Write a line. A reader that went away (``| head``) ends the talking, never the run: the ledger has it all."""
        try:
            print(text, file=self.stream, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode("ascii"), file=self.stream, flush=True)
        except BrokenPipeError:
            self.say = lambda text: None  # type: ignore[method-assign]
            if self.stream is sys.stdout:
                close_stdout()
        except ValueError:
            if not self.stream.closed:
                raise
            self.say = lambda text: None  # type: ignore[method-assign]

    def start(self, info: dict[str, Any]) -> None:
        self.standing.start(info)
        for text in opening(info):
            self.say(text)

    def step(self, line: dict[str, Any]) -> None:
        self.standing.step(line)
        self.unsaid = True
        if time.monotonic() - self.said >= LINE_EVERY:
            self.tell()

    def tell(self) -> None:
        words = self.standing.words()
        shown = [f"step {words.pop('step'):>6} {words.pop('share')}", f"loss {words.pop('loss')}", f"lr {words.pop('lr')}", *words.values()]
        self.say("  ".join(word for word in shown if word and word != "lr "))
        self.said, self.unsaid = time.monotonic(), False

    def evaluation(self, line: dict[str, Any]) -> None:
        for text in measured(line):
            self.say(text)

    def event(self, line: dict[str, Any]) -> None:
        if line.get("name") not in QUIET:
            self.say(happened(line))

    def sample(self, line: dict[str, Any]) -> None:
        self.say(sampled(line))

    def end(self, line: dict[str, Any]) -> None:
        if self.unsaid:
            self.tell()
        self.say(closing(line, self.standing))


class Bar(Quiet):
    """One live line with the bar, rate, loss, time left and money; what else happens scrolls above it."""

    def __init__(self, stream: TextIO | None = None, *, price_per_hour: float | None = None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.standing = Standing(price_per_hour)
        self.console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[share]}"),
            TextColumn("{task.fields[words]}"),
            console=self.console,
            transient=True,
            expand=True,
            refresh_per_second=5,
        )
        self.task = self.bar.add_task("", total=1.0, step="0", share="  0%", words="starting")

    def say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False)

    def start(self, info: dict[str, Any]) -> None:
        self.standing.start(info)
        for text in opening(info):
            self.say(text, "dim")
        self.bar.start()

    def step(self, line: dict[str, Any]) -> None:
        self.standing.step(line)
        words = self.standing.words()
        shown = f"loss {words['loss']}  {words['rate']}  " + "  ".join(filter(None, (words["data"], words["left"], words["money"])))
        self.bar.update(self.task, completed=self.standing.share, step=words["step"], share=words["share"], words=shown)

    def evaluation(self, line: dict[str, Any]) -> None:
        for text in measured(line):
            self.say(text, "bold")

    def event(self, line: dict[str, Any]) -> None:
        if line.get("name") not in QUIET:
            self.say(happened(line), "yellow")

    def sample(self, line: dict[str, Any]) -> None:
        self.say(sampled(line), "italic")

    def end(self, line: dict[str, Any]) -> None:
        self.bar.stop()
        self.say(closing(line, self.standing), "bold green" if line.get("reason") == "finished" else "bold yellow")

    def stop(self) -> None:
        """Give the terminal back after an error."""
        self.bar.stop()


def reporter(*, json: bool, speaks: bool, price_per_hour: float | None = None) -> Quiet:
    """The reporter that fits where the words go."""
    if json or not speaks:
        return Quiet()
    moves = sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in DUMB
    return Bar(price_per_hour=price_per_hour) if moves else Lines(price_per_hour=price_per_hour)


def opening(info: dict[str, Any]) -> list[str]:
    """What is about to run, on what."""
    machine, choices = info.get("machine", {}), info.get("choices", {})
    parameters = f"{count(info['parameters'])} parameters" if isinstance(info.get("parameters"), int | float) else ""
    compiled = ("compiled" if choices["compile"] else "not compiled") if "compile" in choices else ""
    ranks = f"{choices['ranks']} ranks" if choices.get("ranks", 1) > 1 else ""
    device = " ".join(str(machine[key]) for key in ("device", "cpu") if machine.get(key))
    words = [parameters, str(choices.get("precision") or ""), compiled, ranks, device]
    lines = ["  ".join(word for word in words if word)]
    return [text for text in (str(info.get("run") or ""), *lines) if text.strip()]


def measured(line: dict[str, Any]) -> list[str]:
    """An evaluation, a line per source."""
    found = []
    for source, results in (line.get("results") or {}).items():
        shown = [name for name in METRICS if name in results] or list(results)
        found.append(
            f"evaluation at step {line.get('step', 0)}  {source}: "
            + "  ".join(f"{name.replace('_', ' ')} {_figure(results[name])}" for name in shown)
        )
    return found


def happened(line: dict[str, Any]) -> str:
    """An event."""
    return f"{line.get('name', 'event').replace('_', ' ')} at step {line.get('step', 0)}: {line.get('message', '')}".rstrip(": ")


def sampled(line: dict[str, Any]) -> str:
    """The beginning of a sample of the model's text, on one line; the ledger has all of it."""
    text = repr(line.get("text", ""))
    return (
        f"sample at step {line.get('step', 0)}  {line.get('prompt', '')!r} -> {text if len(text) <= SAMPLE else text[: SAMPLE - 1] + '…'}"
    )


def closing(line: dict[str, Any], standing: Standing) -> str:
    """What was spent, and why the run ended."""
    spent = [
        f"{line.get('step', 0)} steps",
        f"{count(line.get('tokens', 0))} tokens",
        count(line.get("flops", 0), "FLOP"),
        duration(line.get("seconds", 0.0)),
    ]
    price = standing.spent_money()
    waited = standing.waited / standing.worked if standing.worked else 0.0
    spent += [f"{price} spent"] * bool(price) + [f"{waited:.0%} of the time waiting for data"] * (waited >= WAITING)
    return f"{line.get('reason', 'done').replace('_', ' ')}: " + ", ".join(spent)


def _finite(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _figure(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
