"""Tell where a checkpoint comes from.

Its recipe, what it was started from, and what that was started from.

$ ingot lineage runs/gpt_tiny
$ ingot lineage runs/gpt_tiny/checkpoints/step-00000100
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.amounts import count, duration
from ..core.folders import checkpoints, run_and_checkpoint
from ..ledger.lineage import described
from . import _run
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    _run.configure(parser)


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError

    folder, checkpoint = run_and_checkpoint(arguments.run)
    checkpoint = checkpoint or next(reversed(checkpoints(folder / "checkpoints")), None)
    if checkpoint is None:
        raise UserError(f"no run or checkpoint at {folder}")
    manifest = _manifest(checkpoint)
    output.print(*_lines(checkpoint, manifest))
    output.result(
        {
            "checkpoint": str(checkpoint),
            **{key: manifest.get(key) for key in ("recipe_hash", "progress", "parents", "lineage", "metrics", "ingot", "torch")},
        }
    )
    return 0


def _manifest(checkpoint: Path) -> dict[str, Any]:
    from ..core.errors import RunError, UserError

    try:
        manifest: dict[str, Any] = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["manifest"]
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {checkpoint}: it has no manifest.json") from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{checkpoint}/manifest.json is damaged") from None
    return manifest


def _lines(checkpoint: Path, manifest: dict[str, Any]) -> Iterator[str]:
    progress = manifest.get("progress", {})
    yield str(checkpoint)
    yield (
        f"  {progress.get('total_steps', 0)} steps, {count(progress.get('total_tokens', 0))} tokens, "
        f"{count(progress.get('total_flops', 0), 'FLOP')}, {duration(progress.get('total_seconds', 0.0))}"
    )
    yield f"  recipe {str(manifest.get('recipe_hash', '?'))[:12]}"
    for line in manifest.get("lineage", []):
        if line.get("kind") == "transform":
            yield f"  step {line.get('step')}: {described(line)}"
    yield from _ancestors(manifest.get("parents", []), 1)


def _ancestors(parents: list[dict[str, Any]], depth: int) -> Iterator[str]:
    if not parents and depth == 1:
        yield "  from random initial weights"
    for parent in parents:
        facts = [f"step {parent.get('step')}"] * ("step" in parent) + [f"recipe {str(parent.get('recipe_hash'))[:12]}"] * bool(
            parent.get("recipe_hash")
        )
        if "budget" in parent:
            facts.append(f"budget {' -> '.join(map(str, parent['budget']))}")
        if "rewarm" in parent:
            facts.append(f"a new warm-up of {parent['rewarm']}")
        kind = str(parent.get("kind", "checkpoint")).replace("_", " ")
        yield f"{'  ' * depth}from {kind} {parent.get('path', '?')}" + (f"  ({', '.join(facts)})" if facts else "")
        yield from _ancestors(parent.get("parents", []), depth + 1)
