"""Show that a recipe resumes exactly after kill -9, bit by bit.

Trains it straight, trains it again with kills, and compares everything.

Runs the recipe's tiny twin (--full: the recipe itself) in processes of its own. Some kills strike while a checkpoint is being written.
Compared are all weights, all optimizer state, and every step's loss, learning rate, gradient norm, rows and tokens.

$ ingot verify-resume recipes/text/gpt_tiny.yaml
$ ingot verify-resume recipes/text/bert_tiny.yaml --kills 5 --inside-save 5
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import _recipe
from ._output import Output

COMPARED = ("stage", "rows", "tokens", "flops", "loss", "losses", "lr", "grad_norm", "batch_rows", "step_tokens")


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    parser.add_argument("--full", action="store_true", help="the recipe itself instead of its tiny twin")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="kills between or within steps (default: 3)")
    parser.add_argument("--inside-save", type=int, default=2, metavar="K", help="kills while a checkpoint is being written (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses the moments (default: 0)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    arguments.tiny = not arguments.full
    name, stages = _refuse_seconds(arguments)
    with tempfile.TemporaryDirectory(prefix="ingot-verify-") as folder:
        trial = Trial(arguments, Path(folder), name, output)
        trial.straight()
        trial.killed()
        differences = trial.compare()
    output.print(
        *(
            differences[:20]
            or [
                f"bitwise equal: {trial.tensors} tensors of weights and optimizer state, {trial.steps} steps of the ledger, {stages} stages".replace(
                    ", 1 stages", ""
                )
            ]
        )
    )
    output.result(
        {
            "recipe": arguments.recipe,
            "equal": not differences,
            "differences": differences,
            "tensors": trial.tensors,
            "steps": trial.steps,
            "kills": trial.kills,
        }
    )
    return 1 if differences else 0


def _refuse_seconds(arguments: argparse.Namespace) -> tuple[str, int]:
    """The run's name and its number of stages. Raises UserError for a budget on the clock, which no resume can repeat exactly."""
    from ..build.check import resolve_run
    from ..core.errors import Problem, UserError

    section = resolve_run(_recipe.read(arguments))
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
    """The two runs of one recipe, in folders of their own."""

    arguments: argparse.Namespace
    folder: Path
    name: str
    output: Output
    kills: list[dict[str, Any]] = field(default_factory=list)
    saves: int = 0
    steps: int = 0
    tensors: int = 0

    def command(self, which: str, fatal: int = 0) -> list[str]:
        flags = ["--tiny"] * self.arguments.tiny
        return [
            sys.executable,
            "-m",
            "ingot.cli._mortal",
            str(fatal),
            "train",
            self.arguments.recipe,
            *self.arguments.overrides,
            *flags,
            "--runs",
            str(self.folder / which),
            "--json",
        ]

    def start(self, which: str, fatal: int = 0) -> subprocess.Popen[bytes]:
        environment = os.environ | {"INGOT_MORTAL_TOTAL": str(self.folder / "saves")}
        with open(self.folder / "errors.txt", "wb") as errors:
            return subprocess.Popen(self.command(which, fatal), stdout=subprocess.DEVNULL, stderr=errors, env=environment)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a run that should end well. Raises RunError with its last words when it does not."""
        from ..core.errors import RunError

        if process.wait() != 0:
            raise RunError("training failed: " + (self.folder / "errors.txt").read_text(errors="replace").strip()[-2000:])

    def ledger(self, which: str) -> dict[int, dict[str, Any]]:
        from ..ledger.ledger import read

        return {line["step"]: line for line in read(self.folder / which / self.name) if line["kind"] == "step"}

    def straight(self) -> None:
        began = time.perf_counter()
        self.finish(self.start("straight"))
        self.steps = max(self.ledger("straight"), default=0)
        self.saves = int((self.folder / "saves").read_text())
        self.output.print(f"straight: {self.steps} steps in {time.perf_counter() - began:.1f} s")

    def killed(self) -> None:
        """The same training, killed again and again; the last process may finish."""
        chance = random.Random(self.arguments.seed)
        blows = self.arguments.inside_save
        for number in range(blows):
            fatal = chance.randint(1, max(1, self.saves // (number + 2)))
            process = self.start("killed", fatal)
            self.note(process.wait() < 0, f"while writing a checkpoint, at write {fatal}")
        for target in sorted(chance.sample(range(1, max(2, self.steps)), min(self.arguments.kills, max(1, self.steps - 1)))):
            self.note(self.kill_at(target), f"at step {target}")
        self.finish(self.start("killed"))

    def kill_at(self, step: int) -> bool:
        """Start, kill once the ledger has reached the step; False when the run was past it and ended first."""
        process = self.start("killed")
        path = self.folder / "killed" / self.name / "ledger.jsonl"
        while process.poll() is None:
            if path.is_file() and f'"step": {step},'.encode() in path.read_bytes().rpartition(b'{"kind": "step"')[2]:
                process.kill()
                process.wait()
                return True
            if max(self.ledger("killed"), default=0) > step:
                process.kill()
                process.wait()
                return True
            time.sleep(0.002)
        return False

    def note(self, died: bool, where: str) -> None:
        reached = max(self.ledger("killed"), default=0)
        self.kills.append({"where": where, "died": died, "reached": reached})
        self.output.print(
            f"killed {where}; the ledger had reached step {reached}" if died else f"not killed {where}: the run had ended before"
        )

    def compare(self) -> list[str]:
        """What differs between the two runs, a line each."""
        before, after = self.ledger("straight"), self.ledger("killed")
        missing = sorted(before.keys() ^ after.keys())
        lines = [f"steps {missing} are in one ledger only"] if missing else []
        lines += [
            f"step {step}: {key} {before[step].get(key)!r} became {after[step].get(key)!r}"
            for step in sorted(before.keys() & after.keys())
            for key in COMPARED
            if before[step].get(key) != after[step].get(key)
        ]
        return lines + self.compare_tensors()

    def compare_tensors(self) -> list[str]:
        first, second = (self.tensors_of(which) for which in ("straight", "killed"))
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
