"""The composition root: a recipe becomes a Run, used alike by the command line and from Python.

run = ingot.build(ingot.load_recipe("recipes/text/gpt_tiny.yaml"))
run.train()
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..core.errors import Problem, RunError, UserError, one_line
from ..core.folders import checkpoints, run_and_checkpoint
from ..core.frozen import Frozen
from ..core.parts import Spec, plain, signature
from ..core.progress import Progress
from ..core.recipe import Recipe, difference, digest, load
from ..core.resolve import spec, try_resolve
from ..core.seams import Field
from ..ops.flops import register
from ..train.checkpoint import Checkpoints
from ..train.lines import event
from ..train.state import State
from .annotate import annotate, annotated_fields
from .check import batch_rows, longest_sequence, resolve_run
from .device import ALONE, choose_device, choose_layout, choose_precision, cores_to_spare, slow_precision
from .evaluation import evaluate_streams
from .graph import build_model, look_at, without_weights
from .grow import graph_of
from .initial_weights import adopt, adopt_tokenizer, load_start
from .latents import frozen
from .program import DeviceWindows, Program, make_optimizer
from .prompt import prompt_ids, sample_prompts
from .rows import fields_of, gives_text, seconds_per_row, sources_apart
from .schema import Data, Graph, RunSection
from .session import train

# What may change between a run's start and its resuming: where and how it runs and reports, not what it computes.
OF_THE_MACHINE = {"layout", "micro_rows", "device", "memory", "price_per_hour", "log", "compile", "checkpoint"}


class Run:
    """A recipe brought to life, piece by piece as each is needed: section, data, model, checkpoints; train, evaluate, generate.

    folder: the run folder. start_from: a run, a checkpoint, or ``hf:FOLDER``; weights only, training starts afresh.
    """

    def __init__(self, section: RunSection, folder: Path, *, start_from: str | None = None, echo: Callable[[str], None] | None = None):
        register()  # what torch's FLOP counter does not know
        self.section, self.folder, self.start_from = section, folder, start_from
        self.echo = echo or (lambda text: None)
        self.resolved: dict[str, Any] = plain(section)
        self.recipe_hash = digest(self.resolved)
        self.device = choose_device(section.device)
        self.dtype = choose_precision(section.precision, self.device)
        self.layout = choose_layout(section.layout, self.device)
        self.parents: list[dict[str, Any]] = []
        self.choices: dict[str, Any] = {}
        self.graph: Graph = section.model  # the model section in force, after the transforms of the stages entered so far
        self.objective_spec: Spec = section.model.objective
        self.objective_stage = 0  # the stage that it was chosen for: the rows that it reads are that one's
        self.objective_started = False  # whether what the run starts from filled the objective too, such as an averaged teacher
        self.messages: list[str] = list(filter(None, [slow_precision(self.dtype, self.device)]))
        self._data: dict[int, Any] = {}
        self._extra: dict[str, Any] = {}  # of the checkpoint whose weights are in use

    # -- data ---------------------------------------------------------------------------------------------------------------

    def data_section(self, index: int) -> Data:
        """The data of a stage: its own, or the run's."""
        return self.section.stages[index].data or self.section.data

    def data_index(self, index: int) -> int:
        """The first stage that reads the same data: it names the data of a stage."""
        wanted = plain(self.data_section(index))
        return next(i for i in range(len(self.section.stages)) if plain(self.data_section(i)) == wanted)

    @property
    def sequence(self) -> int:
        """Positions of the longest row of text that any stage reads: what a model with learned positions has room for."""
        return longest_sequence(self.section)

    def batch_rows(self, index: int) -> int:
        """Rows of a stage's global batch."""
        batch = self.section.stages[index].batch
        if batch.unit == "audio_seconds":
            return max(1, round(batch.value / seconds_per_row(self, index)))
        return batch_rows(batch, self.data_section(index).sequence)

    def fields(self, index: int = 0) -> dict[str, Field]:
        """What a row of a stage's data holds, without preparing it."""
        key = self.data_index(index)
        if key in self._data:
            found: dict[str, Field] = self._data[key].train.fields()
        else:
            found = fields_of(self.data_section(index), Path.cwd())
        return found if found.keys() >= annotated_fields(self, index, found).keys() else found | annotated_fields(self, index, found)

    @cached_property
    def has_text(self) -> bool:
        """Whether any of the run's data needs a tokenizer."""
        sections = [self.section.data, *(stage.data for stage in self.section.stages if stage.data is not None)]
        return any(gives_text(source) for data in sections for source in (data.train, data.validation) if source is not None)

    @property
    def layout_name(self) -> str:
        """The layout in force: the recipe's, or the automatic choice."""
        return type(self.layout).__name__.lower()

    def data_of(self, index: int, progress: Callable[..., None] | None = None) -> Any:
        """The opened data of a stage, prepared first where that has not been done. Raises UserError for unusable sources."""
        from ..data.open import open_data

        key = self.data_index(index)
        if key not in self._data:
            data = self.data_section(index)
            tokenizer = data.tokenizer or self.section.data.tokenizer or spec("data.tokenizer", "bytes")
            self._data[key] = open_data(
                train=data.train,
                validation=data.validation,
                holdout=data.holdout,
                tokenizer=tokenizer,
                sequence=data.sequence,
                pack=data.pack,
                cache=Path(data.cache),
                folder=Path.cwd(),
                seed=self.section.seed,
                known=self._known_tokenizer(key),
                progress=progress,
                augment=data.augment,
                views=data.views,
                bucket=data.bucket,
                apart=sources_apart(self.section, (at for at in range(len(self.section.stages)) if self.data_index(at) == key)),
            )
        return self._data[key]

    def _known_tokenizer(self, key: int) -> Any:
        """For a stage on other data: the run's tokenizer, unless it names its own. For a run that has begun: its copy of a tokenizer
        that was made from texts or files, which may have changed since."""
        own, first = self.data_section(key).tokenizer, self.section.data.tokenizer
        if key and (own is None or (first is not None and own.data() == first.data())):
            return self.tokenizer
        return None if key else self._kept_tokenizer()

    def _kept_tokenizer(self) -> Any:
        stored, own = self.folder / "tokenizer", self.section.data.tokenizer
        made = own is not None and signature(own.target).wiring  # from texts or files; another comes from the recipe alone
        if made and (stored / "tokenizer.json").is_file() and self.checkpoints.all():
            return spec("data.tokenizer", "pretrained", path=str(stored.resolve())).build(folder=Path.cwd())
        return None

    @property
    def opened(self) -> bool:
        """Whether any data has been opened (and so prepared)."""
        return bool(self._data)

    @cached_property
    def tokenizer(self) -> Any:
        """The data's tokenizer; where the data is not opened yet, the copy in the run folder, so that a run can be used without its
        corpus. None for a run without text."""
        if not self.has_text and self.section.data.tokenizer is None:
            return None
        own = self.section.data.tokenizer or spec("data.tokenizer", "bytes")
        if not self.opened and not signature(own.target).wiring:
            return own.build()
        kept = None if self.opened else self._kept_tokenizer()
        return self.data_of(0).tokenizer if kept is None else kept

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embedding: the recipe's number, which may exceed the tokenizer's, or the tokenizer's; None without text."""
        if self.tokenizer is None:
            return self.section.model.vocabulary
        wanted, there = self.section.model.vocabulary, int(self.tokenizer.vocabulary)
        if wanted is not None and wanted < there:
            raise UserError(f"model.vocabulary: {wanted} ids are fewer than the tokenizer's {there}")
        return wanted or there

    def key(self, data: int = 0) -> torch.Tensor:
        """The seed of row-wise randomness for the data of a stage, as a tensor so that compiled code does not specialize on it."""
        return torch.tensor((self.section.seed * 1_000_003 + data) % 2**63, dtype=torch.int64, device=self.device)

    def windows(
        self, stream: Any, *, start: int, rows: int, micro_rows: int, data: int = 0, part: tuple[int, int] | None = None
    ) -> DeviceWindows:
        """This rank's windows of a stream from a global row on. part: (rank, ranks), where they are not the layout's."""
        from ..data.loader import Loader

        rank, ranks = part or (self.layout.rank, self.layout.ranks)
        share = {"micro_rows": micro_rows, "rank": rank, "ranks": ranks}
        loader = Loader(stream, start=start, rows_per_step=rows, **share, beside=cores_to_spare(self.device))
        return DeviceWindows(loader, self.device, self.key(data), notices=lambda: self._pass_on(stream))

    def note(self, name: str, message: str, **more: Any) -> None:
        """An event for the ledger, where a run is being trained."""
        self.program.say(event(self.program.step, name, message, **more))

    def _pass_on(self, stream: Any) -> None:
        self.program.heard += [event(self.program.step, **notice) for notice in stream.notices()]

    # -- model --------------------------------------------------------------------------------------------------------------

    @cached_property
    def initializer(self) -> Any:
        return self.section.model.init.build()

    @cached_property
    def model(self) -> Any:
        """The model on its device and in its layout, freshly initialized (checkpoints are loaded by train, evaluate, generate).

        A layout that keeps slices of parameters is given a model without weights, so that no rank ever holds a whole one. A run that goes
        on has weights of its own, whatever it started from.
        """
        start_from = None if self.checkpoints.all() else self.start_from
        if not start_from and hasattr(self.layout, "materialize"):
            with without_weights():
                model = self.plain_model()
            model = self.layout.materialize(self.layout.shard(model, self.dtype), self.device)
            self.initializer.apply(model, seed=self.section.seed)
            return model
        model = self.plain_model()
        if start_from:
            self.parents = load_start(self, model, start_from)
        else:
            self.initializer.apply(model, seed=self.section.seed)
        model.to(self.device)
        return self.layout.shard(model, self.dtype)

    def plain_model(self, device: str = "cpu", graph: Graph | None = None) -> Any:
        """The components, not initialized, not sharded. graph: another model section than the one in force."""
        with torch.device(device):
            model = build_model(
                graph or self.graph,
                vocabulary=self.vocabulary,
                sequence=self.sequence,
                specials=getattr(self.tokenizer, "specials", {}),
                dtype=self.dtype,
                objective=self.objective_spec,
                fields=self.fields(),
                objective_fields=self.fields(self.objective_stage),
                context={"frozen": self.frozen},
            )
        return model.double() if self.dtype == torch.float64 else model

    def frozen(self, one: Frozen) -> Any:
        """The model of a frozen encoder that an objective learns from."""
        return frozen(self, one, "objective.teacher: it")

    def replace_objective(self, objective: Spec, index: int) -> None:
        """A stage with another objective: build it, keep the weights that fit by name and shape, initialize the others."""
        if self.layout_name == "fsdp":
            raise UserError("a stage with another objective cannot be entered under fsdp yet; use replicate, or a second run with --from")
        self.objective_spec, self.objective_stage = objective, index
        fresh = self.plain_model()
        self.initializer.apply(fresh, seed=self.section.seed)
        old = self.model.objective.state_dict()
        fresh.objective.load_state_dict(
            {
                name: old[name] if name in old and old[name].shape == value.shape else value
                for name, value in fresh.objective.state_dict().items()
            }
        )
        look_at(fresh.objective, {id(fresh.embedding): self.model.embedding, id(fresh.encoder): self.model.encoder})
        self.model.set_objective(fresh.objective.to(self.device))

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    # -- state --------------------------------------------------------------------------------------------------------------

    @cached_property
    def checkpoints(self) -> Checkpoints:
        settings = self.section.checkpoint
        return Checkpoints(
            self.folder / "checkpoints",
            layout=self.layout_name,
            alone=self.layout_name == ALONE,
            say=self.messages.append,
            keep_last=settings.keep_last,
            keep_best=settings.keep_best,
            keep_every=settings.keep_every,
            asynchronous=self.device.type == "cuda" if settings.asynchronous == "auto" else settings.asynchronous,
        )

    @cached_property
    def program(self) -> Program:
        return Program(self)

    def state(self, path: Path | None = None) -> State:
        """A training state: fresh, or from a checkpoint (whose stage decides objective and optimizer)."""
        progress = Progress()
        if path is not None:
            progress = Progress.from_dict(self.checkpoints.manifest(path)["progress"])
            self._has_stage(progress.stage, path)
        self.stand_at(progress.stage, entered=path is not None)
        state = State(model=self.model, optimizer=make_optimizer(self, self.section.stages[progress.stage]), progress=progress)
        if path is not None:
            self.checkpoints.load(state, path)
            self.parents = self.parents or self.checkpoints.manifest(path)["parents"]
        return state

    def _has_stage(self, index: int, path: Path) -> None:
        if index >= len(self.section.stages):
            raise RunError(f"{path} is of stage {index}, but the recipe has {len(self.section.stages)}")

    def stand_at(self, index: int, *, entered: bool = True) -> None:
        """Make the model section and the objective those of a stage, before its transforms or after; a model of another make is dropped."""
        graph = graph_of(self.section, index) if entered else self.section.model
        self.objective_stage, objective = replace(self.section, model=graph).objective_at(index)
        if (plain(graph), objective.data()) != (plain(self.graph), self.objective_spec.data()):
            self.__dict__.pop("model", None)
        self.graph, self.objective_spec = graph, objective

    def load_weights(self, path: Path | None = None) -> Path | None:
        """Put a checkpoint's weights into the model, for evaluation, sampling and export; the newest by default. Where its stage keeps an
        average of them (the hook ``ema``), that is what is taken, as the run's own evaluations do."""
        path = path or self.checkpoints.latest()
        if path is not None:
            manifest = self.checkpoints.manifest(path)
            self._extra = manifest["plain"].get("extra", {})
            self.parents = self.parents or manifest["parents"]
            self._has_stage(manifest["progress"]["stage"], path)
            self.stand_at(manifest["progress"]["stage"])
            self.checkpoints.load_model(self.model, path)
            hooks = [spec.name for spec in self.section.stages[manifest["progress"]["stage"]].hooks]
            if hook := self.checkpoints.load_average(self.model, path, hooks):
                self.messages.append(f"{path.name}: the average of the weights that {hook!r} keeps")
        return path

    def train(self, reporter: Any = None) -> dict[str, Any]:
        """Train to the end of the budget, resuming what the run folder holds. Returns the closing summary."""
        return train(self, reporter)

    # -- using the model ------------------------------------------------------------------------------------------------------

    def evaluate(
        self, checkpoint: Path | None = None, rows: int | None = None, also: list[Spec] | None = None
    ) -> dict[str, dict[str, float]]:
        """Held-out loss of a checkpoint, and the recipe's other evaluators (or ``also``), over every validation row unless rows says fewer."""
        path = self.load_weights(checkpoint)
        stage = self.checkpoints.manifest(path)["progress"]["stage"] if path else 0
        data = self.data_of(stage)
        annotate(self, dict(self._extra), stage, entering=False)
        found = self.evaluate_streams(data.validation, rows or 10**12, **({} if also is None else {"also": also}))
        for notice in self.program.notices():
            self.echo(notice["message"])
        return found

    def evaluate_streams(
        self, streams: dict[str, Any], rows: int | None = None, also: list[Spec] | None = None
    ) -> dict[str, dict[str, float]]:
        """Per source: held-out loss, and what the recipe's other evaluators find. See build/evaluation.py."""
        plain = [data.plain for data in self._data.values() if data.validation is streams] or [data.plain for data in self._data.values()]
        return evaluate_streams(self, streams, plain=plain[0] if plain else {}, rows=rows, also=also)

    def generate(
        self,
        prompt: str = "",
        *,
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        passes: int | None = None,
    ) -> Iterator[str]:
        """Stream text that continues the prompt, in the way of the objective (model/write.py). Raises UserError where it has none, and for an
        empty prompt where nothing opens documents."""
        from ..model.write import Manner, write

        if self.tokenizer is None:
            raise UserError("a run without text writes none")
        ids = prompt_ids(self, prompt)
        written = ids[-1:]  # with the prompt's last token: what is decoded alone loses the space before it
        shown = self.tokenizer.decode(written)
        manner = Manner(tokens, temperature, top_k, 1.0 if top_p is None else top_p, seed, self.tokenizer.end, passes)
        for token in write(self.model, ids, manner):
            written.append(int(token))
            text = self.tokenizer.decode(written)
            if not text.endswith("�"):
                yield text[len(shown) :]
                shown = text

    def plan(self) -> dict[str, Any]:
        """Forecast of memory, seconds and cost, by stage; see build/plan.py. Nothing is trained."""
        from .memory_fit import available_bytes
        from .plan import plan

        return plan(self, available_bytes(self))

    def export(self, out: str | Path, *, dtype: torch.dtype = torch.float32, check: bool = True) -> str:
        """Write the model and its tokenizer as a Hugging Face folder, checked against transformers; returns the family. See build/export.py."""
        from .export import export

        done = export(self, out, dtype=dtype, check=check)
        for line in done.left:
            self.echo(line)
        return done.family

    def report(self) -> Path:
        """Write the run folder's report.html and return its path."""
        from ..report.page import write_report

        return Path(write_report(self.folder))

    def sample_prompts(self) -> list[dict[str, str]]:
        """The recipe's evaluation prompts, continued; see build/prompt.py."""
        return sample_prompts(self)


def build(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    tiny: bool = False,
    runs: str | Path = "runs",
    tokenizer: Any = None,
    start_from: str | None = None,
    echo: Callable[[str], None] | None = None,
) -> Run:
    """Check a recipe and prepare its Run. Raises UserError with every problem; an existing run with another recipe is refused.

    recipe: a file, the name of a shipped one, or one that was loaded; overrides and tiny as on the command line, for the former two.
    tokenizer: instead of the recipe's own: a part's name or knobs, a path, or a live tokenizer (see initial_weights.adopt_tokenizer).
    """
    if not isinstance(recipe, Recipe):
        recipe = load(recipe, tuple(overrides), tiny=tiny)
    elif overrides or tiny:
        raise UserError("overrides and tiny belong to load_recipe, where the recipe is loaded already")
    recipe = copy.deepcopy(recipe)  # the caller's stays as it is, to be built again
    if tokenizer is not None:
        adopt_tokenizer(recipe, tokenizer)
    folder = Path(runs) / str(recipe.tree.get("name"))
    begun = os.path.isfile(folder / "recipe.yaml") and bool(checkpoints(folder / "checkpoints"))
    if start_from and start_from.startswith("hf:"):
        for line in adopt(recipe, start_from, load(folder / "recipe.yaml") if begun else None):
            (echo or (lambda text: None))(line)
    kept = begun and (folder / "tokenizer" / "tokenizer.json").is_file()
    section = resolve_run(recipe, Path.cwd(), tokenizer_kept=kept)
    run = Run(section, folder, start_from=start_from, echo=echo)
    refuse_changed(run)
    return run


def refuse_changed(run: Run) -> None:
    """An existing run is resumed only with the recipe it was started with; one without a checkpoint starts anew."""
    stored, saved = run.folder / "recipe.yaml", run.checkpoints.all()
    if not stored.exists() or not saved:
        return
    if run.start_from and not _came_from(run.checkpoints, run.start_from):
        raise UserError(f"the run {run.folder} exists and did not start from {run.start_from}; choose another name=, or leave out --from")
    # Resolved again, so that a knob that the run was started without, because it did not exist yet, has its default.
    section, _ = try_resolve(load(stored), RunSection)
    before = load(stored).tree if section is None else json.loads(json.dumps(plain(section)))
    now = {key: value for key, value in json.loads(json.dumps(run.resolved)).items() if key not in OF_THE_MACHINE}
    changes = difference({key: value for key, value in before.items() if key not in OF_THE_MACHINE}, now)
    if changes:
        last = f"stages.{len(run.section.stages) - 1}.budget: "
        other = (
            f"ingot extend {run.folder} --budget ..., or choose another name="
            if all(line.startswith(last) for line in changes)
            else "or choose another name="
        )
        more = [f"and {len(changes) - 20} more"] if len(changes) > 20 else []
        lines = "\n  ".join([*map(one_line, changes[:20]), *more])
        raise UserError([Problem("", f"the run {run.folder} exists with another recipe; resume needs the same one ({other})", hint=lines)])


def _came_from(checkpoints: Checkpoints, source: str) -> bool:
    """Whether a run started from this run, checkpoint or folder, by what its newest checkpoint says; one that is damaged says nothing."""
    wanted = Path(source.removeprefix("hf:")).resolve()
    try:
        parents = checkpoints.manifest(checkpoints.all()[-1])["parents"]
    except RunError:
        return True
    return any(wanted in (place := Path(str(parent.get("path", ""))).resolve(), *place.parents) for parent in parents)


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a run folder. Raises UserError when it is none."""
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"no run at {folder}: it has no recipe.yaml")
    return load(folder / "recipe.yaml")


def open_run(folder: str | Path, checkpoint: str | Path | None = None, *, echo: Callable[[str], None] | None = None) -> Run:
    """A Run from its folder (or from a checkpoint folder inside it), weights loaded. Raises UserError when there is none."""
    folder, inside = run_and_checkpoint(folder)
    checkpoint = checkpoint or inside
    run = Run(resolve_run(recipe_of(folder)), folder, echo=echo)
    if run.load_weights(Path(checkpoint) if checkpoint else None) is None:
        raise UserError(f"the run {folder} has no whole checkpoint yet")
    for message in run.messages:
        run.echo(message)
    return run
