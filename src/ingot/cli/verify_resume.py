"""Show that a recipe resumes exactly after kill -9, bit by bit.

Trains it straight, trains it again with kills, and compares everything.

Runs the recipe's tiny twin (--full: the recipe itself) in processes of its own. Every kill strikes a process that has made at least one
step since it resumed; some strike while it writes a checkpoint. A run that ends before all have struck is compared, and another begins.
Compared are all weights, all optimizer state, and every step's loss, learning rate, gradient norm, rows and tokens.

$ ingot verify-resume recipes/text/gpt_tiny.yaml
$ ingot verify-resume recipes/text/bert_tiny.yaml --kills 5 --inside-save 5
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import _recipe
from ._mortal import Attempt
from ._output import Output

COMPARED = ("stage", "rows", "tokens", "flops", "loss", "losses", "lr", "grad_norm", "batch_rows", "step_tokens")
PATIENCE = 5  # runs that may end before a kill strikes, beyond which a recipe is too short to be killed so often


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    _recipe.configure_start(parser)
    parser.add_argument("--full", action="store_true", help="the recipe itself instead of its tiny twin")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="kills between or within steps (default: 3)")
    parser.add_argument("--inside-save", type=int, default=2, metavar="K", help="kills while a checkpoint is being written (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses the moments (default: 0)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    arguments.tiny = not arguments.full
    asked = _kills_asked(arguments)
    name, stages = _refuse_seconds(arguments)
    with tempfile.TemporaryDirectory(prefix="ingot-verify-") as folder:
        trial = Trial(arguments, Path(folder), name, output)
        trial.straight()
        trial.killed()
        differences = [line for which in trial.runs for line in trial.compare(which)]
    missed = asked - len(trial.kills)
    equal = f"bitwise equal: {trial.tensors} tensors of weights and optimizer state, {trial.steps} steps of the ledger"
    output.print(*(differences[:20] or [equal + (f", {stages} stages" if stages > 1 else "")]))
    if missed:
        output.note(f"{len(trial.kills)} of {asked} kills struck after a step of their own: the run is too short; give it a larger budget")
    output.result(
        {
            "recipe": arguments.recipe,
            "equal": not differences,
            "differences": differences,
            "tensors": trial.tensors,
            "steps": trial.steps,
            "epochs": trial.epochs,
            "runs": len(trial.runs),
            "kills_asked": asked,
            "kills": trial.kills,
        }
    )
    return 1 if differences or missed else 0


def _kills_asked(arguments: argparse.Namespace) -> int:
    """How many kills there should be. Raises UserError for none: nothing would be shown."""
    from ..core.errors import Problem, UserError

    counts = {"--kills": arguments.kills, "--inside-save": arguments.inside_save}
    problems = [Problem(option, f"wants a number of at least 0, got {count}") for option, count in counts.items() if count < 0]
    if not problems and not sum(counts.values()):
        problems = [Problem("--kills", "without a kill nothing is shown; wants at least one here or in --inside-save")]
    if problems:
        raise UserError(problems)
    return sum(counts.values())


def _refuse_seconds(arguments: argparse.Namespace) -> tuple[str, int]:
    """The run's name and its number of stages. Raises UserError for a budget on the clock, which no resume can repeat exactly."""
    from ..build.check import resolve_run
    from ..core.errors import Problem, UserError

    section = resolve_run(_recipe.continued(arguments))
    timed = [index for index, stage in enumerate(section.stages) if stage.budget.unit == "seconds"]
    if timed:
        raise UserError(
            [
                Problem(f"stages.{index}.budget", "a budget of seconds ends where the clock says; verify with one in steps or tokens")
                for index in timed
            ]
        )
    return section.name, len(section.stages)


@dataclass
class Trial:
    """One straight run of a recipe and the killed ones, each in a folder of its own.

    runs: folders of the killed ones. kills: those that struck after a step of the process they ended. saves, writes: how many
    checkpoints a straight run saves after its first step, and writes for them.
    """

    arguments: argparse.Namespace
    folder: Path
    name: str
    output: Output
    runs: list[str] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)
    saves: int = 0
    writes: int = 0
    steps: int = 0
    epochs: float = 0.0
    step_seconds: float = 0.0
    tensors: int = 0

    def command(self, which: str, fatal: int = 0) -> list[str]:
        flags = ["--tiny"] * self.arguments.tiny
        if self.arguments.start_from:
            flags += ["--from", self.arguments.start_from]
        return [
            sys.executable,
            "-m",
            "ingot.cli._mortal",
            str(fatal),
            "train",
            self.arguments.recipe,
            *self.arguments.overrides,
            "log.every=1",  # every step must be seen and compared
            *flags,
            "--runs",
            str(self.folder / which),
            "--json",
        ]

    def start(self, which: str, fatal: int = 0) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "INGOT_MORTAL_TOTAL": str(self.folder / "writes"),
            "INGOT_MORTAL_LEDGER": str(self.folder / which / self.name / "ledger.jsonl"),
        }
        with open(self.folder / "errors.txt", "wb") as errors:
            return subprocess.Popen(self.command(which, fatal), stdout=subprocess.DEVNULL, stderr=errors, env=environment)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a run that should end well. Raises RunError with its last words when it does not."""
        from ..core.errors import RunError

        if process.wait() != 0:
            raise RunError("training failed: " + (self.folder / "errors.txt").read_text(errors="replace").strip()[-2000:])

    def lines(self, which: str, kind: str) -> list[dict[str, Any]]:
        from ..ledger.ledger import read

        return [line for line in read(self.folder / which / self.name) if line["kind"] == kind]

    def ledger(self, which: str) -> dict[int, dict[str, Any]]:
        return {line["step"]: line for line in self.lines(which, "step")}

    def straight(self) -> None:
        began = time.perf_counter()
        self.finish(self.start("straight"))
        steps = self.ledger("straight")
        self.steps = max(steps, default=0)
        self.epochs = max((line.get("epochs", 0.0) for line in steps.values()), default=0.0)
        self.step_seconds = statistics.median([line["step_seconds"] for line in steps.values()] or [0.0])
        self.saves = sum(line["name"] == "checkpoint" and line["step"] > 0 for line in self.lines("straight", "event"))
        self.writes = int((self.folder / "writes").read_text())
        self.output.print(f"straight: {self.steps} steps in {time.perf_counter() - began:.1f} s")

    def killed(self) -> None:
        """The same training, killed again and again; a run that ends before all kills have struck is followed by another."""
        chance = random.Random(self.arguments.seed)
        inside = [False] * self.arguments.kills + [True] * self.arguments.inside_save
        chance.shuffle(inside)
        self.runs = ["killed"]
        while inside:
            if self.strike(inside[0], len(inside), chance):
                inside.pop(0)
            elif len(self.runs) > PATIENCE:
                return
            else:
                self.runs.append(f"killed-{len(self.runs) + 1}")
        self.finish(self.start(self.runs[-1]))

    def strike(self, inside: bool, left: int, chance: random.Random) -> bool:
        """One process, killed after a step of its own; False when it ended first, so that nothing can be killed any more.

        left: kills that are still wanted, this one included; the steps that are left to do are shared out among them.
        """
        which = self.runs[-1]
        attempt = Attempt(self.folder / which / self.name / "ledger.jsonl")
        to_do = max(1, self.steps - self.reached(which))
        if inside:
            writes = self.writes / max(1, self.saves)
            fatal = chance.randint(1, max(1, round(writes * max(1, self.saves * to_do // self.steps // (left + 1)))))
            struck = self.died(self.start(which, fatal))
            where = f"while writing a checkpoint, at write {fatal} after the first step"
        else:
            wanted = chance.randint(1, max(1, min(to_do - 1, 2 * to_do // (left + 1))))
            delay = chance.uniform(0, self.step_seconds)
            struck = self.kill_after(which, attempt, wanted, delay)
            where = f"{delay:.3f} s into the step after {wanted} of its own"
        made = attempt.steps()
        if not struck or not made:
            self.output.print(f"not killed {where}: the run had ended before")
            return False
        began, reached = self.lines(which, "start")[-1]["progress"]["total_steps"], max(self.ledger(which))
        found = {"run": which, "where": where, "inside_save": inside, "resumed_at": began, "steps_this_attempt": made, "reached": reached}
        self.kills.append(found)
        self.output.print(f"killed {where}; it had gone from step {began} to {reached}")
        return True

    def reached(self, which: str) -> int:
        """The step that the next process of a run will resume from."""
        saved = (self.folder / which / self.name / "checkpoints").glob("step-*/manifest.json")
        return max((int(path.parent.name.removeprefix("step-")) for path in saved), default=0)

    def kill_after(self, which: str, attempt: Attempt, wanted: int, delay: float) -> bool:
        """Start a process and kill it when it has made so many steps of its own, and the delay has passed. False: it ended first."""
        process = self.start(which)
        while process.poll() is None:
            if attempt.steps() >= wanted:
                time.sleep(delay)
                process.kill()
                break
            time.sleep(0.002)
        return self.died(process) and not attempt.ended()

    def died(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait; whether it was killed. Raises RunError when it failed."""
        if process.wait() == -signal.SIGKILL:
            return True
        self.finish(process)
        return False

    def compare(self, which: str = "killed") -> list[str]:
        """What differs between the straight run and a killed one, a line each."""
        before, after = self.ledger("straight"), self.ledger(which)
        missing = sorted(before.keys() ^ after.keys())
        lines = [f"steps {missing} are in one ledger only"] if missing else []
        lines += [
            f"step {step}: {key} {before[step].get(key)!r} became {after[step].get(key)!r}"
            for step in sorted(before.keys() & after.keys())
            for key in COMPARED
            if before[step].get(key) != after[step].get(key)
        ]
        return lines + self.compare_tensors(which)

    def compare_tensors(self, which: str) -> list[str]:
        first, second = (self.tensors_of(one) for one in ("straight", which))
        self.tensors = len(first)
        lines = [f"tensor {name} is in one checkpoint only" for name in sorted(first.keys() ^ second.keys())]
        return lines + [f"tensor {name} differs" for name in sorted(first.keys() & second.keys()) if first[name] != second[name]]

    def tensors_of(self, which: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
        """Every tensor of the last checkpoint: type, shape, bytes (so that equal NaNs are equal)."""
        import torch
        from safetensors import safe_open

        last = sorted((self.folder / which / self.name / "checkpoints").glob("step-*/manifest.json"))[-1].parent
        found = {}
        for path in sorted(last.rglob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensor = file.get_tensor(name).contiguous()
                    found[f"{path.relative_to(last)}:{name}"] = (
                        str(tensor.dtype),
                        tuple(tensor.shape),
                        tensor.reshape(-1).view(torch.uint8).numpy().tobytes(),
                    )
        return found
