"""Annotators at work: columns found on entering a stage, kept by content, given to the rows of all the run's data.

    cache/annotations/<hash of annotator, sources and, where one is asked, weights>/<source>.values.npy, <source>.starts.npy

What a checkpoint remembers is the hash: a run that goes on, or is evaluated, finds the columns there, or makes them again where no
model was asked. The centers are found from training rows alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.errors import Problem, RunError, UserError
from ..core.evaluating import evaluating
from ..core.parts import Spec
from ..core.seams import Field
from ..data.open import HeldOutRows
from ..data.source._fingerprint import digest
from ..data.store.arrays import keep_arrays
from .latents import await_first, find_latents
from .rows import leaves

if TYPE_CHECKING:
    from .run import Run

SAMPLED = 2000  # clips that centers are found from
HEARD = ("shortest", "convert", "size")  # what decides, beside its files, which of a source's clips are heard, and in what pieces


def annotator_of(run: Run, index: int) -> tuple[int, Spec] | None:
    """The annotator in force in a stage, and the stage that names it: its own, or the last one before."""
    for number in range(index, -1, -1):
        if (chosen := run.section.stages[number].annotate) is not None:
            return number, chosen
    return None


def annotated_fields(run: Run, index: int, fields: dict[str, Field]) -> dict[str, Field]:
    """What the annotator in force adds to rows of such fields, known before it has run."""
    found = annotator_of(run, index)
    if found is not None and getattr(found[1].target, "whole_rows", False):
        rows: dict[str, Field] = found[1].target.known_fields(found[1].knobs)  # type: ignore[attr-defined]
        return rows
    if found is None or "waveform" not in fields:
        return {}
    rate = next((int(spec.knobs["rate"]) for spec in leaves(run.data_section(index).train) if "rate" in spec.knobs), 16000)
    known: dict[str, Field] = found[1].target.known_fields(found[1].knobs, fields["waveform"].shape[0], rate, stride_of(run))  # type: ignore[attr-defined]
    return known


def stride_of(run: Run) -> int:
    """Samples between two positions of the model."""
    strides = run.graph.embedding.knobs.get("strides") or [1]
    return int(np.prod(strides))


def annotate(run: Run, extra: dict[str, Any], index: int, *, entering: bool) -> str:
    """Give the data of a stage its columns; on entering the stage that names the annotator they are found. extra: plain values that a
    checkpoint keeps. Returns a sentence for the ledger where something was found. Collective."""
    found = annotator_of(run, index)
    if found is None:
        return ""
    number, chosen = found
    if getattr(chosen.target, "whole_rows", False):
        return find_latents(run, chosen, index)
    held = dict(extra.get("annotated", {}))
    if entering and number == index:
        held[str(number)] = _name(run, chosen, index)
        extra["annotated"] = held
    name = held.get(str(number))
    if name is None:
        return ""
    folder = Path(run.data_section(index).cache).expanduser() / "annotations" / name
    made = not folder.is_dir()
    if made and chosen.knobs.get("layer") is not None and not (entering and number == index):
        raise RunError(f"{folder} is gone: what stage {number} found from its model cannot be found again")
    if made and run.layout.rank == 0:
        _make(run, chosen, index, folder)
    await_first(run, [folder])
    attach(run, chosen, index, folder)
    return f"{chosen.name} {'found' if made else 'reused'} {chosen.knobs['clusters']} units in {sum(len(source) for source in sources(run, index))} clips: {folder}"


def refuse_unannotated(run: Run, index: int) -> None:
    """Raise UserError where a stage reads clips in which the annotator in force, which another stage names, has found nothing."""
    found = annotator_of(run, index)
    if (
        found is None
        or found[0] == index
        or getattr(found[1].target, "whole_rows", False)
        or run.data_index(found[0]) == run.data_index(index)
    ):
        return
    if {source.identity for source in sources(run, index)} - {source.identity for source in sources(run, found[0])}:
        message = f"{found[1].name} of stage {found[0]} finds units in the clips of its own stage, and here are others; name annotate in this stage too"
        raise UserError([Problem(f"stages.{index}.data", message)])


def sources(run: Run, index: int) -> list[Any]:
    """The distinct sources of sound of a stage's data, training ones first. Raises UserError where there is none."""
    data = run.data_of(index)
    found: dict[str, Any] = {}
    for stream in (data.train, *data.validation.values()):
        for source in stream.sources.values():
            inner = getattr(source, "source", source)  # one side of a split is annotated as a whole
            if hasattr(inner, "annotate"):
                found.setdefault(inner.identity, inner)
    if not found:
        raise UserError(f"stages.{index}.annotate: none of the data is sound")
    return list(found.values())


def attach(run: Run, chosen: Spec, index: int, folder: Path) -> None:
    """Give every source its column."""
    data, key, rates = run.data_of(index), chosen.target.key, stride_of(run)  # type: ignore[attr-defined]
    for stream in (data.train, *data.validation.values(), *data.plain.values()):
        for source in stream.sources.values():
            inner = getattr(source, "source", source)
            if hasattr(inner, "annotate"):
                place = digest(inner.identity)
                values, starts = (
                    np.load(folder / f"{place}.{kind}.npy", mmap_mode="r", allow_pickle=False) for kind in ("values", "starts")
                )
                inner.annotate(key, values, starts, chosen.target.hop(chosen.knobs, inner.rate, rates), chosen.knobs["clusters"])  # type: ignore[attr-defined]
        stream._fields = None


def _name(run: Run, chosen: Spec, index: int) -> str:
    """The hash of all that decides the columns."""
    weights = ""
    if chosen.knobs.get("layer") is not None:
        if run.layout_name == "fsdp":
            raise UserError(f"stages.{index}.annotate: a layer of a sharded model cannot be read; use replicate, or leave layer out")
        state = hashlib.blake2b(digest_size=20)
        for name, tensor in sorted({**_named(run.model.embedding), **_named(run.model.encoder)}.items()):
            state.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
        weights = state.hexdigest()
    learned = [[source.identity, len(ids)] for source, ids in _training(run, index)]
    heard = [[source.identity, *(getattr(source, name, None) for name in HEARD)] for source in sources(run, index)]
    return digest("annotation", 3, chosen.data(), heard, learned, weights)


def _named(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"{type(module).__name__}.{name}": tensor for name, tensor in module.state_dict().items()}


def _make(run: Run, chosen: Spec, index: int, folder: Path) -> None:
    part, found = chosen.build(), sources(run, index)
    sample = [value for source, ids in _training(run, index) for value in _values(run, part, source, _even(ids))]
    usable = [value for value in sample if len(value)]
    if not usable or sum(map(len, usable)) < part.clusters:
        raise UserError(f"stages.{index}.annotate: {sum(map(len, usable))} values are too few for {part.clusters} clusters")
    centers = part.fit(np.concatenate(usable))
    arrays = {"centers": centers}
    for source in found:
        columns = [
            part.assign(value, centers) if len(value) else np.zeros(0, dtype=np.int32)
            for value in _values(run, part, source, np.arange(len(source)))
        ]
        place = digest(source.identity)
        arrays |= {f"{place}.values": np.concatenate(columns), f"{place}.starts": np.cumsum([0, *map(len, columns)])}
    keep_arrays(folder, arrays)


def _training(run: Run, index: int) -> Iterator[tuple[Any, np.ndarray]]:
    """The distinct sources of training rows, each with the numbers of the clips that are trained on: those held out are not."""
    seen = set()
    for source in run.data_of(index).train.sources.values():
        held = isinstance(source, HeldOutRows)
        inner, ids = (source.source, source.ids) if held else (source, np.arange(len(source)))
        if hasattr(inner, "annotate") and inner.identity not in seen:
            seen.add(inner.identity)
            yield inner, ids


def _even(ids: np.ndarray) -> np.ndarray:
    return ids[np.linspace(0, len(ids) - 1, min(len(ids), SAMPLED)).astype(int)]


def _values(run: Run, part: Any, source: Any, ids: np.ndarray) -> Iterator[np.ndarray]:
    """(F, M) of each clip; nothing of one that cannot be read, which the source notes where it is asked for."""
    from ..data.rows import BadRow

    for index in ids.tolist():
        try:
            x_S = source.sound(index)
        except BadRow as error:
            source.skips.note(index, source.where(index), str(error))
            yield np.zeros((0, 0), dtype=np.float32)
            continue
        yield part.values(x_S, source.rate) if part.layer is None else _through(run, x_S, source.size, part.layer)


def _through(run: Run, x_S: np.ndarray, size: int, layer: int) -> np.ndarray:
    """What the first blocks make of a clip, piece by piece of a row's length; every piece has size / stride values."""
    model, stride = run.model, stride_of(run)
    pieces = []
    with evaluating(model):
        for start in range(0, len(x_S), size):
            piece = x_S[start : start + size]
            fixed = np.zeros((1, size), dtype=np.float32)
            fixed[0, : len(piece)] = piece
            batch = {
                "rows": torch.zeros(1, dtype=torch.int64),
                "key": run.key().cpu(),
                "waveform": torch.from_numpy(fixed),
                "lengths": torch.tensor([len(piece)]),
            }
            x, context = model.embed({key: value.to(run.device) for key, value in batch.items()}, causal=False)
            values = model.encoder.through(x, context, 0, layer)[0].float().cpu().numpy()
            wanted = -(-len(piece) // stride)
            real = int(context.segments_BT.sum()) if context.segments_BT is not None else len(values)
            pieces.append(values[np.minimum(np.arange(wanted), max(0, real - 1))])
    return np.concatenate(pieces)
