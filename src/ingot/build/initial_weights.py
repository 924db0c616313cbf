"""Starting from what is there: weights of a run, one of its checkpoints or a Hugging Face folder; a tokenizer. Lineage is kept."""

from __future__ import annotations

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.atomic import one_line_of
from ..core.errors import UserError
from ..core.folders import run_and_checkpoint
from ..core.parts import Spec, parts_in, signature
from ..core.recipe import Recipe, merge_keys
from ..core.resolve import spec

if TYPE_CHECKING:
    from .run import Run


def adopt(recipe: Recipe, source: str, begun: Recipe | None = None) -> list[str]:
    """For ``hf:FOLDER``: the folder's model, and its tokenizer, take the place of the recipe's own; what the command line set stays.

    Returns lines that say what was taken over. begun: the recipe of the run that is gone on with, which has them where the folder is gone.
    """
    from ..convert.hf import locate, read_section

    try:
        folder = locate(source.removeprefix("hf:"))
        section, extra = read_section(folder)
    except UserError:
        if begun is None:
            raise
        return _adopt_again(recipe, begun)
    _take_model(recipe, section | {"vocabulary": extra["vocabulary"]})
    said = [f"model: {extra['family']} from {source}"]
    data = recipe.tree.setdefault("data", {})
    if extra["tokenizer"] is not None and ("data", "tokenizer") not in recipe.overridden:
        data["tokenizer"] = {"name": "pretrained", "path": str(folder)}
        said.append(f"tokenizer: {folder}")
    if isinstance(data.get("sequence"), int) and data["sequence"] > extra["sequence"]:
        data["sequence"] = extra["sequence"]
        said.append(f"sequence: {extra['sequence']}, the longest this model knows")
    return said


def _adopt_again(recipe: Recipe, begun: Recipe) -> list[str]:
    """What a run that has begun took from its folder; whether it is the run that is meant is seen where recipes are compared."""
    _take_model(recipe, copy.deepcopy(begun.tree["model"]))
    data, before = recipe.tree.setdefault("data", {}), begun.tree["data"]
    if ("data", "tokenizer") not in recipe.overridden:
        data["tokenizer"] = copy.deepcopy(before["tokenizer"])
    if isinstance(data.get("sequence"), int) and ("data", "sequence") not in recipe.overridden:
        data["sequence"] = min(data["sequence"], before["sequence"])
    return []


def _take_model(recipe: Recipe, section: dict[str, Any]) -> None:
    """Put a model section in the place of the recipe's; what the command line set of it stays."""
    by_hand = {keys: value for keys in recipe.overridden if keys[0] == "model" and (value := _at(recipe.tree, keys)) is not None}
    recipe.tree["model"] = section
    for keys, value in by_hand.items():
        patch: Any = value
        for word in reversed(keys):
            patch = {word: patch}
        recipe.tree = merge_keys(recipe.tree, patch)


def _at(tree: Any, keys: tuple[str | int, ...]) -> Any:
    for word in keys:
        tree = tree.get(word) if isinstance(tree, dict) else None
    return tree


def adopt_tokenizer(recipe: Recipe, tokenizer: Any) -> None:
    """Put a tokenizer in the place of the recipe's own, so that the recipe, and with it the run, names it.

    tokenizer: a part's name, its knobs, a tokenizer.json or its folder; or a live object: one of Ingot's, of ``tokenizers``, or a fast
    one of transformers. A live one is kept under the data's cache, in a folder named by its content. Raises UserError for anything else.
    """
    data = recipe.tree.setdefault("data", {})
    data["tokenizer"] = _named(tokenizer, Path(data.get("cache") or ".ingot").expanduser() / "tokenizers")
    recipe.overridden.add(("data", "tokenizer"))


def _named(tokenizer: Any, cache: Path) -> Any:
    if isinstance(tokenizer, Spec):
        return tokenizer.data()
    if isinstance(tokenizer, dict) or (isinstance(tokenizer, str) and tokenizer in parts_in("data.tokenizer")):
        return tokenizer
    if isinstance(tokenizer, str | Path):
        return {"name": "pretrained", "path": str(tokenizer)}
    save = next((found for name in ("save_pretrained", "save") if (found := getattr(tokenizer, name, None)) is not None), None)
    if save is None:
        raise UserError(
            f"tokenizer: wants a part of data.tokenizer, a path, or a tokenizer that can be saved, got a {type(tokenizer).__name__}"
        )
    with one_line_of(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            here = Path(aside) / "made"
            here.mkdir()
            save(str(here / "tokenizer.json") if hasattr(tokenizer, "to_str") else here)
            if not (here / "tokenizer.json").is_file():
                raise UserError(f"tokenizer: a {type(tokenizer).__name__} leaves no tokenizer.json; take the fast kind")
            content = hashlib.sha256(
                b"".join(path.name.encode() + path.read_bytes() for path in sorted(here.iterdir()) if path.is_file())
            ).hexdigest()[:16]
            if not (cache / content).exists():
                shutil.move(here, cache / content)
    return {"name": "pretrained", "path": str(cache / content)}


def _shared(run: Run, model: Any, manifest: dict[str, Any], path: Path) -> list[str] | None:
    """The children of the model that can start as a checkpoint's where its objective is another: all but the objective, which starts
    afresh. What the checkpoint has beside them, such as the decoder of a masked one, stays behind. None where the objective is the same
    part."""
    there = manifest["recipe"]
    if "model" not in there:
        return None
    stages = there["stages"][: manifest["progress"]["stage"] + 1]
    objective = next((stage["objective"] for stage in reversed(stages) if stage.get("objective")), there["model"]["objective"])
    if objective["name"] == run.objective_spec.name:
        return None
    run.initializer.apply(model, seed=run.section.seed)
    found = [name for name, child in model.named_children() if name != "objective"]
    run.messages.append(
        f"{path}: {', '.join(found)} start as they are there; {run.objective_spec.name} starts afresh, not as {objective['name']}"
    )
    return found


def same_ids(run: Run, folder: Path, own: dict[str, Any] | None) -> None:
    """Raises UserError where the run at `folder`, whose recipe has this tokenizer, was trained on other token ids than this one reads."""
    if run.tokenizer is None:
        return
    kept, theirs = folder / "tokenizer", set()
    if (kept / "tokenizer.json").is_file():
        theirs.add(spec("data.tokenizer", "pretrained", path=str(kept.resolve())).build(folder=Path.cwd()).identity)
    if own is not None and not signature((made := spec("data.tokenizer", **own)).target).wiring:
        theirs.add(made.build().identity)  # such as bytes, which need no file
    if theirs and run.tokenizer.identity not in theirs:
        to_set = f"name=pretrained data.tokenizer.path={kept}" if kept.is_dir() else f"name={own and own['name']}"
        raise UserError(f"{folder} reads the ids of another tokenizer; set data.tokenizer.{to_set}")


def load_start(run: Run, model: Any, source: str) -> list[dict[str, Any]]:
    """Fill the model's weights from `source`; returns the parents for the lineage. UserError names what does not fit."""
    if source.startswith("hf:"):
        return _from_hugging_face(run, model, source.removeprefix("hf:"))
    return _from_checkpoint(run, model, Path(source))


def _from_hugging_face(run: Run, model: Any, folder: str) -> list[dict[str, Any]]:
    from ..convert.hf import load_into, locate

    run.initializer.apply(model, seed=run.section.seed)  # what the folder does not hold, such as another objective's head
    if left := load_into(model, run.resolved["model"], locate(folder)):
        more = f" and {len(left) - 2} more" if len(left) > 2 else ""
        run.messages.append(f"hf:{folder} has nothing for {' and '.join(left[:2])}{more}, which start{'s' * (len(left) == 1)} afresh")
    return [{"kind": "hugging_face", "path": str(folder)}]


def checkpoint_at(path: Path, say: Callable[[str], None] = lambda text: None) -> Path:
    """The checkpoint that a path names: itself, or a run's newest whole one. Raises UserError where there is none."""
    from ..train.checkpoint import Checkpoints

    path = run_and_checkpoint(path)[1] or path
    if (path / "checkpoints").is_dir():
        found = Checkpoints(path / "checkpoints", say=say).latest()
        if found is None:
            raise UserError(f"the run {path} has no whole checkpoint")
        return found
    if not (path / "manifest.json").is_file():
        raise UserError(f"nothing to start from at {path}: it is neither a run, nor a checkpoint, nor hf:FOLDER")
    return path


def _from_checkpoint(run: Run, model: Any, path: Path) -> list[dict[str, Any]]:
    from ..train.checkpoint import Checkpoints

    path = checkpoint_at(path, run.messages.append)
    store = Checkpoints(path.parent)
    try:
        store.load_model(model, path)
        run.objective_started = True
    except UserError:
        if (children := _shared(run, model, store.manifest(path), path)) is None:
            raise
        store.load_model(model, path, children)
    manifest = store.manifest(path)
    same_ids(run, path.parent.parent, manifest["recipe"].get("data", {}).get("tokenizer"))
    if hasattr(model.objective, "output_scale"):
        model.objective.output_scale = run.initializer.output_scale(run.graph.width)
    return [
        {
            "kind": "checkpoint",
            "path": str(path),
            "recipe_hash": manifest.get("recipe_hash"),
            "step": manifest["progress"]["total_steps"],
            "parents": manifest.get("parents", []),
        }
    ]
