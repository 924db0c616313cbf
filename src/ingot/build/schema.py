"""The sections of a recipe. Each field is a knob with its type and default; the loop and the builder use these objects as they are.

name, seed, data, model, stages, evaluate, checkpoint, anomaly, precision, compile, layout, ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..core.parts import Fraction, NonNegative, Positive, Slot, section
from ..core.quantities import Batch, Budget, Bytes, Every, Interval


@section
@dataclass(kw_only=True)
class Data:
    """Where rows come from. Relative paths start at the working directory.

    train, validation: sources. holdout: share of the training documents that is kept for validation when no validation is given.
    tokenizer: text to ids; sequence: tokens in a row of text, or of the text beside an image or a sound. pack: how documents become
    rows. cache: where prepared stores lie. augment: changes of training rows that are not text, in this order, drawn anew for every
    row; views: how many differently augmented looks of each row are given. bucket: so many training rows of similar length stand together
    and are cut behind the longest of them, where the source knows lengths, as sources of sound do; 0 for none.
    """

    train: Slot["data.source"]
    validation: Slot["data.source"] | None = None
    holdout: Fraction = 0.0
    tokenizer: Slot["data.tokenizer"] | None = None
    sequence: Positive[int] = 512
    pack: Slot["data.pack"] = "stream"
    cache: str = ".ingot"
    augment: list[Slot["data.augment"]] = field(default_factory=list)
    views: Positive[int] = 1
    bucket: NonNegative[int] = 0


@section
@dataclass(kw_only=True)
class TowerSection:
    """A further embedding and encoder, for objectives that compare two. width: its own D, the model's when not given."""

    width: Positive[int] | None = None
    embedding: Slot["nn.embedding"]
    encoder: Slot["model.encoder"]


@section
@dataclass(kw_only=True)
class Graph:
    """The five components; width is handed down to all of them. vocabulary: number of ids, the tokenizer's when not given.

    towers: further encoders by name, such as that of the text beside an image's.
    """

    width: Positive[int]
    vocabulary: Positive[int] | None = None
    embedding: Slot["nn.embedding"]
    encoder: Slot["model.encoder"]
    target_embedding: Slot["nn.embedding"] | None = None
    decoder: Slot["model.decoder"] | None = None
    towers: dict[str, TowerSection] = field(default_factory=dict)
    objective: Slot["objective"]
    init: Slot["model.init"] = "normal"


@section
@dataclass(kw_only=True)
class Stage:
    """A part of a run with one budget. batch is global: over all ranks and accumulation.

    schedule: factors by knob: ``lr``, ``weight_decay`` or another knob of the optimizer; ``batch``; ``objective.<knob>``;
    ``hooks.<name>.<knob>``. data replace the run's own in this stage, which reads on where the last one on the same data stopped;
    objective replaces it from this stage on. fused_backward: update every weight inside the backward pass as soon as its gradient is
    complete, and free the gradient at once; ``auto`` where memory wants it. transforms: what is done to the model, in this order, on
    entering the stage. layer_decay: the learning rate of a layer over that of the next one above, for fine-tuning; 1 for one rate.
    annotate: what finds a column of the data on entering, such as units of sound; it holds on in later stages.
    """

    budget: Budget
    batch: Batch
    optimizer: Slot["optim"]
    schedule: dict[str, Slot["schedule"]] = field(default_factory=dict)
    hooks: list[Slot["hook"]] = field(default_factory=list)
    data: Data | None = None
    objective: Slot["objective"] | None = None
    side: dict[str, float] = field(default_factory=dict)
    layer_decay: Fraction = 1.0
    fused_backward: bool | Literal["auto"] = False
    transforms: list[Slot["transform"]] = field(default_factory=list)
    annotate: Slot["data.annotate"] | None = None


@section
@dataclass(kw_only=True)
class Evaluation:
    """When and how much to evaluate in the loop; step 0 and the end are always evaluated. rows: at most so many per source.

    also: evaluators beside the objective's loss; training_rows: at most so many training rows for those that learn from them.
    """

    every: Interval = "10%"
    also: list[Slot["evaluate"]] = field(default_factory=list)
    training_rows: Positive[int] = 2048
    rows: Positive[int] = 256
    batch_rows: Positive[int] = 16
    prompts: list[str] = field(default_factory=list)
    prompt_tokens: Positive[int] = 64


@section
@dataclass(kw_only=True)
class Checkpointing:
    """When to save and what to keep. every: interval; keep_last, keep_best (lowest validation loss): counts; keep_every: interval."""

    every: Interval = "10%"
    keep_last: Positive[int] = 2
    keep_best: NonNegative[int] = 1
    keep_every: Every | None = None
    asynchronous: bool | Literal["auto"] = "auto"


@section
@dataclass(kw_only=True)
class Anomaly:
    """What to do about non-finite values and spikes. An update with non-finite gradients is applied only under `log`."""

    policy: Literal["log", "skip", "roll_back", "stop"] = "skip"
    threshold: Positive[float] = 10.0
    window: Positive[int] = 64
    most: Positive[int] = 20


@section
@dataclass(kw_only=True)
class Log:
    """every: steps between lines of the ledger. tensorboard, wandb: write there too; ``auto`` where the package is installed."""

    every: Positive[int] = 1
    tensorboard: bool | Literal["auto"] = "auto"
    wandb: bool = False


@section
@dataclass(kw_only=True)
class RunSection:
    """A whole run.

    precision: ``bf16`` keeps fp32 master weights; ``auto`` is bf16 where the device is faster with it. compile: ``auto`` keeps
    compilation only when a probe shows it faster. micro_rows: rows a rank holds at once; ``auto`` fits memory.
    price_per_hour: money, for the forecast. memory: a cap that the plan must respect.
    """

    name: str
    seed: NonNegative[int] = 0
    data: Data
    model: Graph
    stages: list[Stage]
    evaluate: Evaluation = field(default_factory=dict)  # type: ignore[assignment]
    checkpoint: Checkpointing = field(default_factory=dict)  # type: ignore[assignment]
    anomaly: Anomaly = field(default_factory=dict)  # type: ignore[assignment]
    log: Log = field(default_factory=dict)  # type: ignore[assignment]
    precision: Literal["auto", "bf16", "fp32", "fp64"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    layout: Slot["parallel.layout"] | Literal["auto"] = "auto"
    micro_rows: Positive[int] | Literal["auto"] = "auto"
    memory: Bytes | None = None
    price_per_hour: NonNegative[float] | None = None

    def objective_at(self, index: int) -> tuple[int, Spec]:
        """The stage that chose the objective in force in a stage, and that objective: 0 and the model's own where none did."""
        chosen = [(number, stage.objective) for number, stage in enumerate(self.stages[: index + 1]) if stage.objective is not None]
        return chosen[-1] if chosen else (0, self.model.objective)
