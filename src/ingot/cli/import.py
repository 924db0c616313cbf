"""Turn a Hugging Face folder into a run, ready to evaluate, sample from, or train on.

The run's recipe has the model's own shape and tokenizer. Its data is the Python library's source text, to be replaced by yours:
train another recipe with --from OUT. Pickled weights are refused, and no code from the folder is run.

$ ingot import hf:path/to/model runs/model
$ ingot generate runs/model 'Once upon a time'
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._output import Output

STARTS = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="hf:FOLDER", help="a Hugging Face folder, or a name on the hub")
    parser.add_argument("out", metavar="OUT", help="the run folder to make")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.run import build
    from ..build.session import prepare_folder
    from ..convert.hf import locate, read_folder
    from ..core.amounts import count
    from ..core.errors import UserError
    from ..core.recipe import Recipe

    if not arguments.source.startswith("hf:"):
        raise UserError(f"wants hf:FOLDER, got {arguments.source!r}")
    out = Path(arguments.out)
    if out.exists():
        raise UserError(f"{out} exists already; name another folder")
    folder = locate(arguments.source.removeprefix("hf:"))
    section, weights, tokenizer, extra = read_folder(folder)
    if tokenizer is None and extra["vocabulary"]:
        raise UserError(f"{folder}: holds no tokenizer.json")
    tree = recipe_tree(out.name, section, folder, extra)
    found = build(Recipe(tree), runs=out.parent)
    fresh = [name for name in found.model.state_dict() if name not in weights]
    if missing := [name for name in fresh if not name.startswith("objective.")]:
        raise UserError(f"{folder}: holds nothing for {missing[0]}")
    found.model.load_state_dict(weights, strict=False)
    found.parents = [{"kind": "hugging_face", "path": arguments.source.removeprefix("hf:")}]
    prepare_folder(found)
    checkpoint = found.program.save(found.state(), {})
    found.checkpoints.wait()
    output.print(f"{out}: {extra['family']}, {count(found.parameters())} parameters")
    if fresh:
        output.print(
            f"{arguments.source} has no {', '.join(fresh[:3])}{' …' * (len(fresh) > 3)}: what it lacks starts afresh, to be trained"
        )
    output.result({"run": str(out), "family": extra["family"], "parameters": found.parameters(), "checkpoint": str(checkpoint)})
    return 0


def recipe_tree(name: str, section: dict[str, Any], folder: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """A complete recipe around the model: data that every machine has, its tokenizer, a modest stage."""
    data = drawn_data(section)
    if extra["tokenizer"] is not None:
        data |= {"tokenizer": {"name": "pretrained", "path": str(folder.resolve())}, "sequence": min(int(extra["sequence"]), 1024)}
    texts = "holdout" in data
    return {
        "name": name,
        "data": data,
        "model": section | {"vocabulary": extra["vocabulary"]},
        "stages": [
            {
                "budget": "1M tokens",
                "batch": "16k tokens" if texts else "32 rows",
                "optimizer": {"name": "adamw", "lr": 1e-4},
                "schedule": {"lr": "cosine"},
            }
        ],
    }


def drawn_data(section: dict[str, Any]) -> dict[str, Any]:
    """The Python library's texts, or rows drawn from a seed, of what the embedding reads and of its sizes. Raises UserError where there
    are none."""
    from ..core.errors import UserError
    from ..core.parts import load

    embedding, objective = section["embedding"], section["objective"]
    reads = load("nn.embedding", embedding["name"]).reads[0]
    if reads == "tokens":
        return {"train": {"name": "python_library", "packages": ["json"]}, "holdout": 0.3}
    classes = {"classes": objective["classes"]} if objective.get("classes") else {}
    drawn: dict[str, dict[str, Any]] = {
        "image": {
            "name": "synthetic_images",
            "size": embedding.get("image"),
            "channels": embedding.get("channels"),
            "captions": bool(section.get("towers")),
        }
        | classes,
        "series": {
            "name": "synthetic_series",
            "look_back": embedding.get("length"),
            "channels": embedding.get("channels"),
            "horizon": objective.get("horizon", 0),
        },
        "waveform": {"name": "synthetic_audio", "rate": 16000, "seconds": 1.0, "transcripts": objective["name"] == "ctc"},
    }
    if reads not in drawn:
        raise UserError(f"there is no drawn data of {reads}; train a recipe of yours with --from this folder")
    source = drawn[reads]
    return {"train": source, "validation": source | {"count": 64, "seed": 1}}
