"""Everything about a recipe that can be known to be wrong without reading data: all problems at once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import Problem, UserError, shown
from ..core.parts import Spec, knob_names, plain, signature, walk_specs
from ..core.quantities import Quantity
from ..core.recipe import Recipe, keys_of
from ..core.resolve import UNRESOLVED, Unresolved, nearest, partly_resolve
from ..core.resolve import spec as named
from ..core.seams import SLOTS
from ..nn.objectives import inside
from .grow import graph_after
from .rows import gives_only_rows, gives_text, known_keys, leaves, reading
from .schema import Data, RunSection, Stage

OBJECTIVE = re.compile(r"(?:model|stages\.(\d+))\.objective\b")


def resolve_run(recipe: Recipe, folder: Path | None = None, *, tokenizer_kept: bool = False) -> RunSection:
    """The recipe as sections and Specs. folder: also see whether the files it names are there, but for that of the tokenizer where a run
    has kept its own copy. Raises UserError with every problem."""
    section, problems = check(recipe, folder, tokenizer_kept=tokenizer_kept)
    if problems:
        raise UserError(problems)
    assert section is not None
    return section


def check(recipe: Recipe, folder: Path | None = None, *, tokenizer_kept: bool = False) -> tuple[RunSection | None, list[Problem]]:
    """Values, and the rules between parts: those that ask about nothing but sound values, where some are wrong.

    folder: where relative paths start; None looks at no file. tokenizer_kept: nor at the tokenizer's.
    """
    section, problems = partly_resolve(recipe, RunSection)
    if section is UNRESOLVED:
        return None, problems
    wrong = bool(problems)
    for rule in _rules(recipe, section, folder, tokenizer_kept):
        try:
            for problem in rule:
                problems.append(problem)  # one by one: what was found before a rule gave up stays
        except Unresolved:
            pass
        except Exception:
            if not wrong:  # what a rule makes of a value that is not there need not be Unresolved
                raise
    return None if wrong else section, problems


def longest_sequence(run: RunSection) -> int:
    """Of the rows of text of all stages."""
    return max(data.sequence for data in (run.data, *(stage.data for stage in run.stages if stage.data is not None)))


def batch_rows(batch: Quantity, sequence: int) -> int:
    """Rows of a global batch given in tokens or rows."""
    return round(batch.value / sequence) if batch.unit == "tokens" else round(batch.value)


def _rules(recipe: Recipe, run: RunSection, folder: Path | None, tokenizer_kept: bool) -> Iterator[Iterator[Problem]]:
    """Every rule by itself, not yet asked, so that one that cannot be answered keeps back no other. run: perhaps resolved in part."""

    def problem(path: str, message: str, hint: str = "") -> Problem:
        keys = keys_of(path)
        suffix = "   [command line]" if recipe.by_command_line(keys) else ""
        return Problem(path, message + suffix, recipe.origin(keys), hint)

    context = {
        "width": _known(lambda: run.model.width),
        "sequence": _known(lambda: longest_sequence(run)),
        "precision": run.precision,
        "run": run,
        "folder": folder,
    }
    for path, spec in _specs(run):
        inside = context | {"folder": None} if tokenizer_kept and path == "data.tokenizer" else context
        yield _part(path, spec, _in_force(path, run, inside), problem)
    yield _whole_run(run, problem)
    yield _tokenizer(run, problem)
    yield _name(run, problem)
    stages: list[Stage] = _known(lambda: [*run.stages])
    stages = [] if stages is UNRESOLVED else stages
    yield from _data("data", run.data, problem)
    for index, stage in enumerate(stages):
        if stage is not UNRESOLVED:
            if stage.data is not None:
                yield from _data(f"stages.{index}.data", stage.data, problem)
            yield from _stage(run, index, problem)
    yield _reading(run, problem)
    yield _grown(run, context, problem)


def _known(ask: Callable[[], Any]) -> Any:
    """The answer, or UNRESOLVED where it would come from a value that is."""
    try:
        return ask()
    except Unresolved:
        return UNRESOLVED


def _specs(value: Any, path: str = "") -> Iterator[tuple[str, Spec]]:
    """As walk_specs, passing over what could not be resolved."""
    if value is UNRESOLVED:
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Spec):
        yield path, value
        items = value.knobs.items()
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif hasattr(type(value), "__ingot_section__"):
        items = ((name, getattr(value, name)) for name in knob_names(value))
    for key, item in items:
        yield from _specs(item, f"{path}.{key}" if path else str(key))


def _in_force(path: str, run: RunSection, context: dict[str, Any]) -> list[dict[str, Any]]:
    """What a part is asked about: the run; of an objective, the run as it is where the objective is in force, on the data of those stages."""
    if not (found := OBJECTIVE.match(path)):
        return [context]

    def contexts() -> list[dict[str, Any]]:
        one = run.model.objective if found[1] is None else run.stages[int(found[1])].objective
        read = [stage.data for index, stage in enumerate(run.stages) if run.objective_at(index)[1] is one]
        return [context] * (None in read or not read) + [
            context | {"run": replace(run, data=replace(data, tokenizer=data.tokenizer or run.data.tokenizer))}
            for data in read
            if data is not None
        ]

    asked = _known(contexts)
    return [context] if asked is UNRESOLVED else asked


def _part(path: str, spec: Spec, contexts: list[dict[str, Any]], problem: Any) -> Iterator[Problem]:
    info = SLOTS.get(spec.slot)
    expected = signature(spec.target)
    strange = [
        name for name, item in expected.wiring.items() if info and name not in info.wiring and item.default is inspect.Parameter.empty
    ]
    if strange and info and info.wiring:
        yield problem(path, f"part {spec.name!r} asks for wiring {', '.join(strange)}, which {spec.slot} does not provide", expected.where)
    for message in dict.fromkeys(message for context in contexts for message in _own(spec, context)):
        yield problem(path, message)


def _tokenizer(run: RunSection, problem: Any) -> Iterator[Problem]:
    if run.data.tokenizer is None and gives_text(run.data.train) and not getattr(run.model.embedding.target, "tokenizer", None):
        yield problem("data.tokenizer", "texts need a tokenizer: bytes, bpe or pretrained")
    first = run.data.tokenizer or named("data.tokenizer", "bytes")
    own = [stage.data.tokenizer if stage.data is not None and gives_text(stage.data.train) else None for stage in run.stages]
    known = [(one or first).data() for one in own]
    for index, one in enumerate(own if gives_text(run.data.train) and any(other != known[0] for other in known) else ()):
        if one is not None and one.data() != first.data():
            yield problem(
                f"stages.{index}.data.tokenizer", "a model reads the ids of one tokenizer; leave it out here, or set data.tokenizer"
            )


def _whole_run(run: RunSection, problem: Any) -> Iterator[Problem]:
    if not run.stages:
        yield problem("stages", "needs at least one stage")
    if isinstance(run.layout, Spec) and run.layout.name == "fsdp":
        for index, stage in enumerate(run.stages):
            if stage.objective is not None and index:
                yield problem(
                    f"stages.{index}.objective",
                    "another objective cannot be entered under fsdp; use replicate, or a second run with --from",
                )


def _name(run: RunSection, problem: Any) -> Iterator[Problem]:
    if not run.name.strip(". ") or len(run.name) > 100 or any(letter in "/\\" or not letter.isprintable() for letter in run.name):
        yield problem("name", f"names the run's folder and cannot be {shown(run.name)}")


def _data(path: str, data: Data, problem: Any) -> Iterator[Iterator[Problem]]:
    def held_out() -> Iterator[Problem]:
        if data.holdout and data.validation is not None:
            yield problem(f"{path}.holdout", "validation and holdout both say what to validate on; give one")
        if data.holdout == 1:
            yield problem(f"{path}.holdout", "wants a share below 1: something must be left to train on")
        for spec in leaves(data.train) if data.holdout else ():
            if getattr(spec.target, "overlap", lambda knobs: False)(spec.knobs):
                yield problem(
                    f"{path}.holdout",
                    f"rows of {spec.name} overlap here, so most of what is held out would be trained on; validate on other moments (part)",
                )

    def views() -> Iterator[Problem]:
        if data.views > 1 and not data.augment:
            yield problem(f"{path}.views", f"{data.views} views of a row would be alike: say what changes them in augment")

    def bucket() -> Iterator[Problem]:
        if data.bucket and not any(hasattr(spec.target, "trimmed") for spec in leaves(data.train)):
            yield problem(
                f"{path}.bucket",
                "puts rows of similar length together, but no source of this run knows how long its rows are; sources of sound do",
            )

    yield from (held_out(), views(), bucket())


def _reading(run: RunSection, problem: Any) -> Iterator[Problem]:
    for path, message in dict(_unread(run)).items():
        yield problem(path, message)


def _unread(run: RunSection) -> Iterator[tuple[str, str]]:
    """Embeddings and objectives that find nothing to read in the data of a stage."""
    embeddings = [
        ("model.embedding", run.model.embedding),
        *((f"model.towers.{name}.embedding", tower.embedding) for name, tower in run.model.towers.items()),
    ]
    annotated: Spec | None = None
    for index, stage in enumerate(run.stages):
        annotated = stage.annotate or annotated
        keys = known_keys(stage.data or run.data, annotated)
        chosen, objective = run.objective_at(index)
        place = f"stages.{chosen}.objective" if run.stages[chosen].objective is not None else "model.objective"
        readers = [(path, embedding, reading(embedding)) for path, embedding in embeddings]
        readers += [(place, one, tuple(getattr(one.target, "reads", ()))) for one in inside(objective)]
        for path, one, wanted in readers if keys is not None else ():
            if wanted and not keys & set(wanted):
                slot, asked, given = one.slot.rpartition(".")[2], " or ".join(wanted), ", ".join(sorted(keys))
                yield path, f"{slot} {one.name!r} reads {asked}, which the data does not give; it gives {given}"


def _grown(run: RunSection, context: dict[str, Any], problem: Any) -> Iterator[Problem]:
    """The model after each stage's transforms: it can be made, and its parts go together."""
    graph = run.model
    for index, stage in enumerate(run.stages):
        path = f"stages.{index}.transforms"
        if not stage.transforms:
            continue
        try:
            graph = graph_after(graph, stage.transforms, path)
        except UserError as error:
            yield from (problem(item.where, item.message, item.hint) for item in error.problems)
            return
        inside = context | {"width": graph.width, "run": replace(run, model=graph)}
        for place, spec in walk_specs(graph):
            for message in _own(spec, inside):
                yield problem(path, f"makes a model that cannot be: {place}: {message}")


def _own(spec: Spec, context: dict[str, Any]) -> Iterator[str]:
    checker = getattr(spec.target, "check", None)
    if checker is not None:
        yield from checker(spec.knobs, context) or ()


def _stage(run: RunSection, index: int, problem: Any) -> Iterator[Iterator[Problem]]:
    stage, path = run.stages[index], f"stages.{index}"

    def budget() -> Iterator[Problem]:
        if stage.budget.value <= 0:
            yield problem(f"{path}.budget", "wants a budget above 0")

    def hooks() -> Iterator[Problem]:
        for name in {spec.name for spec in stage.hooks}:
            if sum(spec.name == name for spec in stage.hooks) > 1:
                yield problem(f"{path}.hooks", f"{name!r} is there twice; a hook works once")

    def audio(name: str, *amounts: Any) -> Iterator[Problem]:
        data = stage.data or run.data
        wanted = any(getattr(amount, "unit", "") == "audio_seconds" for amount in amounts)
        if wanted and not any(hasattr(spec.target, "seconds_per_row") for spec in leaves(data.train)):
            yield problem(f"{path}.{name}", "a length of audio needs a source of audio, which this run has not")

    def batch() -> Iterator[Problem]:
        data = stage.data or run.data
        if stage.batch.unit == "tokens" and gives_only_rows(data.train):
            yield problem(
                f"{path}.batch", f"a batch of rows that are not text is a number of them, such as '256 images', got {stage.batch}"
            )
        elif stage.batch.unit != "audio_seconds" and batch_rows(stage.batch, data.sequence) < 1:
            yield problem(f"{path}.batch", f"{stage.batch} is less than one row of {data.sequence} tokens")

    def micro_rows() -> Iterator[Problem]:
        if not isinstance(run.micro_rows, int) or stage.batch.unit == "audio_seconds" or index == 0:
            return
        if batch_rows(stage.batch, (stage.data or run.data).sequence) < run.micro_rows:
            yield problem("micro_rows", f"{run.micro_rows} rows are more than the global batch of {path}")

    def fused() -> Iterator[Problem]:
        if stage.fused_backward is True:
            yield from (problem(f"{path}.fused_backward", message) for message in unfusable(run, stage))

    def side() -> Iterator[Problem]:
        known = sorted({name for _, spec in walk_specs(run) for name in getattr(spec.target, "side_losses", ())})
        for name in stage.side:
            if name not in known:
                near = nearest(name, known) or "There are: " + (", ".join(known) or "none")
                yield problem(f"{path}.side", f"no layer of this model leaves a side loss {name!r}. {near}")

    def schedule(knob: str) -> Iterator[Problem]:
        if knob != "batch" and (message := _unschedulable(run, index, knob)):
            yield problem(f"{path}.schedule.{knob}", message)
        for key, value in getattr(stage.schedule[knob], "knobs", {}).items():
            yield from audio(f"schedule.{knob}.{key}", *(value if isinstance(value, list | tuple) else [value]))

    yield from (budget(), hooks(), audio("budget", stage.budget), audio("batch", stage.batch), batch(), micro_rows(), fused(), side())
    yield from (schedule(knob) for knob in (stage.schedule if stage.schedule is not UNRESOLVED else ()))


def unfusable(run: RunSection, stage: Stage) -> Iterator[str]:
    """Why updates cannot be made inside the backward pass, where each gradient is used up before the next one is there."""
    for hook in stage.hooks:
        if hasattr(hook.target, "grads"):
            yield f"the hook {hook.name!r} wants all gradients before the update, and updates inside the backward pass use them up one by one"
    if run.anomaly.policy not in ("log", "stop"):
        yield f"an update inside the backward pass cannot be held back as anomaly.policy {run.anomaly.policy!r} would; set anomaly.policy to log or stop"
    for _, spec in stage.optimizer.walk():
        if spec.slot == "optim" and (why := getattr(spec.target, "whole_gradient", "cannot update one weight at a time")):
            yield f"optimizer {spec.name!r} {why}"
    if isinstance(run.layout, Spec) and run.layout.name != "single":
        yield f"under the layout {run.layout.name!r} gradients cross ranks after the backward pass, so updates cannot be made inside it"


def _unschedulable(run: RunSection, index: int, knob: str) -> str:
    """Why a knob cannot be scheduled in a stage, or nothing."""
    stage = run.stages[index]
    head, _, rest = knob.partition(".")
    owner: Spec | None = stage.optimizer
    name = knob
    if head == "objective":
        owner, name = run.objective_at(index)[1], rest
    elif head == "hooks":
        wanted, _, name = rest.partition(".")
        owner = next((hook for hook in stage.hooks if hook.name == wanted), None)
    elif name in ("lr", "weight_decay"):  # of a wrapper they are those of the optimizer inside
        owner = next((spec for _, spec in owner.walk() if spec.slot == "optim" and name in spec.knobs), owner)
    known = list(signature(owner.target).knobs) if owner else [hook.name for hook in stage.hooks]
    if owner is None or name not in known:
        return f"no such knob to schedule. {nearest(name or head, known) or 'There are: ' + ', '.join(known)}"
    value = owner.knobs[name]
    if head == "objective" and isinstance(value, int) and not isinstance(value, bool):
        return f"a schedule would make fractions of a whole number; the knob is {value}"
    return (
        ""
        if isinstance(value, int | float) and not isinstance(value, bool)
        else f"only a number can be scheduled; the knob is {shown(plain(value))}"
    )
