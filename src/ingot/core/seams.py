"""The seams: what each slot's parts receive (wiring, by name) and what they must offer (a protocol).

The loop and the builder know parts only through these. A batch is a flat ``dict[str, Tensor]``; its keys:

    rows       (B,) int64     global row number in the stage's stream; -1 marks padding rows, which are never scored
    source     (B,) int64     index of the row's source in the mixture
    tokens     (B, T) int64   token ids
    segments   (B, T) int32   document number within the row from 1; 0 is padding; attention never crosses a segment
    positions  (B, T) int64   position within the segment
    inputs, targets           added by Objective.prepare where they differ from tokens; target -100 is not scored
    units      (B,) int64     scored units per row, added by Objective.prepare; a loss named x may bring its own as units/x
    key        () int64       the seed of this run's row-wise randomness
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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


class RowSource(Protocol):
    """data.source, anything else: random access to rows; ``rows(ids)`` stacks them into arrays, pure in ids (augmentation is
    drawn from the row number given as `numbers`, the global row, so that epochs differ)."""

    def __len__(self) -> int: ...
    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]: ...


class Tokenizer(Protocol):
    """data.tokenizer. identity: content hash. token_bytes: UTF-8 bytes each id stands for, (vocabulary,) int."""

    vocabulary: int
    identity: str
    end: int

    def encode(self, texts: list[str]) -> list[np.ndarray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def token_bytes(self) -> np.ndarray: ...


class Objective(Protocol):
    """objective. causal: whether the encoder may look ahead. couples_batch: losses that need all rows at once (contrastive).

    prepare: corrupts a batch (random draws through ops.random keyed by batch["rows"], batch["key"]) and adds units.
    __call__: {name: (B,) loss sums per row}; the loop alone divides by units.
    """

    causal: bool
    couples_batch: bool

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]: ...
    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]: ...


class Hook(Protocol):
    """hook: any of three moments; state_dict/load_state_dict (tensors and plain values) where there is state to resume.

    select(state, window): the window's micro-batches, perhaps fewer or reweighted.   grads(state) -> {log name: value}: gradients
    are final (reduced over ranks), before the update.   stepped(state, log): after the update.
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
    """evaluate: measures a model; pure (no effect on training, random draws included). Returns {metric: number}."""

    def __call__(self, model: nn.Module, **context: Any) -> dict[str, float]: ...


@dataclass(frozen=True)
class SlotInfo:
    """purpose: one line. wiring: name -> what the caller passes. build passes to each part those its signature names."""

    purpose: str
    wiring: Mapping[str, str]


_LAYER = {"width": "model width D", "linear": "Spec of nn.linear", "layer": "index of the block", "depth": "number of blocks", "sequence": "longest T"}
SLOTS: dict[str, SlotInfo] = {
    "data.source": SlotInfo("where rows come from", {"folder": "directory that relative paths start from"}),
    "data.tokenizer": SlotInfo("text to token ids", {"texts": "callable giving an iterator of sample texts, for trained ones", "folder": "directory that relative paths start from"}),
    "data.pack": SlotInfo("documents to rows of a fixed length", {"lengths": "(documents,) tokens per document", "sequence": "T", "cache": "folder for a computed index, or None"}),
    "nn.embedding": SlotInfo("values to vectors", {"width": "D", "vocabulary": "number of ids", "sequence": "longest T"}),
    "nn.mixer": SlotInfo("mixes positions", _LAYER),
    "nn.feedforward": SlotInfo("mixes channels", _LAYER),
    "nn.block": SlotInfo("places norms and residuals around mixer and feed-forward", _LAYER | {"mixer": "module", "feedforward": "module", "norm": "Spec of nn.norm", "dropout": "rate on what a layer adds"}),
    "nn.norm": SlotInfo("normalizes vectors", {"width": "features", "axis": "name of the normalized axis"}),
    "nn.position": SlotInfo("tells positions apart", {"width": "D", "head_dim": "features of a head", "sequence": "longest T"}),
    "nn.linear": SlotInfo("a projection", {"inputs": "in features", "outputs": "out features", "bias": "bool", "axes": "(output axis, input axis)", "role": "Role of the weight"}),
    "model.encoder": SlotInfo("a stack of blocks", {"width": "D", "sequence": "longest T"}),
    "model.decoder": SlotInfo("a stack attending to the encoder", {"width": "D", "sequence": "longest T"}),
    "model.init": SlotInfo("initial values and per-parameter learning rates", {}),
    "objective": SlotInfo("heads, corruption, losses", {"width": "D", "vocabulary": "number of ids", "linear": "Spec of nn.linear", "specials": "tokenizer's special ids by name"}),
    "optim": SlotInfo("update rule", {"params": "torch parameter groups; each also holds names, axes, lr_scale"}),
    "schedule": SlotInfo("a factor on a knob, from progress", {"moment": "core.progress.Moment"}),
    "hook": SlotInfo("acts in the step at one of three moments", {}),
    "parallel.layout": SlotInfo("where parameters and rows live", {}),
    "evaluate": SlotInfo("measures a model", {}),
    "scaling.form": SlotInfo("a law to fit", {"table": "columns of the measurements by name"}),
}
