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
    tree = recipe_tree(out.name, section | {"vocabulary": extra["vocabulary"]}, folder, int(extra["sequence"]))
    if not extra["vocabulary"]:
        tree = tree | {"data": drawn_data(section), "stages": [tree["stages"][0] | {"batch": "32 rows"}]}
    found = build(Recipe(tree), runs=out.parent)
    found.model.load_state_dict(weights)
    found.parents = [{"kind": "hugging_face", "path": arguments.source.removeprefix("hf:")}]
    prepare_folder(found)
    checkpoint = found.program.save(found.state(), {})
    found.checkpoints.wait()
    output.print(f"{out}: {extra['family']}, {count(found.parameters())} parameters")
    output.result({"run": str(out), "family": extra["family"], "parameters": found.parameters(), "checkpoint": str(checkpoint)})
    return 0


def drawn_data(section: dict[str, Any]) -> dict[str, Any]:
    """Pictures drawn from a seed, of the size and with the classes that the model knows."""
    embedding, classes = section["embedding"], section["objective"].get("classes")
    source = {"name": "synthetic_images", "size": embedding["image"], "channels": embedding["channels"]} | (
        {"classes": classes} if classes else {}
    )
    return {"train": source, "validation": source | {"count": 64, "seed": 1}}


def recipe_tree(name: str, section: dict[str, Any], folder: Path, sequence: int) -> dict[str, Any]:
    """A complete recipe around the model: its tokenizer, data that every machine has, a modest stage."""
    return {
        "name": name,
        "data": {
            "train": {"name": "python_library", "packages": ["json"]},
            "holdout": 0.3,
            "tokenizer": {"name": "pretrained", "path": str(folder.resolve())},
            "sequence": min(sequence, 1024),
        },
        "model": section,
        "stages": [
            {"budget": "1M tokens", "batch": "16k tokens", "optimizer": {"name": "adamw", "lr": 1e-4}, "schedule": {"lr": "cosine"}}
        ],
    }
