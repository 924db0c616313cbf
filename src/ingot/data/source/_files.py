"""What file sources share: finding files, cutting them into shards, reading bytes and lines, errors with file and line."""

from __future__ import annotations

import glob
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import Problem, UserError, missing_extra
from ...core.seams import Document, Shard
from ._fingerprint import Range, digest, fingerprints

SHARD_BYTES = 32 << 20
GROUP_ABOVE = 256  # only sources of more files than this have their small files grouped into shards
_BLOCK = 1 << 20
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class SizedShard(Shard):
    """A shard that knows the bytes it is read from, for progress and for choosing the order of work."""

    size: int = 0


def bad(where: object, message: str) -> UserError:
    """One line naming the file (and line or byte) at fault."""
    return UserError([Problem(str(where), message)])


def find_files(folder: Path, paths: Sequence[str], suffixes: Sequence[str] | None = None) -> list[Path]:
    """Files named by paths, globs and directories (searched deeply, hidden files skipped), sorted, each once. Raises UserError
    with every path that is missing and every pattern that matches nothing."""
    if not paths:
        raise UserError("paths: names no file")
    found: list[Path] = []
    problems: list[Problem] = []
    for text in paths:
        path = folder / os.path.expanduser(text)
        wanted = f" with suffix {' or '.join(suffixes)}" if suffixes else ""
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = [item for item in path.rglob("*") if item.is_file() and _wanted(item.relative_to(path), suffixes)]
            found += inside
            if not inside:
                problems.append(Problem(str(path), f"the directory holds no file{wanted}"))
        elif glob.has_magic(text):
            matched = [item for item in _matching(folder, text) if item.is_file() and (not suffixes or item.name.endswith(tuple(suffixes)))]
            found += matched
            if not matched:
                problems.append(Problem(str(path), f"the pattern matches no file{wanted}"))
        else:
            problems.append(Problem(str(path), "no such file or directory"))
    if problems:
        raise UserError(problems)
    return sorted(set(found))


def absent(context: Mapping[str, Any], paths: Sequence[str]) -> Iterator[str]:
    """Of a recipe's check: paths and patterns that are not there. Without a folder in the context nothing is looked at."""
    folder = context.get("folder")
    if folder is None:
        return
    if not paths:
        yield "paths: names no file"
    for text in paths:
        path = folder / os.path.expanduser(text)
        if not path.exists() and not (glob.has_magic(text) and next(_matching(folder, text), None)):
            yield f"paths: no such file or directory: {path}"


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """Whatever a pattern matches; the name of the folder that it starts at is none."""
    return (folder / found for found in glob.iglob(os.path.expanduser(pattern), root_dir=folder, recursive=True))


def _wanted(path: Path, suffixes: Sequence[str] | None) -> bool:
    return not any(name.startswith(".") for name in path.parts) and (not suffixes or path.name.endswith(tuple(suffixes)))


def file_shards(
    files: Sequence[Path], *, separator: bytes | None, settings: Sequence[Any], read: Callable[[Range], Iterator[Document]]
) -> list[Shard]:
    """Files as shards of bounded bytes: large plain files are cut after a separator, many small ones are grouped.

    separator: what a cut may follow; None keeps files whole. settings: what, besides the bytes, decides the documents.
    Raises UserError when the files cannot be read or are all empty.
    """
    ranges = [item for path in files for item in _cut(path, separator)]
    if not any(item.size for item in ranges):
        raise UserError(f"the corpus is empty: {_name([Range(path, 0, 0) for path in files])} holds no bytes")
    groups = _group([item for item in ranges if item.size], grouped=len(files) > GROUP_ABOVE)
    try:
        hashes = dict(zip(ranges, fingerprints(ranges)))
    except OSError as error:
        raise bad(error.filename, f"cannot be read: {error.strerror}") from None
    return [
        SizedShard(
            _name(group), digest(*settings, [hashes[item] for item in group]), _reader(group, read), sum(item.size for item in group)
        )
        for group in groups
    ]


def _reader(group: list[Range], read: Callable[[Range], Iterator[Document]]) -> Callable[[], Iterator[Document]]:
    def documents() -> Iterator[Document]:
        for item in group:
            yield from read(item)

    return documents


def _name(group: Sequence[Range]) -> str:
    first = group[0]
    if len(group) > 1:
        return f"{first.path} and {len(group) - 1} more"
    return f"{first.path} from byte {first.start}" if first.start else str(first.path)


def _group(ranges: list[Range], grouped: bool) -> list[list[Range]]:
    """Neighbors share a shard; a group ends where the hash of a file's name says so, so that adding a file moves few others."""
    if not grouped:
        return [[item] for item in ranges]
    groups: list[list[Range]] = []
    size = SHARD_BYTES
    for item in ranges:
        if size + item.size > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += item.size
        if zlib.crc32(item.path.name.encode()) % SHARD_BYTES < 4 * item.size:
            size = SHARD_BYTES
    return groups


def _cut(path: Path, separator: bytes | None) -> list[Range]:
    try:
        size = path.stat().st_size
        if separator is None or path.suffix in _COMPRESSED or size <= SHARD_BYTES:
            return [Range(path, 0, size)]
        starts = [0]
        with path.open("rb") as file:
            while starts[-1] + SHARD_BYTES < size:
                starts.append(_after(file, starts[-1] + SHARD_BYTES, separator, size))
    except OSError as error:
        raise bad(path, f"cannot be read: {error.strerror}") from None
    return [Range(path, start, end) for start, end in zip(starts, [*starts[1:], size]) if end > start]


def _after(file: Any, position: int, separator: bytes, size: int) -> int:
    """The first position after a separator that lies at or beyond a position; the file's size when there is none."""
    file.seek(position)
    kept = b""
    while block := file.read(_BLOCK):
        joined = kept + block
        if (at := joined.find(separator)) >= 0:
            return int(position - len(kept) + at + len(separator))
        position += len(block)
        kept = joined[-(len(separator) - 1) :] if len(separator) > 1 else b""
    return size


def blocks(item: Range) -> Iterator[bytes]:
    """The range's bytes in blocks, decompressed where the suffix says .gz or .zst. Raises UserError when damaged or cut short."""
    try:
        with item.path.open("rb") as file:
            file.seek(item.start)
            raw = _raw(file, item.size)
            yield from _decompressed(item.path, raw) if item.path.suffix in _COMPRESSED else raw
    except OSError as error:
        raise bad(item.path, f"cannot be read: {error.strerror}") from None


def _raw(file: Any, left: int) -> Iterator[bytes]:
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        yield block
        left -= len(block)


def _decompressed(path: Path, raw: Iterator[bytes]) -> Iterator[bytes]:
    """Concatenated gzip members or zstd frames. Both libraries can end quietly inside a frame, so the end is checked here."""
    kind, fresh, failure = _codec(path.suffix)
    engine, fed = None, False
    for block in raw:
        while block:
            engine, fed = engine or fresh(), True
            try:
                yield engine.decompress(block)
            except failure as error:
                raise bad(path, f"is damaged: not valid {kind} data ({error})") from None
            block = engine.unused_data if engine.eof else b""
            engine = None if engine.eof else engine
    if engine is not None or not fed:
        raise bad(path, f"is truncated: the {kind} data ends in the middle")


def _codec(suffix: str) -> tuple[str, Callable[[], Any], type[Exception]]:
    if suffix == ".gz":
        return "gzip", lambda: zlib.decompressobj(wbits=31), zlib.error
    try:
        import zstandard
    except ImportError:
        raise missing_extra("zstandard", "data") from None
    return "zstd", lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError


def lines(item: Range, longest: int) -> Iterator[tuple[int, int, bytes]]:
    """The range's lines without their ends: (index in the range, byte offset, line). Raises UserError for one above ``longest`` bytes."""
    index, offset, waiting = 0, item.start, 0
    pending: list[bytes] = []
    for block in blocks(item):
        head, *rest = block.split(b"\n")
        pending.append(head)
        waiting += len(head)
        if waiting > longest:
            raise bad(f"{item.path}:{line_number(item, index)}", f"the line is longer than {longest:,} bytes; split it or raise 'longest'")
        if rest:
            for line in (b"".join(pending), *rest[:-1]):
                yield index, offset, line.removesuffix(b"\r")
                index += 1
                offset += len(line) + 1
            pending, waiting = [rest[-1]], len(rest[-1])
    if waiting:
        yield index, offset, b"".join(pending).removesuffix(b"\r")


def line_number(item: Range, index: int) -> int:
    """Line number in the whole file, from 1, of the range's index-th line."""
    before = sum(block.count(b"\n") for block in blocks(Range(item.path, 0, item.start))) if item.start else 0
    return before + index + 1


def decode(data: bytes, where: Callable[[int], str], offset: int = 0) -> str:
    """UTF-8 text. where: names the place of a byte offset within data, for the error. A byte-order mark at offset 0 is dropped."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = " (it looks like UTF-16)" if offset == 0 and data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise bad(where(error.start), f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}{hint}") from None
    return text[1:] if offset == 0 and text.startswith("\ufeff") else text


def document_id(said: Any, text: str) -> str:
    """The id that a file gives a document, or, where it gives none, that of its text."""
    return text_id(text) if said is None else str(said)


def text_id(text: str) -> str:
    """An id from the text itself: equal texts share it, so copies never lie on both sides of a split."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
