"""A rehearsal before the run: two real steps, a checkpoint, its loading and an evaluation on the recipe's tiny twin."""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ..core.errors import IngotError, Problem
from ..core.recipe import Recipe

STEPS = 2


def rehearse(tiny: Recipe) -> dict[str, Any]:
    """Train every stage of the twin for two steps, resume from the checkpoint, compare, evaluate.

    Returns seconds, steps, loss and problems (Problem, empty when all is well). Whatever goes wrong is a problem, never a traceback.
    """
    began = time.perf_counter()
    tree = copy.deepcopy(tiny.tree)
    tree["stages"] = [stage | {"budget": f"{STEPS} steps"} for stage in tree["stages"]]
    tree |= {"log": {"tensorboard": False}, "layout": "single", "name": "rehearsal", "compile": False}
    tree["evaluate"] = (tree.get("evaluate") or {}) | {"rows": 4, "prompts": []}
    shrunk = Recipe(tree, tiny.marks, set(), tiny.path)
    facts: dict[str, Any] = {"problems": [], "steps": 0}
    with tempfile.TemporaryDirectory(prefix="ingot-rehearsal-") as folder:
        try:
            facts |= _live_through(shrunk, Path(folder))
        except IngotError as error:
            facts["problems"] = getattr(error, "problems", None) or [Problem("rehearsal", str(error))]
        except Exception as error:
            first = str(error).splitlines()[0] if str(error) else ""
            facts["problems"] = [Problem("rehearsal", f"one step of the tiny twin fails: {type(error).__name__}: {first}")]
    return facts | {"seconds": time.perf_counter() - began}


def _live_through(recipe: Recipe, folder: Path) -> dict[str, Any]:
    from .program import averaged
    from .run import build, open_run

    run = build(recipe, runs=folder)
    summary = run.train()
    again = open_run(run.folder)
    with averaged(run.program.hooks, run.model):  # where a hook keeps an average, that is what a run is opened with
        kept = all(torch.equal(value, again.model.state_dict()[name]) for name, value in run.model.state_dict().items())
    problems = [] if kept else [Problem("rehearsal", "the weights that were loaded are not those that were saved")]
    offline = again.evaluate(rows=4)
    for source, result in (summary["evaluation"] or {}).items():
        if abs(offline[source]["loss"] - result["loss"]) > 1e-6 * max(1.0, abs(result["loss"])):
            problems.append(
                Problem(
                    "rehearsal", f"evaluating {source} again gives {offline[source]['loss']:.6f}, in the loop it was {result['loss']:.6f}"
                )
            )
    return {
        "problems": problems,
        "steps": summary["step"],
        "evaluation": offline,
        "bytes": sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()),
    }
