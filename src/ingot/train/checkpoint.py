"""Checkpoints: written aside, hashed, renamed; kept or dropped by rule; loaded only when whole.

checkpoints/step-00000100/manifest.json                 hashes, progress, recipe, parents, plain values
checkpoints/step-00000100/shard-00000.safetensors       tensors; any number of ranks may load them
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from ..core.amounts import size
from ..core.atomic import sync_folder
from ..core.errors import IngotError, Problem, RunError, UserError
from ..core.folders import CHECKPOINT, checkpoints
from ..core.quantities import Quantity
from ..core.version import installed_version
from .state import Shape, State, model_tensors
from .storage import (
    DTYPES,
    Damaged,
    Manifest,
    ShardReader,
    ShardWriter,
    TensorLoader,
    TensorSaver,
    one_line,
    read_manifest,
    verify_file,
)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
SLACK = 4 * 1024**2
# A run of one process needs no process group; torch warns of it at every save and load.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class Checkpoints:
    """The checkpoints of one run. Without a process group, or told to, it works alone; else every method that writes or loads is collective.

    keep_last: the newest ones, at least 1. keep_best: those with the lowest `best` among their metrics, where objective and data are the
    newest one's: others measured something else. keep_every: one for each such amount of the run's steps, rows, tokens, flops or seconds.
    asynchronous: training goes on while a copy is written; errors then surface at the next save or wait(). say: receives one-line messages
    for the user, on rank 0.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int = 2,
        keep_best: int = 0,
        keep_every: Quantity | None = None,
        asynchronous: bool = False,
        best: str = "loss",
        layout: str = "",
        alone: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if keep_every is not None and keep_every.unit not in ("steps", "rows", "tokens", "flops", "seconds"):
            raise UserError([Problem("checkpoint.keep_every", f"wants an amount of the whole run such as '1000 steps', got {keep_every}")])
        self.folder = Path(folder)
        self.keep_last, self.keep_best, self.keep_every, self.best = max(1, keep_last), keep_best, keep_every, best
        self.asynchronous, self.layout, self.say = asynchronous, layout, say or (lambda text: None)
        self.alone = alone
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._group: Any = None
        self._tidied = False
        self._whole: dict[Path, Manifest] = {}

    @property
    def rank(self) -> int:
        return 0 if self.alone else _rank()

    @property
    def ranks(self) -> int:
        return 1 if self.alone else _ranks()

    # -- writing -------------------------------------------------------------------------------------------------------------

    def save(
        self,
        state: State,
        *,
        recipe_hash: str,
        recipe: Mapping[str, Any],
        parents: Sequence[Mapping[str, Any]] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> Path:
        """Write the state as ``step-<total steps>`` and return its path; asynchronously, the path it will have.

        Raises RunError, with earlier checkpoints untouched, when there is no room or the folder cannot be written.
        """
        self.wait()
        self.tidy()
        final = self.folder / f"step-{state.progress.total_steps:08d}"
        body = json.loads(
            json.dumps(
                {
                    "format": 1,
                    "ingot": installed_version(),
                    "torch": torch.__version__,
                    "time": time.time(),
                    "layout": self.layout,
                    "ranks": self.ranks,
                    "progress": state.progress.as_dict(),
                    "recipe_hash": recipe_hash,
                    "recipe": dict(recipe),
                    "parents": [dict(parent) for parent in parents],
                    "lineage": state.lineage,
                    "metrics": {name: float(value) for name, value in (metrics or {}).items()},
                    "plain": state.plain(),
                }
            )
        )
        tensors, needed = state.tensors(), self.bytes_needed(state)
        if self.asynchronous:
            if dist.is_initialized() and self._group is None:
                # Its own group: sharing the default one with the training's collectives deadlocks.
                self._group = dist.new_group(backend="gloo")
            copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            self._thread = threading.Thread(target=self._write_behind, args=(copies, final, body, needed), name="checkpoint")
            self._thread.start()
        else:
            self._write(tensors, final, body, needed)
        return final

    def wait(self) -> None:
        """Let a checkpoint that is being written finish. Raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def bytes_needed(self, state: State) -> int:
        """A forecast of one checkpoint's size on disk."""
        return state.bytes_expected() + SLACK

    def check_room(self, state: State) -> None:
        """Before the start: raise RunError if the disk cannot take as many checkpoints as are held at once (those kept, and one being written)."""
        needed, held = self.bytes_needed(state), len(self.all())
        copies = max(1, self.keep_last + self.keep_best + 1 - held)
        free = _free(self.folder)
        if free < needed * copies:
            raise RunError(
                f"{self.folder} needs {size(needed * copies)} for {copies} checkpoints of {size(needed)}, but {size(free)} are free"
            )

    def _write_behind(self, tensors: dict[str, Tensor], final: Path, body: dict[str, Any], needed: int) -> None:
        try:
            self._write(tensors, final, body, needed)
        except BaseException as error:
            self._failure = error

    def _write(self, tensors: dict[str, Tensor], final: Path, body: dict[str, Any], needed: int) -> None:
        aside = self.folder / f".{final.name}.tmp-{os.getpid()}"

        def room() -> None:
            if (free := _free(self.folder)) < needed:
                raise OSError(errno.ENOSPC, f"{size(needed)} needed, {size(free)} free")

        try:
            save_tensors(tensors, storage_writer=ShardWriter(final, aside, body, room), planner=TensorSaver(), process_group=self._group)
        except CheckpointException as error:
            free = _free(self.folder)
            if self.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            _explain(error, final, needed, free)
        self._whole.pop(final, None)
        if self.rank == 0:
            self._drop_old(final)

    def _drop_old(self, newest: Path) -> None:
        """Apply the rules of retention; a checkpoint that cannot be read is left alone, since it says nothing about itself."""
        known: dict[Path, Manifest] = {}
        for path in self.all():
            try:
                known[path] = read_manifest(path)
            except Damaged:
                continue
        keep = {newest, *list(known)[-self.keep_last :]}
        alike = [path for path, manifest in known.items() if newest in known and _measured(manifest) == _measured(known[newest])]
        scored = [path for path in alike if math.isfinite(known[path].metrics.get(self.best, math.nan))]
        keep |= set(sorted(scored, key=lambda path: known[path].metrics[self.best])[: self.keep_best])
        passed = 0
        for path, manifest in known.items():
            if self.keep_every is not None and self.keep_every.value > 0:
                reached = int(manifest.progress[f"total_{self.keep_every.unit}"] / self.keep_every.value)
                keep |= {path} if reached > passed else set()
                passed = reached
        for path in known:
            if path not in keep:
                doomed = path.with_name(f".{path.name}.gone")
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                self._whole.pop(path, None)
        sync_folder(self.folder)

    def tidy(self) -> None:
        """Once, and before the newest is looked for: remove what processes that were killed left behind, and bring back a checkpoint whose
        replacement never arrived. For who trains in the folder alone."""
        if self._tidied or self.rank != 0:
            return
        self._tidied = True
        for path in sorted(self.folder.glob(".step-*")):
            name, _, kind = path.name[1:].rpartition(".")
            if kind == "old" and CHECKPOINT.fullmatch(name) and not (self.folder / name).exists():
                path.rename(self.folder / name)
            elif path.is_dir() and not path.is_symlink() and (kind in ("old", "gone") or kind.startswith("tmp-")):
                shutil.rmtree(path, ignore_errors=True)

    # -- finding and reading -----------------------------------------------------------------------------------------------------

    def all(self) -> list[Path]:
        """Every checkpoint folder, oldest first; links and folders in the making are not among them."""
        return checkpoints(self.folder)

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole, hashes included; None when there is none at all.

        Says which file of a newer one is damaged. Raises RunError when there are checkpoints but none is whole.
        """
        self.wait()
        answer: Any = None
        if self.rank == 0:
            answer = self._find_latest()
        if self.ranks > 1:
            box = [answer]
            dist.broadcast_object_list(box, src=0)
            answer = box[0]
        if isinstance(answer, IngotError):
            raise answer
        return None if answer is None else Path(answer)

    def _find_latest(self) -> str | RunError | None:
        damaged: list[str] = []
        for path in reversed(self.all()):
            try:
                self._verify(path)
            except Damaged as error:
                damaged.append(str(error))
                continue
            for line in damaged:
                self.say(f"{line}; going on from {path.name}")
            return str(path)
        return RunError(f"no checkpoint in {self.folder} is whole: {damaged[0]}") if damaged else None

    def is_whole(self, path: Path) -> bool:
        """Whether a checkpoint's files are as it states; says which is not."""
        try:
            self._verify(path)
        except Damaged as error:
            self.say(str(error))
            return False
        return True

    def manifest(self, path: str | Path) -> dict[str, Any]:
        """What a checkpoint says about itself, as plain data. Raises UserError where there is none, RunError when it is damaged."""
        return self._manifest(Path(path)).model_dump()

    def load(self, state: State, path: str | Path) -> None:
        """Put a checkpoint into the state, whatever number of ranks wrote it.

        Raises UserError naming the first differences when the state is not of the same make (names, shapes, dtypes), RunError
        when a file is damaged; the state is then unchanged.
        """
        self.wait()
        path = Path(path)
        manifest = self._verified(path)
        stored = _stored(manifest, path)
        _match(model_tensors(state.model), {name: shape for name, shape in stored.items() if name.startswith("model.")}, path)
        try:
            targets = state.receivers(stored, manifest.plain)
            _match(targets, stored, path)
            self._read(targets, path, manifest)
            state.restore(targets, manifest.plain, manifest.progress, manifest.lineage)
        except UserError as error:
            raise error if str(path) in str(error) else UserError(f"{path} does not fit this run: {error}") from None
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise Damaged(f"{path} is damaged: the state it holds cannot be put back ({type(error).__name__}: {error})") from error

    def load_model(self, model: nn.Module, path: str | Path, children: Collection[str] | None = None) -> None:
        """Put only the weights of a checkpoint into a model. children: only these of the model, whatever else either has. Raises as load does."""
        self.wait()
        path = Path(path)
        manifest = self._verified(path)
        starts = ("model.",) if children is None else tuple(f"model.{name}." for name in children)
        targets = {name: tensor for name, tensor in model_tensors(model).items() if name.startswith(starts)}
        _match(targets, {name: shape for name, shape in _stored(manifest, path).items() if name.startswith(starts)}, path)
        self._read(targets, path, manifest)

    def load_average(self, model: nn.Module, path: str | Path, hooks: Collection[str]) -> str:
        """Put the average that one of these hooks keeps of the weights into a model; the hook's name, or nothing where none keeps one."""
        path = Path(path)
        manifest = self._verified(path)
        stored, weights = _stored(manifest, path), dict(model.named_parameters())
        for hook in hooks:
            targets: dict[str, Tensor] = {f"hook.{hook}.average.{name}": weight for name, weight in weights.items()}
            if targets.keys() <= stored.keys():
                self._read(targets, path, manifest)
                return hook
        return ""

    def _read(self, targets: dict[str, Tensor], path: Path, manifest: Manifest) -> None:
        try:
            with torch.no_grad():
                load_tensors(dict(targets), storage_reader=ShardReader(path, manifest), planner=TensorLoader(), no_dist=self.alone)
        except CheckpointException as error:
            raise _first(error) from error

    def _manifest(self, path: Path) -> Manifest:
        if path in self._whole:
            return self._whole[path]
        if not path.is_dir():
            raise UserError(f"no checkpoint at {path}")
        return read_manifest(path)

    def _verify(self, path: Path, share: tuple[int, int] = (0, 1)) -> Manifest:
        """The manifest of a checkpoint whose files (or every share[1]-th of them, from share[0]) have the lengths and hashes it states."""
        manifest = self._manifest(path)
        if path not in self._whole:
            for name, entry in sorted(manifest.files.items())[share[0] :: share[1]]:
                verify_file(path / name, entry)
            if share == (0, 1):
                self._whole[path] = manifest
        return manifest

    def _verified(self, path: Path) -> Manifest:
        """As _verify, the files shared out over ranks; every rank learns of any damage."""
        found: Any = None
        try:
            found = self._verify(path, (self.rank, self.ranks))
            problem = None
        except IngotError as error:
            problem = error
        if self.ranks > 1:
            problems: list[Any] = [None] * self.ranks
            dist.all_gather_object(problems, problem and (type(problem).__name__, str(problem)))
            first = next((item for item in problems if item), None)
            if first is not None and problem is None:
                problem = RunError(first[1]) if first[0] != "UserError" else UserError(first[1])
        if problem is not None:
            raise problem
        assert isinstance(found, Manifest)
        return found


def read_tensors(path: str | Path, prefix: str = "model.") -> dict[str, Tensor]:
    """Whole tensors of a checkpoint on the CPU, for one process without a model: names with the prefix, which is taken off.

    Raises UserError where there is no checkpoint, RunError when a file is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}")
    manifest = read_manifest(path)
    for name, entry in manifest.files.items():
        verify_file(path / name, entry)
    # Verified pieces lie in files of known length, so no shape here can ask for more memory than there is data.
    targets = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in _stored(manifest, path).items() if name.startswith(prefix)}
    try:
        load_tensors(dict(targets), storage_reader=ShardReader(path, manifest), planner=TensorLoader(), no_dist=True)
    except CheckpointException as error:
        raise _first(error) from error
    return {name.removeprefix(prefix): tensor for name, tensor in targets.items()}


def _measured(manifest: Manifest) -> tuple[Any, Any]:
    """What a checkpoint's metrics are of: the objective and the data of its stage, which may be the recipe's own."""
    given, model = manifest.recipe.get("stages"), manifest.recipe.get("model")
    stages = [stage for stage in given if isinstance(stage, dict)][: manifest.progress["stage"] + 1] if isinstance(given, list) else []
    objective, data = model.get("objective") if isinstance(model, dict) else None, manifest.recipe.get("data")
    for stage in stages:
        objective = objective if stage.get("objective") is None else stage["objective"]
    return objective, data if not stages or stages[-1].get("data") is None else stages[-1]["data"]


def _stored(manifest: Manifest, path: Path) -> dict[str, Shape]:
    """Dtype and shape of every tensor; together they cannot be larger than the files that hold them."""
    found = {name: (DTYPES[entry.dtype], tuple(entry.shape)) for name, entry in manifest.tensors.items()}
    claimed = sum(dtype.itemsize * math.prod(shape) for dtype, shape in found.values())
    if claimed > sum(entry.bytes for entry in manifest.files.values()):
        raise Damaged(f"{path} is damaged: its tensors are larger than its files")
    return found


def _match(live: Mapping[str, Tensor], stored: Mapping[str, Shape], path: Path) -> None:
    """Raise UserError with the first differences between what a run holds and what a checkpoint holds."""
    lines = [f"{name} is in the checkpoint but not in this run" for name in stored if name not in live]
    lines += [f"{name} is in this run but not in the checkpoint" for name in live if name not in stored]
    for name in stored:
        if name in live:
            mine = (live[name].dtype, tuple(live[name].shape))
            if mine != stored[name]:
                lines.append(f"{name} is {_shape(stored[name])} in the checkpoint, {_shape(mine)} in this run")
    if lines:
        more = f" ({len(lines) - 3} more differences)" if len(lines) > 3 else ""
        raise UserError(f"{path} does not fit this run: {'; '.join(one_line(line)[:300] for line in lines[:3])}{more}")


def _shape(shape: Shape) -> str:
    return f"{str(shape[0]).removeprefix('torch.')} {'x'.join(map(str, shape[1])) or 'scalar'}"


def _first(error: CheckpointException) -> BaseException:
    """The failure of the lowest rank."""
    failures: dict[int, Any] = error.failures
    return next((failures[rank][0] for rank in sorted(failures)), error)


def _explain(error: CheckpointException, final: Path, needed: int, free: int) -> NoReturn:
    """Turn what the operating system said into one line."""
    cause = _first(error)
    if isinstance(cause, OSError) and cause.errno in FULL:
        raise RunError(f"no room for {final}: it needs {size(needed)}, {size(free)} are free; earlier checkpoints are whole") from error
    if isinstance(cause, OSError) and cause.errno in FORBIDDEN:
        raise RunError(f"cannot write {final}: {cause.strerror}") from error
    if isinstance(cause, OSError):
        raise RunError(f"cannot write {final}: {cause.strerror or cause}; earlier checkpoints are whole") from error
    raise cause from error


def _free(folder: Path) -> int:
    """Bytes free on the disk of a folder that may not exist yet."""
    there = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), Path("/"))
    return shutil.disk_usage(there).free


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _grouped() else 0


def _ranks() -> int:
    return dist.get_world_size() if _grouped() else 1
