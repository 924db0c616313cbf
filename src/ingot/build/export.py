"""A run's model as a Hugging Face folder that computes the same: written aside, opened with transformers and compared, then moved in place."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import RunError, UserError

if TYPE_CHECKING:
    from .run import Run

LARGEST = 1e-3  # difference of fp32 outputs, over the largest output, that rounding may make


@dataclass(frozen=True)
class Exported:
    """What was written. architecture: the class of transformers that opens the folder. left: lines about what has no place in it.
    difference: the largest of the outputs compared (see ``largest_difference``); None where nothing was compared."""

    folder: Path
    family: str
    architecture: str
    left: tuple[str, ...]
    difference: float | None


def export(run: Run, out: str | Path, *, dtype: torch.dtype = torch.float32, check: bool = True) -> Exported:
    """Write the run's model and its tokenizer to ``out``. check: open what was written in fp32 with transformers, where it is installed.

    Raises UserError where ``out`` holds a model or no family has this one, RunError where it cannot be written or transformers computes
    something else; ``out`` is then as it was.
    """
    from safetensors import SafetensorError

    from ..convert.hf import write_folder

    out = Path(out)
    if (out / "config.json").exists():
        raise UserError(f"{out} holds a model already; name another folder")
    aside, left = out.parent / f".{out.name}.part", []
    graph = replace(run.graph, objective=run.objective_spec)  # a stage may have brought its own
    try:
        aside.mkdir(parents=True)
        family = write_folder(run.model, graph, aside, tokenizer=run.tokenizer, sequence=run.sequence, dtype=dtype, say=left.append)
        difference = largest_difference(run, aside, family) if check and dtype == torch.float32 else None
        if difference is not None and not difference < LARGEST:
            raise RunError(f"{out}: transformers computes other outputs, by {difference:.1e}; nothing was written")
        architecture = json.loads((aside / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        _place(aside, out)
    except FileExistsError as error:
        raise RunError(f"{error.filename} is in the way: another export is writing there, or one was killed; remove it") from None
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(f"{out} cannot be written: {error}") from None
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Exported(out, str(family), str(architecture), tuple(left), difference)


def _place(aside: Path, out: Path) -> None:
    """Move what was written to where it belongs; config.json last, which tells that a folder holds a model."""
    if not out.exists():
        aside.rename(out)
        return
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(out / path.name)
    aside.rmdir()


def largest_difference(run: Run, folder: Path, family: str) -> float | None:
    """The largest difference of outputs on random rows between the run's model and the folder opened with transformers, over the largest
    output: scores where the class has a head, else what its encoder gives. None without transformers."""
    try:
        import transformers
        from transformers import logging
    except ImportError:
        return None
    from ..convert._compare import largest_difference as compared
    from ..convert.hf import families

    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    known, verbosity = families()[family], logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a pooler that no objective trained is new in theirs, which is said at length
    try:
        theirs = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).to(run.device).eval()
    finally:
        logging.set_verbosity(verbosity)
    model = run.model
    was, held = model.training, model.compute_dtype
    model.eval()
    model.compute_dtype = torch.float32
    try:
        batch = {name: value.to(run.device) for name, value in random_rows(run).items()}
        return compared(model, theirs, batch, "encoder" if architecture == known.bare else known.outputs)
    finally:
        model.train(was)
        model.compute_dtype = held


def random_rows(run: Run, count: int = 2) -> dict[str, Tensor]:
    """Rows of what the model's embeddings read, drawn anew; texts end with the tokenizer's end, sounds have mean 0 and variance 1."""
    draw, fields, model = torch.Generator().manual_seed(0), run.fields(), run.model
    batch = {"rows": torch.arange(count), "key": run.key().cpu()}
    for tower in (model, *(model.towers.values() if model.towers is not None else ())):
        for name in getattr(tower.embedding, "reads", ()):
            if name == "tokens":
                batch |= _tokens(run, count, draw)
            elif name in fields:
                batch[name] = torch.randn(count, *fields[name].shape, generator=draw)
    if "waveform" in batch:
        sound = batch["waveform"] - batch["waveform"].mean(dim=1, keepdim=True)
        batch["waveform"] = sound / sound.square().mean(dim=1, keepdim=True).sqrt()
    return batch


def _tokens(run: Run, count: int, draw: torch.Generator) -> dict[str, Any]:
    length, vocabulary, end = min(64, run.section.data.sequence), int(run.tokenizer.vocabulary), int(run.tokenizer.end)
    tokens = torch.randint(0, vocabulary - 1, (count, length), generator=draw)
    tokens = tokens + (tokens >= end)  # the end stands at the end alone
    tokens[:, -1] = end
    return {"tokens": tokens}
