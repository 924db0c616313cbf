"""Training a Run: the ledger, choices measured at start, resuming, the loop, the closing summary."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.atomic import one_line_of, write_text
from ..core.errors import RunError
from ..core.locks import alone_in
from ..core.recipe import dump
from ..core.version import installed_version
from ..ledger.energy import Energy
from ..ledger.ledger import FILE, Ledger, read_lines
from ..ledger.machine import describe
from ..ledger.meter import Meter
from ..ledger.viewers import open_viewers
from ..ops.memory import keep_freed_memory
from ..parallel.start import together
from ..train.anomaly import AnomalyGuard
from ..train.lines import event
from ..train.loop import Loop
from ..train.state import State
from .annotate import refuse_unannotated
from .compile_probe import choose_compile
from .plan import refuse_unschedulable

if TYPE_CHECKING:
    from .run import Run


ROOT = Path(__file__).resolve().parents[3]
# What decides results; pages, claims and results that lie in the checkout and are not committed yet do not.
DECIDES = ("src", "recipes", "races", "ladders", "pyproject.toml", "constraints.txt", "benchmarks/*.py")


class Scribe:
    """Writes ledger lines and shows them to a reporter; only rank 0 does either."""

    def __init__(self, run: Run, reporter: Any):
        self.reporter, self.first = reporter, run.layout.rank == 0
        settings = run.section.log
        self.ledger = None
        if self.first:
            viewers = open_viewers(
                run.folder, tensorboard=settings.tensorboard, wandb=settings.wandb, name=run.section.name, recipe=run.resolved
            )
            self.ledger, self.energy = Ledger(run.folder, viewers), Energy(run.device)

    def emit(self, line: dict[str, Any]) -> None:
        if self.ledger is None:
            return
        if line["kind"] in ("start", "step", "end") and (joules := self.energy.since_last()) and line["kind"] != "start":
            line = line | {"joules": joules}
        written = self.ledger.write(**line)
        show = getattr(self.reporter, str(line["kind"]), None)
        if show is not None:
            show(written)

    def close(self) -> None:
        if self.ledger is not None:
            self.ledger.close()


def train(run: Run, reporter: Any = None) -> dict[str, Any]:
    """Run the loop to its end. Raises RunError when training cannot go on, as on the loss of a rank; what was saved stays whole.

    Two processes never train in one folder: the second is refused with a RunError.
    """
    with together(), alone_in(run.folder, "trains in") if run.layout.rank == 0 else nullcontext():
        return _train(run, reporter)


def _train(run: Run, reporter: Any) -> dict[str, Any]:
    prepare_folder(run)
    if run.device.type == "cpu":
        keep_freed_memory()
    run.checkpoints.tidy()
    path = run.checkpoints.latest()
    state = run.state(path)
    run.data_of(state.progress.stage)  # a corpus that cannot be read is refused before a ledger is begun
    scribe = Scribe(run, reporter)
    run.program.say = scribe.emit
    try:
        choose(run, state, resumed=path is not None)
        machine = describe(run.device, run.dtype)
        meter, guard = put_back(run, state, path)
        run.checkpoints.check_room(state)
        before = scribe.ledger.wall_seconds() if scribe.ledger is not None and path is not None else 0.0
        _open(run, scribe, state, path, machine, before)
        loop = Loop(
            program=run.program,
            layout=run.layout,
            meter=meter,
            guard=guard,
            checkpoints=run.checkpoints,
            emit=scribe.emit,
            matmul_rate=machine["matmul_flops_per_second"],
            evaluate_every=run.section.evaluate.every,
            save_every=run.section.checkpoint.every,
            log_every=run.section.log.every,
            lines=lambda: scribe.ledger.count if scribe.ledger is not None else 0,
        )
        if path is not None:
            loop.saved = (state.progress.stage, state.progress.total_steps)
            loop.best = dict(run.checkpoints.manifest(path)["metrics"])
        began = time.perf_counter()
        reason = loop.run(state)
        progress = state.progress
        summary = {
            "step": progress.total_steps,
            "rows": progress.total_rows,
            "tokens": progress.total_tokens,
            "flops": progress.total_flops,
            "seconds": progress.total_seconds,
            "wall_seconds": before + time.perf_counter() - began,
            "reason": reason,
        }
        scribe.emit({"kind": "end", **summary})
        return summary | {"run": str(run.folder), "evaluation": loop.results or last_evaluation(run)}
    finally:
        scribe.close()


def last_evaluation(run: Run) -> dict[str, dict[str, float]]:
    """By source, of a sitting before; nothing where none was made."""
    found: dict[str, dict[str, float]] = {}
    for line in read_lines(run.folder / FILE):
        found = line["results"] if line["kind"] == "evaluation" else found
    return found


def put_back(run: Run, state: State, path: Path | None) -> tuple[Meter, AnomalyGuard]:
    """Meter and guard as the checkpoint left them. Raises RunError when what it holds for them is not theirs."""
    meter, settings = Meter(run.device), run.section.anomaly
    guard = AnomalyGuard(policy=settings.policy, threshold=settings.threshold, window=settings.window, most=settings.most)
    try:
        meter.load_state_dict(state.extra.get("meter", {}))
        if "guard" in state.extra:
            guard.load_state_dict(state.extra["guard"])
        note_changed_data(run, state)
        state.extra["skipped_rows"] = [[int(stage), int(start), int(end)] for stage, start, end in state.extra.get("skipped_rows", [])]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RunError(f"{path} is damaged: what it holds for the loop cannot be read ({type(error).__name__})") from error
    return meter, guard


def note_changed_data(run: Run, state: State) -> None:
    """Say so when the rows of the stage are no longer those of the checkpoint: the run goes on, but not as it would have."""
    stage = state.progress.stage
    key, found = str(run.data_index(stage)), run.data_of(stage).identity
    kept = state.extra["rows"] = dict(state.extra.get("rows", {}))
    if kept.get(key, found) != found:
        run.messages.append("the data has changed since the run was stopped: from here on it reads other rows than it would have")
        kept[key] = found


def recorded_choices(run: Run) -> dict[str, Any]:
    """What run.json says was chosen at start; nothing, with a message, where it cannot be read."""
    stored = run.folder / "run.json"
    try:
        found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))["choices"]
        if isinstance(found["compile"], bool) and all(isinstance(rows, int) and rows > 0 for rows in found["micro_rows"].values()):
            return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    run.messages.append(f"{stored} is damaged: micro-batch and compilation are chosen anew")
    return {}


def prepare_folder(run: Run) -> None:
    """Make the run folder and write the resolved recipe, once. Raises RunError when it cannot be written."""
    if run.layout.rank == 0:
        try:
            (run.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            if not run.checkpoints.all():
                write_text(run.folder / "recipe.yaml", dump(run.resolved))
            else:
                tempfile.TemporaryFile(dir=run.folder).close()
        except OSError as error:
            raise RunError(f"the run folder {run.folder} cannot be written: {error.strerror or error}") from None
    run.layout.barrier()


def choose(run: Run, state: State, resumed: bool) -> None:
    """Settle what depends on this machine: micro-batch and compilation. A resumed run reuses what was recorded, to stay bit-exact, but
    for what it is now told otherwise."""
    recorded, said = recorded_choices(run) if resumed else {}, run.section.compile
    same_layout = recorded.get("ranks") == run.layout.ranks and recorded.get("device") == run.device.type
    cap = run.section.memory.value if run.section.memory is not None else recorded.get("memory") if same_layout else None
    if same_layout and recorded.get("memory", cap) == cap:
        run.program.micro_rows = dict(recorded.get("micro_rows", {}))
        run.program.checkpointing, run.program.fused_backward = (
            dict(recorded.get("checkpointing", {})),
            dict(recorded.get("fused_backward", {})),
        )
    for index in range(state.progress.stage, run.program.stages):
        refuse_unschedulable(run, index)
        if not resumed:
            refuse_unannotated(run, index)
        run.program.choose_micro_rows(index, run.batch_rows(index))
    kept = same_layout and said in ("auto", recorded.get("compile_said"))
    enabled, why = choose_compile(run, state, recorded["compile"] if kept else said)
    if enabled:
        run.model.compile_blocks()
    run.choices = {
        "precision": str(run.dtype).removeprefix("torch."),
        "compile": enabled,
        "compile_said": said,
        "compile_reason": recorded.get("compile_reason", why) if kept else why,
        "micro_rows": run.program.micro_rows,
        "checkpointing": run.program.checkpointing,
        "fused_backward": run.program.fused_backward,
        "memory": cap,
        "ranks": run.layout.ranks,
        "layout": run.layout_name,
        "device": run.device.type,
    }


def _open(run: Run, scribe: Scribe, state: State, path: Path | None, machine: dict[str, Any], before: float) -> None:
    facts = {
        "recipe_hash": run.recipe_hash,
        "commit": commit(),
        "version": installed_version(),
        "machine": machine,
        "parameters": run.parameters(),
        "choices": run.choices,
        "parents": run.parents,
    }
    if scribe.ledger is not None:
        if path is None and hasattr(run.tokenizer, "save"):
            with one_line_of(run.folder / "tokenizer"):
                run.tokenizer.save(run.folder / "tokenizer")
        write_text(run.folder / "run.json", json.dumps(facts, indent=2, default=str) + "\n")
        if path is None:
            scribe.ledger.truncate_after(-1)
        else:
            scribe.ledger.truncate_after(state.progress.total_steps, state.extra.get("lines"))
    scribe.emit(
        {
            "kind": "start",
            "time": time.time(),
            "run": str(run.folder),
            "resumed": path is not None,
            "wall_seconds": before,
            "progress": state.progress.as_dict(),
            "budgets": [str(stage.budget) for stage in run.section.stages],
            "price_per_hour": run.section.price_per_hour,
            **facts,
        }
    )
    run.program.pass_on(state)
    if path is not None:
        scribe.emit(event(state.progress.total_steps, "resume", f"resumed from {path.name}: weights, optimizer, progress, data position"))


def commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout this package runs from, with a + when what decides results has changed since; None outside of one."""
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--", *DECIDES], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return (head + ("+" if changed else "")) or None
