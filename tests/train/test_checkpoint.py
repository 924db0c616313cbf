"""Checkpoints survive what happens to disks and processes, keep to their rules, and never run what they read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # before pickle is closed: it defines an Unpickler where it is first imported, by an optimizer
from safetensors.torch import load_file
from torch import nn

from ingot.core.errors import RunError, UserError
from ingot.core.quantities import parse_quantity
from ingot.train import checkpoint as module
from ingot.train import storage
from ingot.train.checkpoint import Checkpoints, read_tensors
from ingot.train.state import State

HASH = {"recipe_hash": "abc", "recipe": {"width": 3}}
DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(owner, name, refuse)


class Mixed(nn.Module):
    """Every dtype, odd shapes, a scalar, no elements, not contiguous; extreme values."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for dtype in DTYPES:
            self.register_buffer(str(dtype).removeprefix("torch.") + "_", (torch.randn(3, 5, generator=generator) * 20).to(dtype))
        self.register_buffer("scalar", torch.tensor(seed / 3, dtype=torch.float64))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("turned", torch.randn(4, 6, generator=generator).T)
        self.register_buffer("extreme", torch.tensor([float("nan"), float("inf"), -0.0, 5e-324, torch.finfo(torch.float64).max, seed]))
        self.weight = nn.Parameter(torch.randn(8, generator=generator))


def state_at(step: int, seed: int = 1, tokens: int = 0) -> State:
    state = State(Mixed(seed))
    state.progress.total_steps, state.progress.total_tokens = step, tokens
    return state


def bits(state: State) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {
        name: (value.dtype, tuple(value.shape), value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, value in state.tensors().items()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, *steps: int, **options: Any) -> Checkpoints:
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(state_at(step, seed=step), **HASH)
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_dtype_comes_back_exactly(tmp_path: Path, asynchronous: bool) -> None:
    state = state_at(12)
    state.lineage, state.extra = [{"transform": "grow"}], {"tuned": [0.1, None, "x"]}
    checkpoints = Checkpoints(tmp_path / "a" / "b", asynchronous=asynchronous, layout="single")
    path = checkpoints.save(state, **HASH, parents=[{"path": "base", "hash": "f"}], metrics={"loss": 0.1})
    expected = bits(state)
    with torch.no_grad():
        state.model.weight.zero_()
    other = state_at(0, seed=2)
    checkpoints.load(other, path)
    assert bits(other) == expected and other.lineage == [{"transform": "grow"}] and other.extra == {"tuned": [0.1, None, "x"]}
    assert path == tmp_path / "a" / "b" / "step-00000012" and names(path) == ["manifest.json", "shard-00000.safetensors"]
    manifest = checkpoints.manifest(path)
    assert manifest["progress"]["total_steps"] == 12 and manifest["parents"] == [{"path": "base", "hash": "f"}]
    assert (manifest["recipe"], manifest["recipe_hash"], manifest["ranks"], manifest["layout"]) == ({"width": 3}, "abc", 1, "single")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in read_tensors(path, "").items()} == {
        name: item[:2] for name, item in expected.items()
    }
    assert torch.equal(load_file(path / "shard-00000.safetensors")["model.turned"], other.model.turned)  # the format is the library's
    third = state_at(0, seed=3)
    checkpoints.load_model(third.model, path)
    assert bits(third) == expected and third.progress.total_steps == 0


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = write(tmp_path, 5)
    checkpoints.save(state_at(5, seed=9), **HASH)
    assert names(tmp_path) == ["step-00000005"]
    found = state_at(0)
    Checkpoints(tmp_path).load(found, tmp_path / "step-00000005")
    assert bits(found) == bits(state_at(5, seed=9))


def test_retention(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=1, keep_every=parse_quantity("1000 tokens"))
    for step, (tokens, loss) in enumerate(
        [(300, 5.0), (700, 1.0), (1000, 4.0), (1400, float("nan")), (2100, 4.1), (2200, 3.0), (2300, 3.5)], 1
    ):
        checkpoints.save(state_at(step, tokens=tokens), **HASH, metrics={"loss": loss})
    assert [int(path.name[-1]) for path in checkpoints.all()] == [2, 3, 5, 6, 7]
    assert all(not name.startswith(".") for name in names(tmp_path))
    with pytest.raises(UserError, match="amount of the whole run"):
        Checkpoints(tmp_path, keep_every=parse_quantity("5%"))


def test_the_best_is_of_what_the_newest_measures(tmp_path: Path) -> None:
    """The loss of another objective, or on other data, is no better or worse: the best one of the stage in hand stays, and of its like."""
    stages: list[dict[str, Any]] = [
        {"objective": None},
        {"objective": {"name": "classification"}},
        {"objective": None, "data": {"train": "x"}},
    ]
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1)
    kept = []
    for step, (stage, loss) in enumerate([(0, 0.3), (0, 0.4), (1, 2.0), (1, 1.5), (1, 2.5), (2, 3.0), (2, 3.5)], 1):
        state = state_at(step)
        state.progress.stage = stage
        checkpoints.save(state, recipe_hash="abc", recipe={"stages": stages}, metrics={"loss": loss})
        kept.append([int(path.name[-1]) for path in checkpoints.all()])
    assert kept == [[1], [1, 2], [3], [4], [4, 5], [6], [6, 7]]


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "no room for .* needs .* are free"), (errno.EROFS, "cannot write .*: Read-only"), (errno.EIO, "cannot write")],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str, asynchronous: bool) -> None:
    checkpoints = write(tmp_path, 1, asynchronous=asynchronous)

    def fail(path: Path, tensors: Any) -> Any:
        path.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(RunError, match=message) as caught:
        patch.setattr(storage, "write_shard", fail)
        checkpoints.save(state_at(2), **HASH)
        checkpoints.wait()
    assert "\n" not in str(caught.value) and names(tmp_path) == ["step-00000001"]
    assert checkpoints.latest() == tmp_path / "step-00000001"
    checkpoints.save(state_at(3), **HASH)
    checkpoints.wait()
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_background_failure_surfaces_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, asynchronous=True)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_free", lambda folder: 10)
        checkpoints.save(state_at(1), **HASH)
        with pytest.raises(RunError, match="no room"):
            checkpoints.save(state_at(2), **HASH)
    assert not tmp_path.exists() or names(tmp_path) == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file system of 1 MB, where the test may mount one."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("cannot mount")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        checkpoints = write(tmp_path / "c")
        small, large = state_at(1), state_at(2)
        large.model.weight = nn.Parameter(torch.zeros(1_000_000))
        checkpoints.bytes_needed = lambda state: 0  # type: ignore[method-assign]  # the forecast is wrong: the disk itself must refuse
        checkpoints.save(small, **HASH)
        with pytest.raises(RunError, match="no room"):
            checkpoints.save(large, **HASH)
        assert names(tmp_path / "c") == ["step-00000001"] and checkpoints.latest() == tmp_path / "c" / "step-00000001"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_room_is_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1000, 100)
    state = State(model, torch.optim.AdamW(model.parameters()))
    checkpoints = Checkpoints(tmp_path / "not there yet", keep_last=2)
    needed = checkpoints.bytes_needed(state)
    state.create_optimizer_state()
    assert 0 <= checkpoints.bytes_needed(state) - needed < 100
    path = checkpoints.save(state, **HASH)
    assert sum(file.stat().st_size for file in path.iterdir()) <= needed
    checkpoints.check_room(state)
    monkeypatch.setattr(module, "_free", lambda folder: needed)
    with pytest.raises(RunError, match=r"needs 10\.\d MiB for 2 checkpoints of 5\.\d+ MiB, but 5\.\d+ MiB are free"):
        checkpoints.check_room(state)


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).latest() is None
    write(tmp_path, 1, 2, 3, 4, keep_last=9)
    shard = tmp_path / "step-00000004" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.write_bytes(content)
    with open(tmp_path / "step-00000003" / "shard-00000.safetensors", "r+b") as file:
        file.truncate(100)
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, say=said.append)
    assert checkpoints.latest() == tmp_path / "step-00000002"
    assert "step-00000004/shard-00000.safetensors is damaged: its content" in said[0] and said[0].endswith("going on from step-00000002")
    assert "step-00000003/shard-00000.safetensors is damaged: it has 100 bytes" in said[1]
    for path in (tmp_path / "step-00000002" / "manifest.json", tmp_path / "step-00000001" / "manifest.json"):
        path.write_text(path.read_text().replace('"total_steps": ', '"total_steps": 1'))
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole"):
        Checkpoints(tmp_path).latest()


def test_a_killed_writer_leaves_whole_checkpoints(tmp_path: Path, repository: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(repository / "src")!r})
import torch
from torch import nn
from ingot.train.checkpoint import Checkpoints
from ingot.train.state import State
checkpoints, step = Checkpoints({str(tmp_path)!r}), 0
while True:
    step += 1
    state = State(nn.Linear(700, 700)); state.progress.total_steps = 1 + step // 2
    checkpoints.save(state, recipe_hash="", recipe={{}})
    print(step, flush=True)
"""
    for trial in range(2):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline()
        time.sleep(0.05 + 0.037 * trial)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        checkpoints = Checkpoints(tmp_path)
        latest = checkpoints.latest()
        assert latest is not None
        checkpoints.load(State(nn.Linear(700, 700)), latest)
        shutil.copytree(latest, tmp_path / f".{latest.name}.tmp-1")
    writer = Checkpoints(tmp_path)
    shutil.rmtree(tmp_path / f".{latest.name}.old", ignore_errors=True)  # which the kill may have left
    latest.rename(tmp_path / f".{latest.name}.old")  # killed between the two renames of a replacement
    writer.save(state_at(10**6), **HASH)
    assert latest.name in names(tmp_path) and not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_state_of_another_make_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1).latest()
    assert path is not None
    wide, other = state_at(0), state_at(0, seed=5)
    wide.model.weight = nn.Parameter(torch.zeros(9))
    other.model.scalar = other.model.scalar.float()
    del other.model.turned
    other.model.register_buffer("added", torch.zeros(1))
    before = bits(other)
    with pytest.raises(UserError, match=r"model\.weight is float32 8 in the checkpoint, float32 9 in this run"):
        Checkpoints(tmp_path).load(wide, path)
    with pytest.raises(
        UserError,
        match=r"model\.turned is in the checkpoint but not in this run; .*model\.added is in this run.*float64 scalar in the checkpoint, float32 scalar",
    ):
        Checkpoints(tmp_path).load(other, path)
    assert bits(other) == before
    with pytest.raises(UserError, match="no checkpoint at"):
        Checkpoints(tmp_path).load(other, tmp_path / "step-00000009")


def rewrite(path: Path, change: Any) -> None:
    """Change a manifest and give it a hash that fits, as someone who wants it believed would."""
    outer = json.loads((path / "manifest.json").read_text())
    change(outer["manifest"])
    outer["sha256"] = hashlib.sha256(json.dumps(outer["manifest"], sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(outer))


def shard_entry(path: Path) -> dict[str, Any]:
    content = (path / "shard-00000.safetensors").read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def long_header(path: Path) -> None:
    (path / "shard-00000.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{" * 100)
    rewrite(
        path,
        lambda manifest: (
            manifest["files"].update({"shard-00000.safetensors": shard_entry(path)})
            or manifest.update(tensors={name: entry for name, entry in manifest["tensors"].items() if name == "model.scalar"})
        ),
    )


def swapped_dtype(path: Path) -> None:
    shard = path / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes().replace(b'"dtype":"I32"', b'"dtype":"F32"', 1))
    rewrite(path, lambda manifest: manifest["files"].update({"shard-00000.safetensors": shard_entry(path)}))


def linked(path: Path) -> None:
    shard = path / "shard-00000.safetensors"
    shard.rename(path.parent / "elsewhere")
    shard.symlink_to(path.parent / "elsewhere")


HOSTILE = {
    "traversal": lambda path: rewrite(
        path, lambda manifest: manifest["files"].update({"../../secret": manifest["files"]["shard-00000.safetensors"]})
    ),
    "absolute": lambda path: rewrite(path, lambda manifest: manifest["tensors"]["model.weight"]["pieces"][0].update(file="/etc/passwd")),
    "newline": lambda path: rewrite(
        path, lambda manifest: manifest["files"].update({"shard-00000.safetensors\n": manifest["files"]["shard-00000.safetensors"]})
    ),
    "unlisted": lambda path: rewrite(
        path, lambda manifest: manifest["tensors"]["model.weight"]["pieces"][0].update(file="shard-00001.safetensors")
    ),
    "huge shape": lambda path: rewrite(
        path,
        lambda manifest: manifest["tensors"]["model.weight"].update(
            shape=[2**61], pieces=[{"file": "shard-00000.safetensors", "offsets": [0], "sizes": [2**61]}]
        ),
    ),
    "negative": lambda path: rewrite(path, lambda manifest: manifest["tensors"]["model.weight"]["pieces"][0].update(offsets=[-4])),
    "outside": lambda path: rewrite(path, lambda manifest: manifest["tensors"]["model.weight"]["pieces"][0].update(offsets=[4])),
    "gap": lambda path: rewrite(path, lambda manifest: manifest["tensors"]["model.weight"]["pieces"][0].update(sizes=[4])),
    "dtype": lambda path: rewrite(path, lambda manifest: manifest["tensors"]["model.weight"].update(dtype="PICKLE")),
    "swapped dtype": swapped_dtype,
    "long header": long_header,
    "symlink": linked,
    "deep": lambda path: (path / "manifest.json").write_text("[" * 100_000),
    "not json": lambda path: (path / "manifest.json").write_bytes(b"\x80\x04\x95" + b"\xff" * 50),
    "names": lambda path: rewrite(
        path, lambda manifest: manifest["tensors"].update({"model.\x1b[31m\nred": manifest["tensors"]["model.weight"]})
    ),
    "other keys": lambda path: rewrite(path, lambda manifest: manifest.update(loader="os.system")),
    "future format": lambda path: rewrite(path, lambda manifest: manifest.update(format=2)),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "manifest is a folder": lambda path: ((path / "manifest.json").unlink(), (path / "manifest.json").mkdir()),
    "fifo": lambda path: ((path / "shard-00000.safetensors").unlink(), os.mkfifo(path / "shard-00000.safetensors")),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_line(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "checkpoints" / "step-00000001"
    write(path.parent, 1)
    HOSTILE[attack](path)
    for attempt in (lambda: Checkpoints(path.parent).load(state_at(0, seed=4), path), lambda: read_tensors(path)):
        with pytest.raises((RunError, UserError)) as caught:
            attempt()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1200


def test_files_that_the_manifest_does_not_name_are_never_opened(tmp_path: Path) -> None:
    path = write(tmp_path, 1).latest()
    assert path is not None
    for name in (".metadata", "model.pt", "optimizer.bin", "__0_0.distcp", "shard-00007.safetensors"):
        (path / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
        (path / name).chmod(stat.S_IWUSR)
    os.symlink(path, tmp_path / "step-00000099")
    (tmp_path / "step-00000098.pt").write_bytes(b"x")
    (tmp_path / "step-0x").mkdir()
    found = state_at(0, seed=4)
    checkpoints = Checkpoints(tmp_path)
    latest = checkpoints.latest()
    assert latest == path
    checkpoints.load(found, latest)
    assert bits(found) == bits(state_at(1))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError, match="cannot write"):
        Checkpoints(tmp_path / "taken" / "checkpoints").save(state_at(1), **HASH)
