"""Transforms at work: the model section of every stage, and a state carried from one model into the next.

Rank 0 gathers the whole state, works on it on the CPU, and hands weights and optimizer state out again, tensor by tensor, so the
same code serves one process, replicas and shards. What it costs is counted as part of the stage that is entered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.axes import axes_of
from ..core.errors import Problem, RunError, UserError
from ..core.parts import Spec, plain
from ..core.recipe import Recipe
from ..core.resolve import resolve
from ..core.resolve import spec as named
from ..core.seams import Snapshot, Target
from ..ledger.meter import Meter
from ..train.state import State, model_tensors, put
from .schema import Graph, RunSection

if TYPE_CHECKING:
    from ..model.graph import Model
    from .run import Run

OF_THE_MODEL = ("meter", "step_flops", "guard", "gradient_norm", "evaluated", "knobs", "lines")  # what a run noted of the model it had
LARGEST = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.02}  # of a loss per scored unit, where the function is preserved


def graph_after(graph: Graph, transforms: list[Spec], where: str = "transforms") -> Graph:
    """The model section after transforms. Raises UserError with their sentence where it cannot be."""
    for index, spec in enumerate(transforms):
        try:
            tree = spec.build().graph(plain(graph))
        except ValueError as error:
            raise UserError([Problem(f"{where}.{index}", str(error))]) from None
        graph = resolve(Recipe(tree), Graph)
    return graph


def graph_of(section: RunSection, index: int) -> Graph:
    """The model section in force in a stage, once it is entered: the recipe's, after the transforms of all stages up to it."""
    graph = section.model
    for number, stage in enumerate(section.stages[: index + 1]):
        graph = graph_after(graph, stage.transforms, f"stages.{number}.transforms")
    return graph


def snapshot_of(run: Run, state: State, *, optimizer: bool = True) -> Snapshot:
    """The whole state as plain data; collective. Ranks other than 0 get one without weights and state."""
    first = run.layout.rank == 0
    tensors = state.whole(keep=first)
    found = Snapshot(plain(run.graph), {}, axes_of(state.model), output_scale=getattr(state.model.objective, "output_scale", 1.0))
    found.tree["objective"] = run.objective_spec.data()
    found.weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if optimizer and state.optimizer is not None:
        found.powers = powers_of(state.optimizer)
        for name, held in state.plain()["optimizer"].items():
            found.state[name] = dict(held)
        for path, tensor in tensors.items():
            if path.startswith("optim."):
                name, _, key = path.removeprefix("optim.").rpartition(".")
                found.state.setdefault(name, {})[key] = tensor
        declare = getattr(state.optimizer, "state_layout", None)
        if first:
            found.full = partial(converted, state.optimizer, "in_full")
        if declare is not None and first:
            found.layouts = {name: dict(declare(found.axes[name], tuple(found.weights[name].shape))) for name in found.state}
    return found


def powers_of(optimizer: Any) -> dict[str, int | str]:
    """How the optimizer's state follows the gradient, by key; what an optimizer inside it declares included."""
    found: dict[str, int | str] = {}
    for inner in vars(optimizer).values():
        if isinstance(inner, torch.optim.Optimizer):
            found |= powers_of(inner)
    return found | dict(getattr(optimizer, "state_powers", {}))


def converted(optimizer: Any, how: str, held: dict[str, Any], axes: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """A weight's state in full numbers ("in_full"), or as the optimizer keeps it ("in_codes"), by whichever optimizer inside keeps codes."""
    for inner in vars(optimizer).values():
        if isinstance(inner, torch.optim.Optimizer):
            held = converted(inner, how, held, axes, shape)
    return getattr(optimizer, how)(held, axes, shape) if hasattr(optimizer, how) else held


def target_of(run: Run, graph: Graph, model: Model, batches: Any = None, held: dict[str, Any] | None = None) -> Target:
    """What a transform is to fill, from a plain, freshly initialized model. held: the model section before it, which other models that it
    reads have to share."""
    tree = plain(graph) | {"objective": run.objective_spec.data()}
    weights = {name.removeprefix("model."): tensor.detach().clone() for name, tensor in model_tensors(model).items()}
    return Target(
        tree,
        weights,
        axes_of(model),
        getattr(model.objective, "output_scale", 1.0),
        run.section.seed,
        model=lambda: fresh_model(run, graph),
        batches=batches,
        read=partial(read, run, held or plain(run.graph)),
    )


def read(run: Run, held: dict[str, Any], place: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and model section of a run's newest checkpoint, or of a checkpoint. Raises UserError where there is none, or where it does
    not compute as the section `held` does, on the token ids that the run reads."""
    from ..convert._section import complete, differences
    from ..train.checkpoint import Checkpoints, read_tensors
    from .check import longest_sequence, resolve_run
    from .initial_weights import same_ids

    path = Path(place)
    if (path / "checkpoints").is_dir():
        path = Checkpoints(path / "checkpoints").latest() or path
    if not (path / "manifest.json").is_file():
        raise UserError(f"nothing to read at {place}: it is neither a run with a checkpoint nor a checkpoint")
    manifest = Checkpoints(path.parent).manifest(path)
    section, stage = resolve_run(Recipe(manifest["recipe"])), manifest["progress"]["stage"]
    graph = graph_of(section, stage)
    there = plain(graph) | {"objective": replace(section, model=graph).objective_at(stage)[1].data()}
    if other := differences(complete(there, longest_sequence(section)), complete(held, run.sequence)):
        raise UserError(f"{place} is not of the same make as the model at hand: it has {', '.join(other[:5])}")
    same_ids(run, path.parent.parent, manifest["recipe"].get("data", {}).get("tokenizer"))
    return read_tensors(path), there


def fresh_model(run: Run, graph: Graph) -> Any:
    """A plain model of a section on the CPU, initialized as the run would."""
    model = run.plain_model(graph=graph)
    run.initializer.apply(model, seed=run.section.seed)
    return model


def grown(run: Run, snapshot: Snapshot, transforms: list[Spec], batches: Any = None) -> tuple[Graph, Any, Snapshot, list[dict[str, Any]]]:
    """Apply transforms to a snapshot: the model section, a plain model of it, the snapshot (untouched on other ranks), a line for each."""
    graph, lines, model = run.graph, [], None
    for spec in transforms:
        part, began = spec.build(), time.perf_counter()
        graph = graph_after(graph, [spec])
        if graph.objective != run.graph.objective and run.objective_spec == run.graph.objective:
            run.objective_spec = graph.objective
        model = fresh_model(run, graph)
        before = {
            "width": snapshot.tree["width"],
            "depth": snapshot.tree["encoder"].get("depth"),
            "parameters": sum(snapshot.weights[name].numel() for name in snapshot.axes if name in snapshot.weights),
        }
        if run.layout.rank == 0:
            noted = len(snapshot.notes)
            snapshot = _applied(part, spec, snapshot, target_of(run, graph, model, batches, snapshot.tree))
            lines.append(
                {
                    "kind": "transform",
                    "name": spec.name,
                    "knobs": plain(spec.knobs),
                    "preserves": bool(part.preserves),
                    "before": before,
                    "after": {
                        "width": graph.width,
                        "depth": graph.encoder.knobs.get("depth"),
                        "parameters": sum(item.numel() for item in model.parameters()),
                    },
                    "notes": snapshot.notes[noted:],
                    "took": time.perf_counter() - began,
                }
            )
        else:
            snapshot.tree = plain(graph)
    return graph, model, snapshot, lines


def _applied(part: Any, spec: Spec, snapshot: Snapshot, target: Target) -> Snapshot:
    try:
        with torch.no_grad():
            result: Snapshot = part(snapshot, target)
            return result
    except (ValueError, KeyError) as error:
        raise RunError(f"transform {spec.name!r} cannot be applied to this model: {error}") from error


def put_weights(run: Run, model: Any, snapshot: Snapshot) -> Any:
    """The plain model with rank 0's weights, on the device and in the layout; collective."""
    model.to(run.device)
    for name, tensor in model_tensors(model).items():
        put(tensor, snapshot.weights.get(name.removeprefix("model.")))
    return run.layout.shard(model, run.dtype)


def put_state(run: Run, state: State, snapshot: Snapshot) -> list[str]:
    """Fill the state's fresh optimizer from rank 0's snapshot; collective. Returns what it had to leave out, as notes."""
    shapes = {name: tuple(parameter.shape) for name, parameter in state.model.named_parameters()}
    for name, held in snapshot.state.items():
        snapshot.state[name] = converted(state.optimizer, "in_codes", held, snapshot.axes[name], shapes[name])
    left_out = unwanted(state, snapshot)
    for name in left_out:
        del snapshot.state[name]
    values = {
        f"optim.{name}.{key}": value for name, held in snapshot.state.items() for key, value in held.items() if isinstance(value, Tensor)
    }
    others = {
        name: rest
        for name, held in snapshot.state.items()
        if (rest := {key: value for key, value in held.items() if not isinstance(value, Tensor)})
    }
    stored = {name: (value.dtype, tuple(value.shape)) for name, value in values.items()}
    stored, others = run.layout.broadcast_object((stored, others))
    if stored or others:
        state.fill_optimizer(values, stored, others)
    words = f"{left_out[0]}" + (f" and {len(left_out) - 1} more" if len(left_out) > 1 else "") if left_out else ""
    return [f"optimizer state starts afresh for {words}: at the new size it is kept in another form"] if left_out else []


def unwanted(state: State, snapshot: Snapshot) -> list[str]:
    """Parameters whose state is not of the kind that the optimizer keeps at their new shape: a small one was not quantized, say."""
    declare = getattr(state.optimizer, "state_layout", None)
    if declare is None:
        return []
    shapes = {name: tuple(parameter.shape) for name, parameter in state.model.named_parameters()}
    return [name for name, held in snapshot.state.items() if not held.keys() <= declare(snapshot.axes[name], shapes[name]).keys()]


def losses_of(run: Run, model: Any, batches: Iterator[Mapping[str, Tensor]]) -> float:
    """Loss per scored unit over a few rows; collective where the model is sharded, and the same on every rank."""
    batch = {name: value.to(run.device) for name, value in next(iter(batches)).items()}
    with torch.no_grad():
        training = model.training
        losses = model.eval()(batch)
        model.train(training)
    return float(sum((loss / batch.get(f"units/{name}", batch["units"]).sum()).double().sum() for name, loss in losses.items()))


def stage_batches(run: Run, index: int, start: int, rows: int) -> Iterator[dict[str, Tensor]]:
    """Prepared batches of a stage's data from a global row on, on the CPU, the same on every rank; where the data ends, again from its
    beginning."""
    from ..data.loader import Loader

    key = run.key(run.data_index(index)).cpu()
    while True:
        loader = Loader(run.data_of(index).train, start=start, rows_per_step=rows, micro_rows=rows, rank=0, ranks=1)
        try:
            for window in loader:
                yield run.model.objective.prepare({name: value.to("cpu") for name, value in window[0].items()} | {"key": key})
        finally:
            loader.close()
        start = 0


def grow(run: Run, state: State, index: int, *, keep_optimizer: bool) -> list[dict[str, Any]]:
    """Apply a stage's transforms to the live state, on entering it; returns what the ledger should say of each. Collective.

    Raises RunError when a transform does not fit the model, or changes a function that it promises to preserve.
    """
    from .program import make_optimizer

    section, progress = run.section.stages[index], state.progress
    start = progress.total_rows - state.extra["data_start"]
    batch = next(stage_batches(run, index, start, min(8, run.batch_rows(index))))
    before = losses_of(run, state.model, iter([batch]))
    snapshot = snapshot_of(run, state, optimizer=keep_optimizer)
    began = time.perf_counter()
    made: list[Any] = []
    counted = Meter("cpu").count(
        None, lambda: made.extend(grown(run, snapshot, section.transforms, lambda: stage_batches(run, index, start, run.batch_rows(index))))
    )
    run.graph, model, snapshot, lines = made
    run.model = state.model = put_weights(run, model, snapshot)
    if run.choices.get("compile"):
        run.model.compile_blocks()
    state.optimizer = make_optimizer(run, section)
    notes = put_state(run, state, snapshot)
    after = losses_of(run, state.model, iter([batch]))
    for line in lines[-1:]:
        line["notes"] = [*line["notes"], *notes]
    lines = run.layout.broadcast_object(lines)
    if all(line["preserves"] for line in lines) and not abs(after - before) <= LARGEST[run.dtype] * max(1.0, abs(before)):
        names = ", ".join(line["name"] for line in lines)
        raise RunError(
            f"stages.{index}.transforms: {names} should preserve the function, but the loss went from {before:.6f} to {after:.6f}; this model holds a part it cannot carry"
        )
    spent = run.layout.total(
        torch.tensor([float(counted.flops), (time.perf_counter() - began) / run.layout.ranks], dtype=torch.float64)
    ).tolist()
    progress.flops, progress.total_flops = progress.flops + spent[0], progress.total_flops + spent[0]
    progress.seconds, progress.total_seconds = progress.seconds + spent[1], progress.total_seconds + spent[1]
    facts = {"stage": index, "step": progress.total_steps, "loss": [before, after], "flops": spent[0]}
    state.lineage = [*state.lineage, *(line | facts for line in lines)]
    return [line | facts for line in lines]


def transform(source: str | Path, transforms: Sequence[Spec | str | dict[str, Any]], out: str | Path) -> dict[str, Any]:
    """Apply transforms to a run's newest checkpoint, or to a checkpoint, and write the result as a run of its own.

    transforms: in order, each as a recipe names it: ``"widen"``, or ``{"name": "stack", "factor": 2}``. The new run stands where the old
    one stood, optimizer state included; its recipe has the new model. Returns {"run", "checkpoint", "lines"}. Raises UserError for a source
    that is none, or an `out` that exists.
    """
    from .check import resolve_run
    from .program import make_optimizer
    from .run import Run, open_run
    from .session import prepare_folder

    source, out = Path(source), Path(out)
    if out.exists():
        raise UserError(f"{out} exists already; name another folder")
    chosen = [
        one if isinstance(one, Spec) else named("transform", **({"name": one} if isinstance(one, str) else one)) for one in transforms
    ]
    old = open_run(source)
    path = source if (source / "manifest.json").is_file() else old.checkpoints.latest()
    assert path is not None
    state = old.state(path)
    dropped = state.forget_hooks()
    index, manifest = state.progress.stage, old.checkpoints.manifest(path)
    graph, model, snapshot, lines = grown(old, snapshot_of(old, state), chosen, lambda: stage_batches(old, index, 0, old.batch_rows(index)))
    tree = plain(old.section) | {"name": out.name, "model": plain(graph)}
    for stage in tree["stages"][: index + 1]:
        stage["transforms"] = []
    new = Run(resolve_run(Recipe(tree)), out)
    new.stand_at(index)
    new.__dict__["tokenizer"] = old.tokenizer
    new.parents = [
        {
            "kind": "checkpoint",
            "path": str(path),
            "recipe_hash": manifest["recipe_hash"],
            "step": state.progress.total_steps,
            "parents": manifest["parents"],
        }
    ]
    new.model = put_weights(new, model, snapshot)
    facts = {"stage": index, "step": state.progress.total_steps}
    result = State(
        new.model,
        make_optimizer(new, new.section.stages[index]),
        state.progress,
        extra={name: value for name, value in state.extra.items() if name not in OF_THE_MODEL},
        lineage=[*state.lineage, *(line | facts for line in lines)],
    )
    for line in result.lineage[-1:]:
        line["notes"] = [*line["notes"], *put_state(new, result, snapshot), *map(_dropped, dropped)]
    prepare_folder(new)
    if hasattr(old.tokenizer, "save"):
        old.tokenizer.save(out / "tokenizer")
    saved = new.program.save(result, manifest["metrics"])
    new.checkpoints.wait()
    return {"run": str(out), "checkpoint": str(saved), "lines": result.lineage[-len(lines) :]}


def _dropped(hook: str) -> str:
    return f"the hook {hook!r} starts afresh: what it held, such as an average of the weights, is of the model before"
