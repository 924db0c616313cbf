"""The composition matrix: every part in a small run, under everything that must not change what it computes.

A cell is a part and a column. The part is put into a recipe of 7 rows a step (which neither two ranks nor micro-batches of 3 divide)
and trained for 5 steps in fp64, plainly and as the column says; then gradients of one window and weights at the end are compared:

    accumulation, replicate, fsdp, compile, checkpointing      gradients to 1e-9, weights to 1e-6, relative, tensor by tensor
    fused_backward                                             weights to 1e-6
    resume         weights and optimizer state to the bit, stopped after step 3 and taken up from the checkpoint by a new run
    bf16           loss of every step within 2 % of fp32's (LOOSE: where more is allowed)
    wider, deeper  after step 2 the model is grown (``widen``, ``identity_depth``): the loss is the same before and after to 1e-9, and goes on

A weight whose gradient is zero but for rounding is compared by its gradient alone: sign-like updates make anything of such a one.

Verdicts: ``equal`` (to the bit), ``tolerance`` (with the difference measured), ``refused`` (by the static check, with its sentence).
Whatever else happens is a defect: ``differs``, ``late`` (refused only once the run had begun), ``crash``.

The run is what ``ingot train`` runs: check, Run, Program, Loop, checkpoints. Only the rows (of _batches.py) and the ledger are ours.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.build.check import check
from ingot.build.parity import window_gradients, worst_difference
from ingot.build.program import Program
from ingot.build.run import Run
from ingot.build.session import prepare_folder
from ingot.core.errors import RunError, UserError
from ingot.core.parts import plain
from ingot.core.quantities import Quantity
from ingot.core.recipe import Recipe, merge_keys
from ingot.ledger.meter import Meter
from ingot.train.anomaly import AnomalyGuard
from ingot.train.loop import Loop

SLOTS = (
    "optim",
    "nn.linear",
    "nn.router",
    "nn.feedforward",
    "nn.mixer",
    "nn.block",
    "nn.norm",
    "nn.position",
    "nn.embedding",
    "model.encoder",
    "model.decoder",
    "model.init",
    "objective",
    "hook",
    "transform",
    "schedule",
)
ALONE = ("accumulation", "compile", "bf16", "resume", "checkpointing", "wider", "deeper", "fused_backward")
RANKED = ("replicate", "fsdp")
COLUMNS = ("accumulation", "replicate", "fsdp", "compile", "bf16", "resume", "checkpointing", "wider", "deeper", "fused_backward")
STEPS, ROWS, GROWS, STOPS = 5, 7, 2, 3
GRADIENT, WEIGHT, LOSS = 1e-9, 1e-6, 0.02
# Where a small temperature multiplies the rounding of a similarity, a loss over few pairs is less exact.
LOOSE = {"objective/clip": 0.15, "objective/contrastive": 0.15, "objective/self_distillation": 0.15}
GROWN = {"wider": "widen", "deeper": "identity_depth"}
DEFECTS = ("differs", "late", "crash")


def beside(name: str) -> Any:
    """A file of this folder as a module of its own."""
    found = importlib.util.spec_from_file_location(f"matrix_{name}", Path(__file__).with_name(f"{name}.py"))
    assert found is not None and found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)  # dataclasses look themselves up there
    found.loader.exec_module(module)
    return module


suite, rows, variants = beside("conftest"), beside("_matrix_rows"), beside("_variants")
Rows, source_known = rows.Rows, rows.source_known
Tree = dict[str, Any]


@dataclass
class Cell:
    """verdict: see the module's docstring. measured: the largest difference found. reason: a refusal's sentence, or what went wrong."""

    verdict: str
    measured: float | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value not in (None, "")}


# -- recipes ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Setup:
    """A part in a recipe that passes the check. keys: what a row holds; single: a row is one document."""

    part: str
    tree: Tree
    keys: list[str] = field(default_factory=lambda: ["tokens"])
    single: bool = False

    def changed(self, *patches: Tree) -> Setup:
        tree = copy.deepcopy(self.tree)
        for patch in patches:
            tree = merge_keys(tree, patch)
        return Setup(self.part, tree, self.keys, self.single)


class CannotPlace(Exception):
    """No recipe holds the part: the reason is what the check says of the last one tried."""


ENCODER: Tree = {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 2}, "feedforward": "relu2", "norm": "rms"}
STAGE: Tree = {"budget": f"{STEPS} steps", "batch": f"{ROWS} rows", "optimizer": {"name": "adamw", "lr": 0.003}}
TEXT: Tree = {
    "name": "matrix",
    "precision": "fp64",
    "compile": False,
    "device": "cpu",
    "layout": "single",
    "micro_rows": ROWS,
    "anomaly": {"policy": "log"},
    "evaluate": {"every": "100%"},
    "data": {"train": {"name": "text_files", "paths": ["."]}, "tokenizer": "bytes", "sequence": suite.SEQUENCE},
    "model": {"width": suite.WIDTH, "embedding": "token", "encoder": ENCODER, "objective": "causal_lm"},
    "stages": [STAGE],
}
MASKED = merge_keys(TEXT, {"data": {"pack": "document"}, "model": {"objective": {"name": "masked_lm", "rate": 0.4}}})
ROTATED_ELSEWHERE = {"model": {"encoder": {"mixer": {"name": "attention", "heads": 2, "position": None}}}}


# What a part cannot be without, in a recipe.
COMPANIONS: dict[str, Tree] = {
    "nn.linear/relora": {"stages": {0: {"hooks": [{"name": "relora", "every": 2}]}}},
    "hook/relora": {"model": {"encoder": {"linear": {"name": "relora", "rank": 4}}}},
    "hook/noise_scale": {"micro_rows": 4},
    "objective/hubert": {"stages": {0: {"annotate": {"name": "kmeans", "clusters": 6, "iterations": 4}}}},
    "objective/by_source": {
        "data": {
            "train": {
                "name": "mixture",
                "sources": {name: {"name": "text_files", "paths": ["."]} for name in ("first", "second")},
                "weights": {"first": 0.5, "second": 0.5},
            }
        }
    },
}


def setups(case: Any) -> Iterator[Setup]:
    """Recipes that the part may be at home in, the usual one first."""
    data, slot, part = case.spec().data(), case.slot, f"{case.slot}/{case.name}"
    if slot == "objective":
        yield around(part, case.spec())
        return
    inside: dict[str, list[Tree]] = {
        "nn.linear": [{"linear": data}],
        "nn.feedforward": [{"feedforward": data}],
        "nn.block": [{"block": data}, {"block": data, "final_norm": False}],
        "nn.norm": [{"norm": data}],
        "nn.mixer": [{"mixer": data}],
        "nn.position": [{"mixer": {"name": "attention", "heads": 2, "position": data}}],
        "nn.router": [{"feedforward": {"name": "moe", "experts": 4, "expert": {"name": "gelu", "hidden": 8}, "router": data}}],
    }
    whole: dict[str, list[Tree]] = {
        "optim": [{"stages": {0: {"optimizer": data}}}],
        "hook": [{"stages": {0: {"hooks": [data]}}}],
        "schedule": [{"stages": {0: {"schedule": {"lr": data}}}}],
        "model.init": [{"model": {"init": data}}],
        "model.encoder": [{"model": {"encoder": data}}],
        "nn.embedding": [{"model": {"embedding": data}}],
        "nn.position": [merge_keys(ROTATED_ELSEWHERE, {"model": {"embedding": {"name": "token", "position": data}}})],
    }
    text = slot != "nn.embedding" or set(getattr(case.target, "reads", ())) == {"tokens"}
    for base, single in ((TEXT, False), (MASKED, True)) if text else ():
        for patch in [*({"model": {"encoder": patch}} for patch in inside.get(slot, [])), *whole.get(slot, [])]:
            yield Setup(part, _put(base, patch), single=single)
        if slot == "transform":
            grown = getattr(case.target, "example", lambda tree: tree)(copy.deepcopy(base["model"]))
            yield Setup(
                part,
                {
                    **base,
                    "model": grown,
                    "stages": [STAGE | {"budget": f"{GROWS} steps"}, STAGE | {"budget": f"{STEPS - GROWS} steps", "transforms": [data]}],
                },
                single=single,
            )
    if slot in ("nn.mixer", "model.decoder"):
        first = next(case for case in suite.cases("objective") if case.name == "span_corruption")
        home = around(part, first.spec())
        yield home.changed({"model": {"decoder": data if slot == "model.decoder" else {"cross": data}}})
    if slot in ("nn.embedding", "nn.position"):
        keys = [*getattr(case.target, "reads", ("image",)), "label"]
        embedding = data if slot == "nn.embedding" else {"name": "patch", "patch": 2, "position": data}
        if data.get("stems"):
            keys = [*dict.fromkeys(key for stem in case.spec().knobs["stems"].values() for key in stem.target.reads), "label"]
        yield Setup(part, _rows(_put(TEXT, {"model": {"embedding": embedding, "objective": "classification"}}), keys), keys)


def around(part: str, objective: Any) -> Setup:
    """An objective in the model that the suites put it into."""
    section = suite.section_of(objective)
    tree = merge_keys(TEXT, {}) | {"model": plain(section)}
    keys = suite.keys_of(section)
    if set(keys) - {"tokens"}:
        tree = _rows(tree, keys)
    return Setup(part, tree, keys)


def _put(base: Tree, patch: Tree) -> Tree:
    return merge_keys(copy.deepcopy(base), patch)


def _rows(tree: Tree, keys: list[str]) -> Tree:
    views = 1 + max((int(key.rpartition("_")[2]) for key in keys if key.rpartition("_")[2].isdigit()), default=0)
    looks = {"views": views, "augment": ["flip"]} if views > 1 else {}
    return tree | {"data": tree["data"] | {"train": {"name": "matrix", "keys": suite.batches.with_places(keys)}} | looks}


def setup_of(case: Any) -> Setup:
    """The part's recipe. Raises CannotPlace with the check's words where there is none."""
    words = "no place for it is known"
    for setup in setups(case):
        setup = setup.changed(COMPANIONS.get(setup.part, {}))
        found = problems(setup)
        if not found:
            return setup
        words = found
    raise CannotPlace(words)


def problems(setup: Setup) -> str:
    """What the static check says against a recipe; nothing where it passes."""
    with source_known():
        _, found = check(Recipe(copy.deepcopy(setup.tree)))
    return "; ".join(dict.fromkeys(item.message for item in found))


def column(setup: Setup, name: str) -> Setup:
    """The recipe as a column changes it."""
    stages = setup.tree["stages"]
    if name == "accumulation":
        return setup.changed({"micro_rows": 3})
    if name in RANKED:
        return setup.changed({"layout": name, "micro_rows": 4})
    if name == "compile":
        return setup.changed({"compile": True})
    if name == "bf16":
        return setup.changed({"precision": "bf16"})
    if name == "checkpointing":
        model = setup.tree["model"]
        towers = {"towers": {tower: {"encoder": {"checkpointing": "full"}} for tower in model.get("towers") or {}}}
        decoder = {"decoder": {"checkpointing": "full"}} if model.get("decoder") else {}
        return setup.changed({"model": {"encoder": {"checkpointing": "full"}, **decoder, **(towers if towers["towers"] else {})}})
    if name == "fused_backward":
        return setup.changed({"stages": {index: {"fused_backward": True} for index in range(len(stages))}})
    if name in GROWN:
        last = len(stages) - 1
        first, second = copy.deepcopy(stages[last]), copy.deepcopy(stages[last])
        steps = int(first["budget"].split()[0])
        first["budget"], second["budget"], second["transforms"] = f"{GROWS} steps", f"{max(steps - GROWS, 2)} steps", [GROWN[name]]
        return Setup(setup.part, setup.tree | {"stages": [*stages[:last], first, second]}, setup.keys, setup.single)
    return setup


# -- runs ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Trace:
    """What a run left: gradients of its first window, weights and state at the end, the loss of every step, what growing said."""

    gradients: dict[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    grown: list[dict[str, Any]] = field(default_factory=list)


class Quiet(Program):
    """Neither evaluates nor saves, but when it is stopped."""

    stopping = False

    def enter(self, state: Any) -> Any:
        stage = super().enter(state)
        stage.evaluate = stage.sample = None
        return stage

    def save(self, state: Any, metrics: dict[str, float]) -> Any:
        return super().save(state, metrics) if self.stopping else None


def open_run(setup: Setup, folder: Path) -> Run:
    """A Run of the recipe on the suite's rows."""
    section, found = check(Recipe(copy.deepcopy(setup.tree)))
    if found or section is None:
        raise UserError(found)
    run = Run(section, folder)
    names = list(section.data.train.knobs.get("sources", {"matrix": 0}))
    data = SimpleNamespace(train=Rows(setup.keys, setup.single, names), validation={}, plain={}, identity="matrix")
    run._data = dict.fromkeys(range(len(section.stages)), data)
    run.__dict__["tokenizer"] = SimpleNamespace(
        vocabulary=suite.VOCABULARY,
        specials={"mask": 2, "end": 1},
        end=1,
        identity="matrix",
        token_bytes=lambda: torch.ones(suite.VOCABULARY).numpy(),
    )
    run.__dict__["program"] = Quiet(run)
    run.choices = {"compile": bool(setup.tree["compile"])}
    if run.choices["compile"]:
        run.model.compile_blocks()
    return run


def gradients_of(setup: Setup, folder: Path, accumulation: int = 1) -> dict[str, Tensor]:
    with source_known():
        return window_gradients(open_run(setup, folder), accumulation)[0]


def trained(setup: Setup, folder: Path, stop: int | None = None) -> Trace:
    """Train to the end, or stop after so many steps with a checkpoint. A folder with a checkpoint is gone on with."""
    with source_known():
        run, found = open_run(setup, folder), Trace()
        prepare_folder(run)
        path = run.checkpoints.latest()
        state = run.state(path)
        settings = run.section.anomaly
        meter, guard = (
            Meter(run.device),
            AnomalyGuard(policy=settings.policy, threshold=settings.threshold, window=settings.window, most=settings.most),
        )
        meter.load_state_dict(state.extra.get("meter", {}))
        if "guard" in state.extra:
            guard.load_state_dict(state.extra["guard"])

        def emit(line: dict[str, Any]) -> None:
            if line["kind"] == "step":
                found.losses.append(line["loss"])
                if stop is not None and line["step"] == stop - 1:
                    loop.interrupted, run.program.stopping = "stopped", True  # type: ignore[attr-defined]
            if line.get("transform"):
                found.grown.append(line["transform"])

        run.program.say = emit
        loop = Loop(
            program=run.program,
            layout=run.layout,
            meter=meter,
            guard=guard,
            checkpoints=run.checkpoints,
            emit=emit,
            matmul_rate=1e9,
            evaluate_every=Quantity(1.0, "fraction"),
            save_every=Quantity(1.0, "fraction"),
        )
        loop.run(state)
        run.checkpoints.wait()
        found.tensors = state.whole()
        return found


# -- cells -----------------------------------------------------------------------------------------------------------------------


def worst(wanted: Trace, found: Trace) -> tuple[float, str]:
    """The largest relative difference of a trained weight whose gradient is more than rounding, and where; infinite where names differ."""
    one, other = (
        {name.removeprefix("model."): value.double() for name, value in trace.tensors.items() if name.startswith("model.")}
        for trace in (wanted, found)
    )
    total = sum(float(value.double().norm()) ** 2 for value in wanted.gradients.values()) ** 0.5
    noise = {name for name, value in wanted.gradients.items() if float(value.double().norm()) < 64 * torch.finfo(torch.float64).eps * total}
    return worst_difference(
        {name: value for name, value in one.items() if name not in noise},
        {name: value for name, value in other.items() if name not in noise},
    )


def compared(wanted: Trace, found: Trace) -> Cell:
    """Gradients, where there are any, and weights."""
    gradient = worst_difference(wanted.gradients, found.gradients) if found.gradients else (0.0, "")
    weight = worst(wanted, found)
    if gradient[0] > GRADIENT:
        return Cell("differs", gradient[0], f"the gradient of {gradient[1]}")
    if not weight[0] <= WEIGHT:
        return Cell("differs", weight[0], f"{weight[1]} after {STEPS} steps")
    largest = max(gradient[0], weight[0])
    return Cell("tolerance" if largest else "equal", largest)


COMPILER = "aot_eager"
"""Dynamo and the ahead-of-time autograd, without generating code: what changes meaning, at a tenth of the time; "inductor" generates it."""


@contextmanager
def compiler() -> Iterator[None]:
    """COMPILER wherever a module is compiled."""
    before = nn.Module.compile
    torch._dynamo.reset()
    nn.Module.compile = lambda self, *args, **options: before(self, *args, **{"backend": COMPILER} | options)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.compile = before  # type: ignore[method-assign]
        torch._dynamo.reset()


def cell_alone(setup: Setup, name: str, base: Callable[[], Trace], folder: Path) -> Cell:
    """A column of one process. base: the plain run's trace."""
    changed = column(setup, name)
    if words := problems(changed):
        return Cell("refused", reason=words)
    wanted = base()
    if name in GROWN:
        lines = trained(changed, folder).grown
        jump = max(abs(line["loss"][1] - line["loss"][0]) for line in lines[-1:])
        return Cell("tolerance" if jump else "equal", jump, "; ".join(lines[-1]["notes"]))
    if name == "bf16":
        full, half = (trained(setup.changed({"precision": way}), folder / way) for way in ("fp32", "bf16"))
        off = max(abs(a - b) / abs(a) for a, b in zip(full.losses, half.losses, strict=True))
        return Cell("tolerance" if off <= LOOSE.get(setup.part, LOSS) else "differs", off)
    if name == "resume":
        trained(changed, folder, stop=STOPS)
        found = trained(changed, folder)
        off = [
            key
            for key in wanted.tensors.keys() | found.tensors.keys()
            if key not in found.tensors or key not in wanted.tensors or not torch.equal(wanted.tensors[key], found.tensors[key])
        ]
        return (
            Cell("differs", reason=f"{len(off)} tensors are not the same to the bit, {sorted(off)[0]} among them") if off else Cell("equal")
        )
    if name == "compile":
        with compiler():
            found = trained(changed, folder / "a")
            found.gradients = gradients_of(changed, folder / "b")
    else:
        found = trained(changed, folder / "a")
        found.gradients = {} if name == "fused_backward" else gradients_of(changed, folder / "b", 3 if name == "accumulation" else 1)
    return compared(wanted, found)


def safely(compute: Callable[[], Cell]) -> Cell:
    """A cell, whatever happens in it."""
    try:
        return compute()
    except (UserError, RunError) as error:
        return Cell("late", reason=str(error).strip())
    except Exception as error:
        return Cell("crash", reason=f"{type(error).__name__}: {str(error).strip()[:300]}")


class Part:
    """A part's row of the matrix; what its cells share is made once."""

    def __init__(self, case: Any):
        self.case, self._setup, self._base = case, None, None
        self.name = variants.row_name(case.slot, case.name, case.number)

    @property
    def setup(self) -> Setup:
        if self._setup is None:
            try:
                self._setup = setup_of(self.case)
            except (pytest.fail.Exception, KeyError) as error:
                raise CannotPlace(f"the suites do not say how it is made: {error}") from error
        return self._setup

    def base(self) -> Trace:
        if self._base is None:
            with tempfile.TemporaryDirectory() as folder:
                self._base = trained(self.setup, Path(folder) / "a")
                self._base.gradients = gradients_of(self.setup, Path(folder) / "b")
        return self._base

    def cell(self, name: str) -> Cell:
        """A column of one process."""
        with tempfile.TemporaryDirectory() as folder:
            return safely(lambda: cell_alone(self.setup, name, self.base, Path(folder)))


def parts(slots: tuple[str, ...] = SLOTS, every: bool = False) -> list[Part]:
    """Every part of the slots that the suites know how to make, with its variants; every: in every way that the suites name."""
    return [
        Part(case)
        for slot in slots
        for case in suite.cases(slot)
        if every or not case.number or (slot, case.name, case.number) in variants.VARIANTS
    ]


def draw(*what: str, seed: int = 4) -> int:
    """A number that depends on the words alone."""
    return zlib.crc32("/".join([str(seed), *what]).encode())


def ranked_cells(wanted: list[tuple[Part, str]], say: Callable[[Part, str, Cell], None], limit: float = 90.0) -> None:
    """Columns of two processes, all in one pair that is started once; see _matrix_ranks.py."""
    tasks: list[dict[str, Any]] = []
    homes: list[tuple[Part, str]] = []
    for part, name in wanted:
        setup = column(part.setup, name)
        if words := problems(setup):
            say(part, name, Cell("refused", reason=words))
            continue
        tasks.append({"tree": setup.tree, "keys": setup.keys, "single": setup.single})
        homes.append((part, name))

    def done(index: int, tensors: dict[str, Tensor] | None, error: dict[str, Any] | None) -> None:
        part, name = homes[index]
        if tensors is None:
            assert error is not None
            say(part, name, Cell(**error))
            return
        held = Trace(
            *(
                {key.removeprefix(f"{kind}:"): value for key, value in tensors.items() if key.startswith(f"{kind}:")}
                for kind in ("gradient", "tensor")
            )
        )
        say(part, name, safely(lambda: compared(part.base(), held)))

    beside("_matrix_ranks").work(tasks, done, limit)
