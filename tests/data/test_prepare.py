from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ingot.core.errors import RunError, UserError
from ingot.core.resolve import spec
from ingot.core.seams import Document, Shard
from ingot.data import prepare as module
from ingot.data.prepare import prepare
from ingot.data.store.token_store import TokenStore, read_meta

CHILD = """
import os, signal, sys, resource
from pathlib import Path
from ingot.core.errors import IngotError
from ingot.core.resolve import spec
from ingot.data import prepare as module
module.BATCH_BYTES = 20_000
folder, kill_at, limit = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def progress(done, total):
    if done >= kill_at * total:
        os.kill(os.getpid(), signal.SIGKILL)
shards = spec("data.source", "jsonl", paths=["*.jsonl"]).build(folder=folder).shards()
try:
    module.prepare(shards, spec("data.tokenizer", "bytes").build(), folder=folder / "cache", holdout=0.2, progress=progress)
except IngotError as error:
    print(error)
    sys.exit(error.status)
"""


def corpus(folder: Path, files: int = 10, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    for index in range(files):
        rows = [
            json.dumps({"text": f"file {index} row {row} " + "é" * int(draw.integers(0, 400))}, ensure_ascii=False) for row in range(200)
        ]
        (folder / f"{index}.jsonl").write_text("\n".join(rows) + "\n")


def shards_of(folder: Path):
    return spec("data.source", "jsonl", paths=["*.jsonl"]).build(folder=folder).shards()


def run_child(folder: Path, kill_at: float = 2.0, limit: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHILD, str(folder), str(kill_at), str(limit)], capture_output=True, text=True, timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "locks"
    }


@pytest.fixture
def tokenizer():
    return spec("data.tokenizer", "bytes").build()


def test_tokens_are_the_documents_each_with_its_end(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 10_000)
    corpus(tmp_path, files=3)
    (tmp_path / "3.jsonl").write_text('{"text": ""}\n{"text": "last"}\n')
    shards = shards_of(tmp_path)
    seen = []
    done = prepare(shards, tokenizer, folder=tmp_path / "cache", progress=lambda *amounts: seen.append(amounts))
    wanted = [document.text for shard in shards for document in shard.read() if document.text]
    store = TokenStore.open(done.folders, tokenizer=tokenizer)
    flat = np.empty(store.total, dtype=np.uint16)
    store.copy(0, flat)
    assert tokenizer.decode(flat) == "".join(wanted)
    lengths = np.concatenate(list(store.lengths.chunks()))
    assert lengths.tolist() == [len(text.encode()) + 1 for text in wanted] and (flat[np.cumsum(lengths) - 1] == tokenizer.end).all()
    assert done.counts("train") == {"documents": 601, "tokens": int(lengths.sum()), "bytes": sum(len(text.encode()) for text in wanted)}
    assert done.rejected == 1
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("kill_at", [0.02, 0.3, 0.85])
def test_killed_and_run_again_gives_the_same_bytes_and_redoes_nothing(tmp_path: Path, kill_at: float) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        corpus(folder)
    assert run_child(straight).returncode == 0
    assert run_child(killed, kill_at).returncode == -signal.SIGKILL
    whole = {
        path: path.stat().st_mtime_ns
        for path in (killed / "cache").glob("*/meta.json")
        if ".aside" not in path.parent.name and read_meta(path.parent)
    }
    assert len(whole) < 10
    assert run_child(killed).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    first, second = contents(straight / "cache"), contents(killed / "cache")
    assert len(first) == 50
    assert {name: data for name, data in first.items() if not name.endswith("meta.json")} == {
        n: d for n, d in second.items() if not n.endswith("meta.json")
    }
    for name in first:
        if name.endswith("meta.json"):
            assert {**json.loads(first[name]), "name": ""} == {**json.loads(second[name]), "name": ""}


def test_two_processes_at_once_share_the_work(tmp_path: Path) -> None:
    corpus(tmp_path)
    command = [sys.executable, "-c", CHILD, str(tmp_path), "2.0", "0"]
    children = [subprocess.Popen(command) for _ in range(3)]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    folders = [path for path in (tmp_path / "cache").iterdir() if path.name != "locks"]
    assert len(folders) == 10 and all(read_meta(folder) for folder in folders)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    corpus(tmp_path, files=2)
    done = run_child(tmp_path, limit=50_000)
    assert done.returncode == 1 and done.stdout.count("\n") == 1 and "cannot be written: File too large" in done.stdout
    assert not list((tmp_path / "cache").glob("*/meta.json")) and not list((tmp_path / "cache").glob("*aside*"))


def test_an_edit_redoes_one_shard_and_moves_no_other_document(tmp_path: Path, tokenizer) -> None:
    corpus(tmp_path, files=5)
    before = prepare(shards_of(tmp_path), tokenizer, folder=tmp_path / "cache", holdout=0.3)
    path = tmp_path / "2.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:50], json.dumps({"text": "a document in the middle"}), *rows[50:]]) + "\n")
    after = prepare(shards_of(tmp_path), tokenizer, folder=tmp_path / "cache", holdout=0.3)
    assert [one == two for one, two in zip(before.folders, after.folders)] == [True, True, False, True, True]
    for split in ("train", "validation"):
        old, new = (texts_of(item.folders[2], split, tokenizer) for item in (before, after))
        assert [text for text in new if text != "a document in the middle"] == old and len(old) > 20


def texts_of(folder: Path, split: str, tokenizer) -> list[str]:
    store = TokenStore.open([folder], split)
    flat = np.empty(store.total, dtype=np.uint16)
    store.copy(0, flat)
    ends = np.cumsum(np.concatenate(list(store.lengths.chunks())))
    return [tokenizer.decode(flat[start:stop]) for start, stop in zip([0, *ends[:-1]], ends)]


def test_the_split_is_near_its_share_and_by_the_id_alone() -> None:
    held = [module.held_out(str(index), 0.1) for index in range(20_000)]
    assert abs(sum(held) / len(held) - 0.1) < 0.01
    assert all(module.held_out(str(index), 0.3) for index in range(20_000) if held[index])
    assert not any(module.held_out(str(index), 0.0) for index in range(100))


@pytest.mark.parametrize("damage", ["shorter", "longer", "gone", "meta", "format"])
def test_damaged_shards_are_refused_by_the_store_and_made_again(tmp_path: Path, tokenizer, damage: str) -> None:
    corpus(tmp_path, files=1)
    done = prepare(shards_of(tmp_path), tokenizer, folder=tmp_path / "cache")
    before = contents(tmp_path / "cache")
    path = done.folders[0] / "train.tokens"
    meta = done.folders[0] / "meta.json"
    {
        "shorter": lambda: os.truncate(path, 100),
        "longer": lambda: path.write_bytes(path.read_bytes() + b"xx"),
        "gone": path.unlink,
        "meta": lambda: meta.write_text("{"),
        "format": lambda: meta.write_text(meta.read_text().replace('"format": 1', '"format": 0')),
    }[damage]()
    with pytest.raises(RunError, match="missing or damaged; prepare again"):
        TokenStore.open(done.folders)
    prepare(shards_of(tmp_path), tokenizer, folder=tmp_path / "cache")
    assert contents(tmp_path / "cache") == before


OTHERS = [{"specials": []}, {"specials": ["mask", "pad"]}, {"specials": ["pad"]}, {"sentinels": 3}, {"sentinels": 70_000}]


@pytest.mark.parametrize("other", OTHERS)
def test_another_tokenizer_is_refused_in_one_line(tmp_path: Path, tokenizer, other: dict[str, object]) -> None:
    corpus(tmp_path, files=1)
    done = prepare(shards_of(tmp_path), tokenizer, folder=tmp_path / "cache")
    wrong = spec("data.tokenizer", "bytes", **other).build()
    with pytest.raises(UserError, match=r"was prepared with tokenizer .* this run's is .*; use that tokenizer or prepare again") as caught:
        TokenStore.open(done.folders, tokenizer=wrong)
    assert "\n" not in str(caught.value)
    assert prepare(shards_of(tmp_path), wrong, folder=tmp_path / "cache").folders != done.folders


def test_bad_input_stops_the_work_with_its_line_and_keeps_whole_shards(tmp_path: Path, tokenizer) -> None:
    corpus(tmp_path, files=4)
    with (tmp_path / "3.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(UserError, match=r"3\.jsonl:201: is not valid JSON"):
        prepare(shards_of(tmp_path), tokenizer, folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*aside*"))


def test_what_others_are_at_work_on_is_removed_only_under_a_lock(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk has no locks, a folder aside may be that of a process that still fills it."""
    fcntl = pytest.importorskip("fcntl")
    corpus(tmp_path, files=1)
    (shard,) = shards_of(tmp_path)
    final = module.shard_folder(tmp_path / "cache", shard, tokenizer, 0.0)
    other = final.with_name(f"{final.name}.aside-elsewhere-1")
    other.mkdir(parents=True)

    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", none)
        prepare([shard], tokenizer, folder=tmp_path / "cache")
    assert read_meta(final) and other.is_dir()
    shutil.rmtree(final)
    prepare([shard], tokenizer, folder=tmp_path / "cache")
    assert read_meta(final) and not other.exists()


def test_a_source_that_fails_is_not_taken_for_the_store(tmp_path: Path, tokenizer) -> None:
    def read() -> Iterator[Document]:
        yield Document("1", "text")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(RunError, match=r"^the library cannot be read: Input/output error$"):
        prepare([Shard("the library", "identity", read)], tokenizer, folder=tmp_path)
    assert not list(tmp_path.glob("*aside*"))
