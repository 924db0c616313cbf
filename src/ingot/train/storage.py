"""Safetensors and JSON under torch.distributed.checkpoint: a writer, a reader, and the manifest that binds them.

A checkpoint folder holds ``shard-00000.safetensors``, one per rank that had something to write, and ``manifest.json``: hashes of
every shard, where each piece of each tensor lies, and everything that is not a tensor. Torch's own default reader unpickles its
metadata; nothing here does, and no file that the manifest does not name is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from ..core.atomic import flush, sync_folder
from ..core.errors import RunError

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 512 * 1024**2
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Count = Annotated[int, Field(ge=0, le=2**62)]
ShardName = Annotated[str, Field(pattern=r"^shard-[0-9]{5}\.safetensors$")]


class Damaged(RunError):
    """A checkpoint that is not whole; the message names the file and what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Words from a file that may be hostile, fit to be shown: one line of printable characters, not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:900]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Piece(_Strict):
    """A box of a tensor, and the shard that holds it under the tensor's name."""

    file: ShardName
    offsets: list[Count]
    sizes: list[Count]


class TensorEntry(_Strict):
    """A whole tensor: safetensors' name of its dtype, its global shape, its pieces (none where it has no elements)."""

    dtype: str
    shape: list[Count]
    pieces: list[Piece]


class FileEntry(_Strict):
    """A shard's length and content hash."""

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(_Strict):
    """manifest.json: what a checkpoint holds and where it comes from. plain: everything of the state that is not a tensor."""

    format: Annotated[int, Field(ge=1, le=1)]
    ingot: str
    torch: str
    time: float
    layout: str
    ranks: Count
    progress: dict[str, Any]
    recipe_hash: str
    recipe: dict[str, Any]
    parents: list[dict[str, Any]]
    lineage: list[dict[str, Any]]
    metrics: dict[str, float]
    plain: dict[str, Any]
    files: dict[ShardName, FileEntry]
    tensors: dict[str, TensorEntry]


# -- writing -----------------------------------------------------------------------------------------------------------------


def write_shard(path: Path, tensors: list[tuple[str, Tensor]]) -> FileEntry:
    """Write a safetensors file and flush it to disk; hashes on the way, and holds one tensor's copy at a time. Raises OSError."""
    tensors = sorted(tensors, key=lambda item: -item[1].element_size())  # the widest first keeps every tensor aligned
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors:
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, length = hashlib.sha256(), 0
    blocks: Iterable[bytes | memoryview] = chain((len(text).to_bytes(8, "little"), text), map(_bytes_of, tensors))
    with open(path, "xb") as file:
        for data in blocks:
            digest.update(data)
            length += file.write(data)
        flush(file)
    return FileEntry(bytes=length, sha256=digest.hexdigest())


def _bytes_of(named: tuple[str, Tensor]) -> bytes | memoryview:
    flat = named[1].detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json with its own hash, and flush it and the folder to disk. Raises OSError."""
    text = json.dumps({"sha256": _digest(manifest), "manifest": manifest}, indent=1)
    with open(folder / MANIFEST, "x", encoding="utf-8") as file:
        file.write(text)
        flush(file)
    sync_folder(folder)


def _digest(manifest: Any) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class ShardWriter(StorageWriter):
    """Writes into `aside`, and moves it to `final` once every rank's shard and the manifest are on disk.

    body: the manifest without files and tensors. room: called on rank 0 before anything is written; may raise.
    """

    def __init__(self, final: Path, aside: Path, body: dict[str, Any], room: Callable[[], None]) -> None:
        self.final, self.aside, self.body, self.room = final, aside, body, room

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between checkpoints."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            self.room()
            self.aside.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(plan, storage_data=(str(self.aside), index)) for index, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        folder, index = plan.storage_data
        name = f"shard-{index:05d}.safetensors"
        items = [item for item in plan.items if item.tensor_data is not None and math.prod(item.tensor_data.chunk.sizes) > 0]
        tensors = []
        for item in items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor) and item.tensor_data is not None
            tensors.append((item.index.fqn, tensor.reshape(item.tensor_data.chunk.sizes)))
        if len({key for key, _ in tensors}) < len(tensors):
            raise NotImplementedError("a rank holds several separate pieces of one tensor, which a shard cannot name")
        results: list[WriteResult] = []
        if items:
            entry = write_shard(Path(folder) / name, tensors)
            results = [WriteResult(item.index, entry.bytes, (name, entry.bytes, entry.sha256)) for item in items]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: dict[str, Any] = {}
        holder: dict[MetadataIndex, str] = {}
        for result in (item for rank in results for item in rank):
            name, length, sha256 = result.storage_data
            files[name] = {"bytes": length, "sha256": sha256}
            holder[result.index] = name
        tensors = {}
        for key, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata)
            pieces = [(holder.get(MetadataIndex(key, chunk.offsets)), chunk) for chunk in entry.chunks if math.prod(chunk.sizes) > 0]
            tensors[key] = {
                "dtype": NAMES[entry.properties.dtype],
                "shape": list(entry.size),
                "pieces": [{"file": file, "offsets": list(chunk.offsets), "sizes": list(chunk.sizes)} for file, chunk in pieces],
            }
        write_manifest(self.aside, self.body | {"files": files, "tensors": tensors})
        settle(self.aside, self.final)


def settle(aside: Path, final: Path) -> None:
    """Move a finished folder into place; one that is already there gives way, and comes back if the process dies in between."""
    previous = final.with_name(f".{final.name}.old")
    if final.exists():
        shutil.rmtree(previous, ignore_errors=True)
        final.rename(previous)
    aside.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(previous, ignore_errors=True)


class TensorSaver(DefaultSavePlanner):
    """Plans the writing of tensors, each piece by one rank; refuses everything else, which torch would pickle."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        for key, value in self.state_dict.items():
            if not isinstance(value, Tensor) or value.dtype not in NAMES:
                raise TypeError(f"{key} cannot be stored: it is a {value.dtype if isinstance(value, Tensor) else type(value).__name__}")
        return super().create_local_plan()


# -- reading -----------------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """The manifest, checked to be whole and sensible by itself. Raises Damaged; shards are not looked at."""
    path = folder / MANIFEST
    text = _read_plain_file(path, LARGEST_MANIFEST)
    try:
        outer = json.loads(text)
        manifest = Manifest.model_validate(outer["manifest"])
        stated = outer["sha256"]
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{path} is damaged: {'.'.join(map(str, first['loc']))[:200]}: {first['msg']}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(f"{path} is damaged: it is not a manifest") from None
    if stated != _digest(outer["manifest"]):
        raise Damaged(f"{path} is damaged: its content does not have the hash it states")
    if problem := _wrong_progress(manifest.progress):
        raise Damaged(f"{path} is damaged: {problem}")
    for name, entry in manifest.tensors.items():
        problem = _wrong_with(entry, manifest)
        if problem:
            raise Damaged(f"{path} is damaged: tensor {name[:200]!r} {problem}")
    return manifest


def _wrong_progress(progress: dict[str, Any]) -> str:
    """Why these cannot be the counters of a run, or nothing."""
    for name in ("stage", "steps", "rows", "tokens", "total_steps", "total_rows", "total_tokens"):
        if not isinstance(progress.get(name), int) or progress[name] < 0:
            return f"progress.{name} is not a count"
    for name in ("flops", "seconds", "total_flops", "total_seconds"):
        if not isinstance(progress.get(name), int | float) or not progress[name] >= 0:
            return f"progress.{name} is not an amount"
    return ""


def _wrong_with(entry: TensorEntry, manifest: Manifest) -> str:
    """Why an entry cannot be right, or nothing: unknown dtype or shard, pieces outside the shape, overlapping or not covering it."""
    if entry.dtype not in DTYPES:
        return f"has an unknown dtype {entry.dtype[:40]!r}"
    for piece in entry.pieces:
        if piece.file not in manifest.files:
            return f"lies in {piece.file}, which is not listed"
        if not len(piece.offsets) == len(piece.sizes) == len(entry.shape):
            return "has a piece with another number of dimensions"
        if any(offset + size > full for offset, size, full in zip(piece.offsets, piece.sizes, entry.shape, strict=True)):
            return "has a piece outside its shape"
    if sum(math.prod(piece.sizes) for piece in entry.pieces) != math.prod(entry.shape):
        return "is not covered by its pieces"
    ordered = sorted(entry.pieces, key=lambda piece: piece.offsets)
    if any(_overlap(one, other) for one, other in pairwise(ordered)):
        return "has overlapping pieces"
    return ""


def _overlap(one: Piece, other: Piece) -> bool:
    return all(max(a, b) < min(a + m, b + n) for a, m, b, n in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True))


def verify_file(path: Path, entry: FileEntry) -> None:
    """Check a shard's length and hash. Raises Damaged naming it."""
    length = _plain_size(path)
    if length != entry.bytes:
        raise Damaged(f"{path} is damaged: it has {length} bytes, the manifest says {entry.bytes}")
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from None
    if found != entry.sha256:
        raise Damaged(f"{path} is damaged: its content does not have the hash in the manifest")


def _plain_size(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError as error:
        raise Damaged(f"{path} is missing or cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{path} is not a regular file; links are not followed")
    return found.st_size


def _read_plain_file(path: Path, most: int) -> bytes:
    if (length := _plain_size(path)) > most:
        raise Damaged(f"{path} is damaged: {length} bytes are too many for it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from None


class ShardReader(StorageReader):
    """Reads pieces through the safetensors library, after checking that each shard's header says what the manifest says."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between checkpoints."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def read_metadata(self, *args: Any) -> Metadata:
        entries: dict[str, Any] = {}
        for name, entry in self.manifest.tensors.items():
            chunks = [ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes)) for piece in entry.pieces]
            entries[name] = TensorStorageMetadata(TensorProperties(dtype=DTYPES[entry.dtype]), torch.Size(entry.shape), chunks)
        return Metadata(entries)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.pieces = {(name, tuple(piece.offsets)): piece for name, entry in self.manifest.tensors.items() for piece in entry.pieces}

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[tuple[ReadItem, Piece]]] = {}
        for item in plan.items:
            piece = self.pieces[item.storage_index.fqn, tuple(item.storage_index.offset or ())]
            by_file.setdefault(piece.file, []).append((item, piece))
        for name, wanted in by_file.items():
            self._read_file(self.folder / name, wanted, planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _read_file(self, path: Path, wanted: list[tuple[ReadItem, Piece]], planner: LoadPlanner) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                for item, piece in wanted:
                    name = item.storage_index.fqn
                    held = file.get_slice(name)
                    if held.get_shape() != piece.sizes or held.get_dtype() != self.manifest.tensors[name].dtype:
                        raise Damaged(
                            f"{path} is damaged: {name[:200]!r} is {held.get_dtype()} {held.get_shape()}, the manifest says otherwise"
                        )
                    box = tuple(slice(start, start + size) for start, size in zip(item.storage_offsets, item.lengths, strict=True))
                    target = planner.resolve_tensor(item).detach()
                    target.copy_((held[box] if box else file.get_tensor(name)).reshape(target.shape))
                    planner.commit_tensor(item, target)
        except (SafetensorError, OSError) as error:
            raise Damaged(f"{path} is damaged: {error}") from None


class TensorLoader(DefaultLoadPlanner):
    """Plans the reading of tensors into tensors that exist; anything else is refused, since torch would unpickle it."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise Damaged(f"{read_item.dest_index.fqn} is not a tensor")
