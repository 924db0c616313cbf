"""The seams: what each slot's parts receive (wiring, by name) and what they must offer (a protocol).

The loop and the builder know parts only through these. A batch is a flat ``dict[str, Tensor]``; its keys:

    rows       (B,) int64     global row number in the stage's stream; -1 marks padding rows, which are never scored
    source     (B,) int64     index of the row's source in the mixture
    key        () int64       the seed of this run's row-wise randomness
    units      (B,) int64     scored units per row, added by Objective.prepare; a loss named x may bring its own as units/x,
                              and all that are named a/x together as units/a
    spent      (B,) int64     positions the row counts as; added by the builder where there are no segments to count

What a row holds, by modality; a source gives those it has, an embedding names those it needs as ``reads``:

    tokens     (B, T) int64   token ids; of a pair, its text
    segments   (B, T) int32   of tokens: document number within the row from 1; 0 is padding; attention never crosses a segment
    positions  (B, T) int64   of tokens: position within the segment
    image      (B, C, H, W)   uint8 (0 to 255) or float
    waveform   (B, S) float   sound from -1 to 1
    frames     (B, F, M) float   log-mel or other features over time
    lengths    (B,) int64     of waveform (samples) or frames: how many are real, the rest is padding
    series     (B, L, C) float   a window of a multivariate series;  future (B, H, C): what follows it
    observed   (B, L, C) bool    of series: False where a value is missing (the value is 0 there);  future_observed alike
    numbers    (B, K) float   numeric columns of a table;  numbers_missing (B, K) bool
    categories (B, J) int64   categorical columns of a table; id 0 is a missing value
    label      (B,) int64     class, -100 where there is none;  label_other, label_share: a mixed row's second class, and the share
                              (B,) float of the first
    concept    (B,) int64     what the row shows, where several rows show the same: retrieval counts a hit by it
    values     (B, K) float   targets of regression, NaN where there is none
    transcript (B, U) int64   ids of what was said, -100 is padding
    codes      (B, N) int64   units of sound over time that an annotator found, evenly over the row's length; -100 is padding
    x_1, x_2   as x           further augmented views of the same row: image_1 is the second view of image

What an objective may add in prepare:

    inputs, targets           where they differ from tokens; target -100 is not scored
    kept       (B, K) int64   which positions stay, in this order: the graph takes them after embedding and forgets the others
    masked     (B, T) bool    positions whose vectors the objective hides (see Context.hide), before positions are added
    decoder_x                 the key x of what the decoder reads, such as decoder_tokens, decoder_segments, decoder_positions

An embedding may make more or fewer positions of a row than the row has values: T of the graph is what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from .axes import Axes

Batch = "dict[str, Tensor]"


@dataclass(frozen=True)
class Document:
    """One text with an id that is stable across edits of other documents."""

    id: str
    text: str


@dataclass(frozen=True)
class Shard:
    """A separately preparable piece of a document source.

    identity: content hash; equal identity means equal documents. read: opens it afresh and yields its documents in order.
    """

    name: str
    identity: str
    read: Callable[[], Iterator[Document]]


class DocumentSource(Protocol):
    """data.source, texts: prepared through the tokenizer into a store. shards() raises UserError for missing or empty input."""

    def shards(self) -> list[Shard]: ...


@dataclass(frozen=True)
class Field:
    """What one row holds under a key: shape, dtype, and for ids how many there are (classes of a label, values of a column)."""

    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    values: int | None = None


class RowSource(Protocol):
    """data.source, anything else: random access to rows; ``rows(ids)`` stacks them into arrays, pure in ids (augmentation is
    drawn from the row number given as `numbers`, the global row, so that epochs differ).

    fields: key -> Field of every key that rows gives, without reading rows. Optional, each with a meaning of its own:
    seconds_per_row (a row's length of audio) · identity (hash of the content) · reading (what else decides rows) · notices() -> list of events since the last call,
    such as rows that were passed over · augmented(augments, views, seed) -> the same rows, augmented · texts() -> texts a tokenizer
    is trained on, and with_tokenizer(tokenizer, sequence) -> the same rows with tokens · known_fields(knobs) -> fields or None, a
    static method: what a recipe says without reading data · lengths() of all rows, size of one, hop, cut_to(longest) and
    trimmed(batch, longest): for rows of similar length to stand together (data.bucket) · hold(columns, keep): give these instead of what
    is stored, but for the keys in keep. data/rows.py has the common part of such a source.
    """

    def __len__(self) -> int: ...
    def fields(self) -> dict[str, Field]: ...
    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]: ...


class Augment(Protocol):
    """data.augment. reads: the key it changes. __call__(value, draw): one row's value (an image as (H, W, C) uint8), any shape out.

    With ``mixes = True`` instead mix(row, other, draw): a finished row with another row of the same source; reads is None where the keys
    are known only when training begins. Optional: of_view(view), the augment for one of several looks, and field_of_view(field, view).
    """

    reads: str | None

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray: ...


class Annotator(Protocol):
    """data.annotate. key: of the column. values(x, rate): (F, M) of a whole clip, or, where ``layer`` is set, the model's own are taken ·
    fit(values): what assignment needs · assign(values, fitted) -> (F,) · hop(knobs, rate, stride), known_fields(knobs, samples, rate,
    stride), static: samples between two entries, and what rows get. build/annotate.py runs it on entering a stage and keeps what it found.

    With ``whole_rows = True`` it looks at rows of any kind through frozen encoders, and rows then hold what it found: see latents.
    """

    key: str

    def fit(self, values_NM: np.ndarray) -> np.ndarray: ...
    def assign(self, values_NM: np.ndarray, centers_CM: np.ndarray) -> np.ndarray: ...


class Embedding(Protocol):
    """nn.embedding. reads: batch keys it needs, all of them. __call__(batch, context) -> x (B, T, D): a context whose positions and
    segments are still None, for the embedding to set where its positions are not simply 0 .. T-1 of one document (padded audio).

    grid(batch): how positions are arranged, such as (14, 14), leading ones left out; a function of shapes alone.
    lengths(batch): (B,) int64 positions that are not padding, or None where all are real. leading: special positions in front.
    """

    reads: tuple[str, ...]

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]: ...
    def __call__(self, batch: dict[str, Tensor], context: Any) -> Tensor: ...


class Tokenizer(Protocol):
    """data.tokenizer. identity: content hash. end: the id that closes every document; begin, optional: that which opens it, or None.
    token_bytes: UTF-8 bytes each id stands for, (vocabulary,) int."""

    vocabulary: int
    identity: str
    end: int

    def encode(self, texts: list[str]) -> list[np.ndarray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def token_bytes(self) -> np.ndarray: ...


class Objective(Protocol):
    """objective. causal: whether the encoder may look ahead. couples_batch: losses that need all rows at once (contrastive); these are
    couple(represent(model, batch), batch), see train/coupled.py.

    prepare: corrupts a batch (random draws through ops.random keyed by batch["rows"], batch["key"]) and adds units.
    __call__: {name: (B,) loss sums per row}; the loop alone divides by units.
    Optional: logits(model, h) · features(model, batch) -> (B, D), what probes and neighbors compare; pooled positions otherwise ·
    scores(model, batch) -> {metric: (B,)}, per row of a prepared batch, averaged in evaluations, or (sums, counts), (B,) each, which are
    added up and divided · measured(model, batch) -> (name, sums, units), the loss that evaluations report, where the first one is weighed
    (core/measured.py) · cost(window) -> str, where FLOPs vary with more than the shapes of a prepared window, such as with how many of its
    rows leave early: names what they depend on; steps of one name are metered once · vitals(model, batch) and bands(means), what
    ``health`` watches for a collapse ·
    stepped(state, log), called after each update that was made, begin(model), on entering a stage afresh · reads: the batch keys it needs
    beside its embedding's · writer: how text is written with its models, one of model/write.py (token by token where causal and not named).
    """

    causal: bool
    couples_batch: bool

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]: ...
    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]: ...


class Hook(Protocol):
    """hook: any of three moments; state_dict/load_state_dict (tensors and plain values) where there is state to resume.

    select(state, window): the window's micro-batches, perhaps fewer or reweighted; the same number on every rank.
    grads(state) -> {log name: value}: gradients are final (reduced over ranks), before the update.
    stepped(state, log): after a step; log["skipped"] where its update was held back; what it adds to log["hooks"] is written.
    Further attributes, each optional. reads: rows read for each row trained on, where select drops some.  cost(state) -> str: names
    the cost of the coming step, where that varies by more than the shapes of the window read.  parts: the fewest micro-batches over
    all ranks that it needs.  copies: how many tensors as large as the weights it keeps.  averaged(model): a context in which the
    model is what should be evaluated.
    """


class Initializer(Protocol):
    """model.init. apply: fills parameters, each from (seed, its name) alone.  lr_scale: factor on the learning rate of a parameter.
    output_scale: factor on logits."""

    def apply(self, model: nn.Module, seed: int) -> None: ...
    def lr_scale(self, name: str, axes: Axes, shape: tuple[int, ...]) -> float: ...
    def output_scale(self, width: int) -> float: ...


class Layout(Protocol):
    """parallel.layout: where parameters and rows live.

    shard: wraps or shards the model in place, before the optimizer is built.  syncing(last): context manager around one
    micro-batch's backward.  reduce: after the last backward, gradients become sums over ranks.  total: sums a tensor over ranks.
    clip_norm: norm of all gradients.  gather, broadcast_object: every rank's value, rank 0's value.  barrier: wait for all.
    """

    rank: int
    ranks: int

    def shard(self, model: nn.Module, dtype: Any) -> nn.Module: ...
    def syncing(self, last: bool) -> Any: ...
    def reduce(self) -> None: ...
    def total(self, values: Tensor) -> Tensor: ...
    def clip_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor: ...
    def gather(self, value: Any) -> list[Any]: ...
    def broadcast_object(self, value: Any) -> Any: ...
    def barrier(self) -> None: ...


class Evaluator(Protocol):
    """evaluate: measures a model; pure (no effect on training, random draws included). Returns {metric: number}.

    What its keyword-only parameters name is passed: windows (this source's held-out rows, an iterable of windows of micro-batches),
    training (callable: number of rows -> windows of training rows, not augmented, always the same ones), looks (the same with views
    as training sees them, or None), objective, token_bytes, fields (key -> Field), tokenizer, seed. Of several ranks each gets its share of
    the windows, the same number of them. Optional: alarms(result) -> sentences, each becomes an event of the ledger · reads: batch keys
    without which it is refused.
    """

    def __call__(self, model: nn.Module, **context: Any) -> dict[str, float]: ...


@dataclass
class Snapshot:
    """A state as plain data, for transforms: whole tensors on the CPU, by name, never those of the live run.

    tree: the model section, resolved, as plain data.  weights: parameters and persistent buffers by path; a tied weight once.
    axes: of every parameter.  state: what the optimizer keeps, by parameter and key; tensors, and plain values that JSON holds.
    layouts: by parameter and key, as the optimizer's ``state_layout`` declares them (empty for one that declares nothing).
    powers: by key, how a state follows the gradient: 1 (a momentum), 2 (a second moment), 0 (does not), "weight" (follows the
    weight), or a word of transform._carry; a key that is missing is not known.  output_scale: the objective's factor on logits.
    notes: sentences about what could not be carried, for the ledger and the lineage.  full(state of a weight, its axes, its shape):
    the same in full numbers where it is held as codes; None where no optimizer holds any.
    """

    tree: dict[str, Any]
    weights: dict[str, Tensor]
    axes: dict[str, Axes]
    state: dict[str, dict[str, Any]] = field(default_factory=dict)
    layouts: dict[str, dict[str, str]] = field(default_factory=dict)
    powers: dict[str, int | str] = field(default_factory=dict)
    output_scale: float = 1.0
    notes: list[str] = field(default_factory=list)
    full: Callable[[dict[str, Any], Axes, tuple[int, ...]], dict[str, Any]] | None = None


@dataclass
class Target:
    """What a transform's result must fit: the model that ``graph`` asked for, with fresh weights.

    tree, axes, output_scale: as in Snapshot.  weights: initial values, each from (seed, its name).  seed: of the run.
    model: a new, plain model of the tree on the CPU, for methods that run it.  batches: prepared batches of the stage's data on the
    CPU, the same every time; None offline.  read: weights and model section of another run's or checkpoint's folder.
    """

    tree: dict[str, Any]
    weights: dict[str, Tensor]
    axes: dict[str, Axes]
    output_scale: float = 1.0
    seed: int = 0
    model: Callable[[], nn.Module] | None = None
    batches: Callable[[], Iterator[dict[str, Tensor]]] | None = None
    read: Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]] | None = None


class Transform(Protocol):
    """transform: a state becomes another, on entering a stage or offline.

    preserves: whether the grown model computes the same function (an attribute; a property where knobs decide).
    graph(tree): the model section of the result, a pure edit of plain data; ValueError with a sentence where it cannot be. A resumed
    run rebuilds its model from the recipe through ``graph`` alone.  __call__(snapshot, target): the result, whose weights have the
    names and shapes of target.weights; state that is left out starts afresh, and a note says so. Changes neither argument.
    """

    preserves: bool

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]: ...
    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot: ...


class Router(Protocol):
    """nn.router. __call__(x_BTD, context) -> routes: ends_E; dispatch(x_BTD) gives rows of work sorted by expert, combine(outputs) puts
    them back (see nn/router/_routes.py). Everything within a row; padding is neither routed nor counted.

    side_losses: names it leaves for ``stages.*.side`` to weigh (of any layer: the recipe's names are checked against these).
    weight_sum: bounds of a position's weights. local: positions do not depend on each other. caches: False where it needs whole rows.
    """

    side_losses: tuple[str, ...]
    weight_sum: tuple[float, float]
    local: bool

    def __call__(self, x_BTD: Tensor, context: Any) -> Any: ...
    def counted(self, totals: Mapping[str, Tensor]) -> dict[str, float]: ...


@dataclass(frozen=True)
class SlotInfo:
    """purpose: one line. wiring: name -> what the caller passes. build passes to each part those its signature names."""

    purpose: str
    wiring: Mapping[str, str]


_LAYER = {
    "width": "model width D",
    "linear": "Spec of nn.linear",
    "layer": "index of the block",
    "depth": "number of blocks",
    "sequence": "longest T",
}
SLOTS: dict[str, SlotInfo] = {
    "data.source": SlotInfo("where rows come from", {"folder": "directory that relative paths start from"}),
    "data.tokenizer": SlotInfo(
        "text to token ids",
        {"texts": "callable giving an iterator of sample texts, for trained ones", "folder": "directory that relative paths start from"},
    ),
    "data.pack": SlotInfo(
        "documents to rows of a fixed length",
        {"lengths": "(documents,) tokens per document", "sequence": "T", "cache": "folder for a computed index, or None"},
    ),
    "data.annotate": SlotInfo("columns of rows that are found, not given", {}),
    "data.augment": SlotInfo("another look of the same row", {}),
    "nn.embedding": SlotInfo(
        "values to vectors",
        {
            "width": "D",
            "vocabulary": "number of ids, None without a tokenizer",
            "sequence": "longest T of text",
            "linear": "Spec of nn.linear",
            "fields": "key -> Field of a row",
            "memory_width": "D of the encoder, for a target embedding",
        },
    ),
    "nn.mixer": SlotInfo("mixes positions", _LAYER | {"memory_width": "D of the encoder that a decoder attends to"}),
    "nn.feedforward": SlotInfo("mixes channels", _LAYER),
    "nn.router": SlotInfo(
        "which expert computes which position",
        {
            "width": "D",
            "experts": "number of experts E",
            "layer": "index of the block",
            "capacity": "most choices of an expert, over the mean load; absent: all",
        },
    ),
    "nn.block": SlotInfo(
        "places norms and residuals around mixer and feed-forward",
        _LAYER
        | {
            "mixer": "module",
            "feedforward": "module",
            "norm": "Spec of nn.norm",
            "dropout": "rate on what a layer adds",
            "cross": "module that attends to the encoder, in a decoder",
        },
    ),
    "nn.norm": SlotInfo("normalizes vectors", {"width": "features", "axis": "name of the normalized axis"}),
    "nn.position": SlotInfo(
        "tells positions apart",
        {
            "width": "D",
            "head_dim": "features of a head",
            "sequence": "longest T",
            "grid": "how positions are arranged, such as (14, 14)",
            "leading": "special positions in front",
            "heads": "H",
            "layer": "index of the block",
        },
    ),
    "nn.linear": SlotInfo(
        "a projection",
        {
            "inputs": "in features",
            "outputs": "out features",
            "bias": "bool",
            "axes": "(output axis, input axis)",
            "role": "Role of the weight",
        },
    ),
    "model.encoder": SlotInfo("a stack of blocks", {"width": "D", "sequence": "longest T"}),
    "model.decoder": SlotInfo(
        "a stack attending to the encoder", {"width": "D", "sequence": "longest T", "memory_width": "D of the encoder"}
    ),
    "model.init": SlotInfo("initial values and per-parameter learning rates", {}),
    "objective": SlotInfo(
        "heads, corruption, losses",
        {
            "width": "D",
            "vocabulary": "number of ids",
            "linear": "Spec of nn.linear",
            "specials": "tokenizer's special ids by name",
            "fields": "key -> Field of a row",
            "embedding": "view of the built embedding: grid, lengths, values",
            "encoder": "view of the built encoder",
            "tower_widths": "tower -> D",
            "decoder_width": "D of the decoder",
            "sequence": "longest T of text",
            "frozen": "callable: a core.frozen.Frozen -> its model, never trained",
        },
    ),
    "optim": SlotInfo("update rule", {"params": "torch parameter groups; each also holds names, axes, lr_scale"}),
    "schedule": SlotInfo("a factor on a knob, from progress", {"moment": "core.progress.Moment"}),
    "hook": SlotInfo(
        "acts in the step at one of three moments",
        {
            "layout": "the run's layout",
            "batch_rows": "rows of the stage's batch before its schedule",
            "sequence": "T",
            "open_model": "callable: folder of a run or checkpoint -> its model, frozen",
        },
    ),
    "parallel.layout": SlotInfo("where parameters and rows live", {}),
    "transform": SlotInfo("a state becomes another: growth, upcycling", {}),
    "evaluate": SlotInfo("measures a model", {"layout": "parallel.layout in force"}),
    "scaling.form": SlotInfo("a law to fit", {"table": "columns of the measurements by name"}),
}
