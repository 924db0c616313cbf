"""Latents of frozen encoders (data/annotate/latents.py): computed over every row of a stage's data on entering it, kept by content.

    cache/latents/<hash of encoders and source>/<key>.npy      a row for each row of the source, whole sources, held-out rows too

The encoders do not change, so what is missing is found again whenever it is needed; a checkpoint need not remember anything.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.errors import UserError
from ..core.evaluating import evaluating
from ..core.parts import Spec, plain
from ..core.patience import until
from ..core.recipe import Recipe
from ..core.resolve import resolve, spec
from ..data.source._fingerprint import digest
from ..data.store.arrays import keep_arrays
from .graph import untrained
from .reference_model import run_at
from .rows import fields_of

if TYPE_CHECKING:
    from ..core.frozen import Frozen
    from .run import Run


def find_latents(run: Run, chosen: Spec, index: int) -> str:
    """Give the rows of a stage's data their latents; a sentence for the ledger. Collective."""
    found = _sources(run, index)
    encoders = [_content(run, one.start) for one in chosen.knobs["encoders"].values()]
    cache, first = Path(run.data_section(index).cache).expanduser() / "latents", [alike[0] for alike in found]
    names: list[str] = []
    for place, source in enumerate(first):
        again = sum(one.identity == source.identity for one in first[:place])  # the same content, read in another way
        read_as = [*_read_as(run, index, source), *([again] if again else [])]
        names.append(digest("latents", 2, chosen.data(), encoders, source.identity, *read_as))
    folders = [cache / name for name in names]
    wanted = [(source, folder) for source, folder in zip(first, folders, strict=True) if not folder.is_dir()]
    if wanted and run.layout.rank == 0:
        models = {
            name: frozen(run, one, f"stages.{index}.annotate: the encoder {name!r}", index)
            for name, one in chosen.knobs["encoders"].items()
        }
        for source, folder in wanted:
            keep_arrays(folder, _encoded(run, source, models, chosen.knobs))
    await_first(run, folders)
    data = run.data_of(index)
    for alike, folder in zip(found, folders, strict=True):
        columns = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
        for source in alike:
            source.hold(columns, chosen.knobs["keep"])
    for stream in (data.train, *data.validation.values(), *data.plain.values()):
        stream._fields = None
    made = "found" if wanted else "reused"
    return f"{chosen.name} of {', '.join(chosen.knobs['encoders'])} {made} for {sum(map(len, first))} rows: {cache}"


def await_first(run: Run, folders: list[Path]) -> None:
    """Until the first rank has made them."""
    if run.layout.rank:
        until(lambda: all(folder.is_dir() for folder in folders))
    run.layout.barrier()


def _sources(run: Run, index: int) -> list[list[Any]]:
    """The sources of a stage's data, whole, not augmented; those of the same content that are read alike together."""
    data = run.data_of(index)
    found: dict[tuple[str, str], list[Any]] = {}
    for stream in (*data.plain.values(), *data.validation.values()):
        for source in stream.sources.values():
            inner = getattr(source, "source", source)
            if not hasattr(inner, "hold"):
                raise UserError(
                    f"stages.{index}.annotate: latents are kept of rows such as images and sounds; {type(inner).__name__} gives none"
                )
            found.setdefault((inner.identity, str(getattr(inner, "reading", ""))), []).append(inner)
    return list(found.values())


def _read_as(run: Run, index: int, source: Any) -> list[Any]:
    """What else decides what an encoder is given of a row: how sources read it (the size of an image, say), how a text becomes ids, and,
    where columns are scaled by the rows that are trained on, which are held out."""
    data = run.data_section(index)
    sources = [None if one is None else one.data() for one in (data.train, data.validation)]
    held = [data.holdout] if data.holdout and hasattr(source, "trained_on") else []
    return [sources, *([run.tokenizer.identity, data.sequence] if run.has_text else []), *held]


def _content(run: Run, start: str | None) -> list[Any]:
    """What tells one frozen encoder from another."""
    if start is None:
        return [run.section.seed, plain(run.section.model.init)]
    folder = Path(start.removeprefix("hf:"))
    if not folder.is_dir():
        return [start]
    newest = max(folder.glob("checkpoints/step-*/manifest.json"), default=folder / "manifest.json")
    return [
        start,
        newest.read_text(encoding="utf-8")
        if newest.is_file()
        else sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob("*.safetensors")),
    ]


def frozen(run: Run, one: Frozen, where: str, index: int = 0) -> Any:
    """The model of an encoder, never trained. where: its place in the recipe, for people. index: of the stage whose rows it reads.
    Raises UserError where it is not there or not as wide as said."""
    if one.start is None:
        model: Any = untrained(one, _shared(run, index), run.initializer, run.section.seed)
    elif one.start.startswith("hf:"):
        model = _hugging_face(run, index, one.start.removeprefix("hf:"))
    else:
        model = _of_run(run, one.start)
    width = int(model.encoder.width)
    if width != one.width:
        raise UserError(f"{where} gives vectors of {width}, not of {one.width}")
    return model.to(run.device).requires_grad_(False)


def _shared(run: Run, index: int) -> dict[str, Any]:
    """What a model is built with, for the rows of a stage as they are before anything is found of them."""
    data = run.data_section(index)
    return {"vocabulary": run.vocabulary, "sequence": data.sequence, "fields": fields_of(data, Path.cwd())}


def _hugging_face(run: Run, index: int, folder: str) -> Any:
    from ..convert.hf import SPECIALS, load_into, locate, read_section
    from .graph import build_model
    from .schema import Graph

    section, extra = read_section(locate(folder))
    graph = resolve(Recipe(section), Graph)
    model = build_model(
        graph,
        vocabulary=extra["vocabulary"],
        sequence=extra["sequence"],
        specials=SPECIALS,
        dtype=torch.float32,
        fields=fields_of(run.data_section(index), Path.cwd()),
    )
    load_into(model, plain(graph), locate(folder))
    if run.has_text and "tokens" in model.embedding.reads and extra["tokenizer"] is not None:
        theirs = spec("data.tokenizer", "pretrained", path=str(extra["tokenizer"])).build(folder=Path.cwd())
        if getattr(run.tokenizer, "inner", None) is None or run.tokenizer.inner.to_str() != theirs.inner.to_str():
            raise UserError(f"the encoder of hf:{folder} reads the ids of its own tokenizer; set data.tokenizer to {folder}")
    return model


def _of_run(run: Run, path: str) -> Any:
    other, checkpoint = run_at(run, path, "an encoder")
    if other.load_weights(checkpoint) is None:
        raise UserError(f"the run {path!r} has no whole checkpoint to take an encoder from")
    if other.has_text and "tokens" in other.model.embedding.reads and other.tokenizer.identity != run.tokenizer.identity:
        raise UserError(f"the encoder of {path!r} reads the ids of another tokenizer; set data.tokenizer to that one's")
    return other.model


@torch.no_grad()
def _encoded(run: Run, source: Any, encoders: dict[str, Any], knobs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Latents and plain numbers of every row, and which rows can be used."""
    from ..nn.pooling import pooled

    raw = copy.copy(source)
    raw.held = {}
    pieces: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(raw), knobs["batch"]):
        ids = np.arange(start, min(start + knobs["batch"], len(raw)))
        rows = raw.rows(ids, ids)
        batch = {key: torch.from_numpy(np.ascontiguousarray(value)).to(run.device) for key, value in rows.items()} | {"key": run.key()}
        found = {"usable": rows["rows"] >= 0} | {key: value for key, value in rows.items() if key != "rows" and value.ndim == 1}
        for name, model in encoders.items():
            one = knobs["encoders"][name]
            with evaluating(model):
                h_BTD, context = model.encoded(batch, causal=one.causal)
                found[f"latent_{name}"] = (
                    pooled(h_BTD, context, one.pooling, int(getattr(model.embedding, "leading", 0))).float().cpu().numpy()
                )
        for key, value in found.items():
            pieces.setdefault(key, []).append(value)
    return {key: np.concatenate(values) for key, values in pieces.items()}
