"""Prepare a recipe's data, once: documents to stores of tokens.

What is prepared already is not done again. Training prepares by itself; preparing first keeps it out of a job with many ranks, and may be
interrupted at any time.

$ ingot prepare recipes/text/gpt_tiny.yaml
$ ingot prepare recipes/text/gpt_tiny.yaml --tiny --json
"""

from __future__ import annotations

import argparse
from typing import Any

from . import _recipe
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.check import resolve_run
    from ..build.run import Run
    from ..ops.memory import keep_freed_memory

    keep_freed_memory()
    found = Run(resolve_run(_recipe.read(arguments)), _recipe.NOWHERE, echo=None if output.json else output.note)
    answers: list[dict[str, Any]] = []
    for index in range(len(found.section.stages)):
        if found.data_index(index) != index:
            continue
        data = found.data_of(index)
        answers += [_described(index, "train", "train", data.train)]
        answers += [_described(index, "validation", name, stream) for name, stream in data.validation.items()]
    output.table(
        ("data", "source", "stage", "rows in an epoch"),
        [(one["use"], one["source"], one["stage"], f"{one['rows']:,}") for one in answers],
        words=2,
    )
    for one in answers:
        for source, words in one.get("padding", {}).items():
            output.print(f"{source}: {words}")
    output.result({"cache": found.section.data.cache, "vocabulary": getattr(found.tokenizer, "vocabulary", None), "stores": answers})
    return 0


def _described(stage: int, use: str, name: str, stream: Any) -> dict[str, Any]:
    return {"stage": stage, "use": use, "source": name, "rows": int(stream.rows_per_epoch)} | (
        {"padding": found} if (found := stream.padding()) else {}
    )
