"""Checkpoints that are cut, flipped or hostile: an older whole one is taken and said so, or one line and nothing touched."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NEWEST = Path("runs/tiny/checkpoints/step-00000006")
OLDER = Path("runs/tiny/checkpoints/step-00000004")
SHARD = "shard-00000.safetensors"


def flip(path: Path, at: float, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * at), len(data) - 1)] ^= 1 << bit
    path.write_bytes(data)


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def lines(folder: str = "runs/tiny") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "the shard cut at its head": lambda path: cut(path / SHARD, 0.001),
    "the shard cut in the middle": lambda path: cut(path / SHARD, 0.5),
    "the shard's last byte gone": lambda path: cut(path / SHARD, 0.99999),
    "an empty shard": lambda path: cut(path / SHARD, 0),
    "no shard": lambda path: (path / SHARD).unlink(),
    "the manifest cut": lambda path: cut(path / "manifest.json", 0.7),
    "an empty manifest": lambda path: cut(path / "manifest.json", 0),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "a bit of the shard's length": lambda path: flip(path / SHARD, 0.0),
    "a bit of the shard's header": lambda path: flip(path / SHARD, 0.002),
    "a bit in the middle": lambda path: flip(path / SHARD, 0.5),
    "the last bit": lambda path: flip(path / SHARD, 1.0, 7),
    "a bit of the manifest": lambda path: flip(path / "manifest.json", 0.5, 0),
    "a bit of the manifest's hash": lambda path: flip(path / "manifest.json", 0.001, 0),
    "something behind the shard": lambda path: (path / SHARD).write_bytes((path / SHARD).read_bytes() + b"x"),
    "zeros": lambda path: (path / SHARD).write_bytes(bytes((path / SHARD).stat().st_size)),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(ingot: Any, place: Path, case: str) -> None:
    before = ingot.fingerprint(OLDER, OLDER.with_name("step-00000002"))
    DAMAGE[case](NEWEST)
    ingot.refuses("evaluate", NEWEST, status=1, words=("step-00000006",), keeps=(place / "runs",))
    status, _, err = ingot("evaluate", "runs/tiny")
    assert status == 0 and "going on from step-00000004" in err, err
    ingot.refuses(
        "train",
        "tiny.yaml",
        "--from",
        NEWEST,
        "name=other",
        status=2 if case == "no manifest" else 1,
        words=("step-00000006",),
        keeps=(place / "runs" / "tiny",),
    )
    status, out, err = ingot("train", "tiny.yaml")
    assert status == 0, err
    found = lines()
    (said,) = [line["message"] for line in found if line["kind"] == "event" and "going on from step-00000004" in line["message"]]
    assert "step-00000006" in said and "\n" not in said
    assert [line["step"] for line in found if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert "going on from step-00000004" in out + err, "the command line says so too"
    after = ingot.fingerprint(OLDER, OLDER.with_name("step-00000002"))
    assert after == before
    assert ingot("evaluate", NEWEST, "--json")[0] == 0, "the damaged one was made anew"


def test_random_bits(ingot: Any, place: Path) -> None:
    """Any flipped bit, anywhere: refused, or (spaces of the manifest's layout) without consequence."""
    draw = random.Random(5)
    names = list(NEWEST.iterdir())
    for _ in range(20):
        path = draw.choice(names)
        data = path.read_bytes()
        flip(path, draw.random(), draw.randrange(8))
        status, _out, err = ingot("evaluate", NEWEST, "--json")
        assert "internal error" not in err and "Traceback" not in err, err
        assert status in (0, 1) and (status == 0) <= (path.name == "manifest.json"), err
        path.write_bytes(data)


@pytest.mark.parametrize(
    "command",
    [
        ("train", "tiny.yaml"),
        ("evaluate", "runs/tiny"),
        ("generate", "runs/tiny"),
        ("export", "runs/tiny", "out"),
        ("train", "tiny.yaml", "name=b", "--from", "runs/tiny"),
        ("lineage", "runs/tiny"),
    ],
    ids=lambda argv: argv[0],
)
def test_when_none_is_whole(ingot: Any, place: Path, command: tuple[str, ...]) -> None:
    for path in NEWEST.parent.iterdir():
        flip(path / SHARD, 0.5)
        if command[0] == "lineage":
            cut(path / "manifest.json", 0.5)
    ingot.refuses(*command, status=1, words=("runs/tiny", "step-0000000"), keeps=(place / "runs" / "tiny",))
    assert not Path("out").exists()


def test_leftovers_of_killed_writers(ingot: Any, place: Path) -> None:
    folder = NEWEST.parent
    shutil.copytree(NEWEST, folder / ".step-00000008.tmp-99999")
    (folder / "step-00000009").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "step-0000000x").mkdir()
    os.rename(NEWEST, folder / ".step-00000006.old")
    status, _, err = ingot("train", "tiny.yaml")
    assert status == 0, err
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.glob(".step-*"))
    assert [line["step"] for line in lines() if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


# -- hostile ---------------------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def signed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change of the manifest that has its hash right, as an attacker's would."""

    def attack(path: Path) -> None:
        outer = json.loads((path / "manifest.json").read_text())
        change(outer["manifest"])
        outer["sha256"] = hashlib.sha256(json.dumps(outer["manifest"], sort_keys=True).encode()).hexdigest()
        (path / "manifest.json").write_text(json.dumps(outer))

    return attack


def shard_of(data: bytes) -> Callable[[Path], None]:
    """Another shard, with hash and length right."""

    def attack(path: Path) -> None:
        (path / SHARD).write_bytes(data)
        signed(lambda manifest: manifest["files"][SHARD].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))(path)

    return attack


def linked(path: Path) -> None:
    Path("secret").write_text("secret")
    (path / SHARD).unlink()
    (path / SHARD).symlink_to(Path("secret").absolute())


def first(manifest: dict[str, Any]) -> dict[str, Any]:
    return next(iter(manifest["tensors"].values()))  # type: ignore[no-any-return]


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a pickle for a shard": shard_of(pickle.dumps(Bomb())),
    "a pickle for the manifest": lambda path: (path / "manifest.json").write_bytes(pickle.dumps(Bomb())),
    "a path for a shard's name": signed(lambda m: m["files"].update({"../../../../tiny.yaml": {"bytes": 1, "sha256": "0" * 64}})),
    "an absolute path": signed(lambda m: first(m)["pieces"][0].update(file="/etc/passwd")),
    "a link for a shard": linked,
    "a huge tensor": signed(lambda m: first(m).update(shape=[2**50], pieces=[{"file": SHARD, "offsets": [0], "sizes": [2**50]}])),
    "a negative shape": signed(lambda m: first(m).update(shape=[-4])),
    "pieces that overlap": signed(lambda m: first(m).update(pieces=first(m)["pieces"] * 2)),
    "a tensor too many": signed(lambda m: m["tensors"].update({"model.backdoor": first(m)})),
    "an unknown dtype": signed(lambda m: first(m).update(dtype="OBJECT")),
    "a header of endless length": shard_of((2**62).to_bytes(8, "little") + b"{}"),
    "a header that is a lie": shard_of((64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,39996]}}   '),
    "deep JSON": lambda path: (path / "manifest.json").write_text("[" * 200_000),
    "a terminal's escape codes": signed(lambda m: m["tensors"].update({"model.\x1b[2J\nroot": first(m)})),
    "a number for progress": signed(lambda m: m["progress"].update(total_steps="many", stage="x")),
    "a stage that is not there": signed(lambda m: m["progress"].update(stage=7)),
    "a negative stage": signed(lambda m: m["progress"].update(stage=-1)),
    "no progress": signed(lambda m: m.update(progress={})),
    "groups of another kind": signed(lambda m: m["plain"].update(groups=3)),
    "no groups": signed(lambda m: m["plain"].update(group_names=[])),
    "a guard of another kind": signed(lambda m: m["plain"]["extra"].update(guard={"past": 3})),
    "a format of the future": signed(lambda m: m.update(format=9)),
    "rows to pass over that are none": signed(lambda m: m["plain"]["extra"].update(skipped_rows=["x"])),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints(ingot: Any, place: Path, case: str) -> None:
    for path in NEWEST.parent.iterdir():
        if path != NEWEST:
            shutil.rmtree(path)
    HOSTILE[case](NEWEST)
    before = ingot.fingerprint(NEWEST)
    resume_only = (
        "groups of another kind",
        "no groups",
        "a guard of another kind",
        "rows to pass over that are none",
        "a number for progress",
        "a stage that is not there",
        "a negative stage",
        "no progress",
    )
    for argv in (("train", "tiny.yaml"), ("evaluate", NEWEST), ("train", "tiny.yaml", "name=b", "--from", NEWEST)):
        status, out, err = ingot(*argv)
        assert not Path("exploded").exists()
        assert "Traceback" not in err and "internal error" not in err, err
        assert (
            status in (1, 2)
            or (case in resume_only and (argv[0] == "evaluate" or "--from" in argv))
            or case == "rows to pass over that are none"
        ), (argv, out, err)
        assert "\x1b" not in err
        if status:
            assert len(err.strip().splitlines()) <= 2 and ("step-00000006" in err), err
        if status and argv[-1] == "tiny.yaml":
            assert ingot.fingerprint(NEWEST) == before


RUN_FILES = {
    "recipe.yaml that is cut": lambda run: cut(run / "recipe.yaml", 0.5),
    "recipe.yaml that is binary": lambda run: (run / "recipe.yaml").write_bytes(b"\xff\xfe\x00"),
    "recipe.yaml with a tag": lambda run: (run / "recipe.yaml").write_text("!!python/object/apply:os.system ['touch exploded']"),
    "recipe.yaml that is empty": lambda run: (run / "recipe.yaml").write_text(""),
    "recipe.yaml of a list": lambda run: (run / "recipe.yaml").write_text("- 1\n"),
    "recipe.yaml with open brackets": lambda run: (run / "recipe.yaml").write_text("a: [1,\nb: {\n"),
}


@pytest.mark.parametrize("case", RUN_FILES)
def test_a_damaged_recipe_of_the_run(ingot: Any, place: Path, case: str) -> None:
    RUN_FILES[case](Path("runs/tiny"))
    for argv in (("train", "tiny.yaml"), ("evaluate", "runs/tiny"), ("generate", "runs/tiny")):
        status, _, err = ingot(*argv)
        assert status in (1, 2) and "Traceback" not in err and "internal error" not in err, err
        assert "recipe" in err
    assert not Path("exploded").exists()
    assert len(list(NEWEST.parent.iterdir())) == 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"choices": 3}', '{"choices": {"ranks": 1, "device": "cpu", "micro_rows": 5}}', "\xff"]
)
def test_a_damaged_run_json_is_measured_anew(ingot: Any, place: Path, text: str) -> None:
    shutil.rmtree(NEWEST)
    Path("runs/tiny/run.json").write_bytes(text.encode("latin-1"))
    status, _, err = ingot("train", "tiny.yaml")
    assert (status == 0 and json.loads(Path("runs/tiny/run.json").read_text())["choices"]) or (
        status == 1 and "run.json" in err and "internal" not in err
    ), err


LEDGERS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "binary": lambda path: path.write_bytes(os.urandom(5000)),
    "empty": lambda path: path.write_text(""),
    "gone": lambda path: path.unlink(),
    "other lines": lambda path: path.write_text(
        '{"kind": "step"}\n[]\n3\n{"kind": "event", "step": "x"}\n{"kind": 5}\n' + path.read_text()
    ),
    "a line in the middle broken": lambda path: path.write_text(path.read_text().replace('"loss"', '"lo', 3)),
}


@pytest.mark.parametrize("case", LEDGERS)
def test_a_damaged_ledger_does_not_cost_the_run(ingot: Any, place: Path, case: str) -> None:
    shutil.rmtree(NEWEST)
    LEDGERS[case](Path("runs/tiny/ledger.jsonl"))
    status, _, err = ingot("report", "runs/tiny")
    assert status in (0, 1) and "internal error" not in err, err
    status, _, err = ingot("train", "tiny.yaml")
    assert status == 0, err
    from ingot.ledger.ledger import read

    assert [line["step"] for line in read("runs/tiny") if line["kind"] == "step"][-2:] == [5, 6]
    assert ingot("report", "runs/tiny")[0] == 0


@pytest.mark.parametrize("fatal", [2, 4, 6])
def test_killed_while_saving_an_older_one_is_whole(ingot: Any, place: Path, fatal: int) -> None:
    """kill -9 at each of the first moments of a save of a running process."""
    from ingot.train.checkpoint import Checkpoints

    shutil.rmtree(NEWEST)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ingot.cli._mortal", str(fatal), "train", "tiny.yaml"], env=environment, capture_output=True, text=True
    )
    assert done.returncode in (-9, 0), done.stderr
    newest = Checkpoints(NEWEST.parent).latest()
    assert newest is not None and newest.name in ("step-00000004", "step-00000006")
    status, _, err = ingot("train", "tiny.yaml")
    assert status == 0, err
    assert [line["step"] for line in lines() if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert NEWEST.is_dir() and not list(NEWEST.parent.glob(".step-*"))
