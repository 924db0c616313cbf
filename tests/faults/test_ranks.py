"""Something goes wrong on one rank of several: all decide alike, none waits for ever, and what was saved goes on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _launched import launched

from ingot.train.checkpoint import Checkpoints, read_tensors

WORKER = Path(__file__).with_name("_ranks_worker.py")
STEPS, BATCH = 8, 4
POISON = {"kind": "nan", "rows": [18, 20]}  # the last half of the fifth step: all on the second of two ranks
POLICIES = [("skip", "replicate"), ("skip", "fsdp"), ("roll_back", "fsdp"), ("log", "replicate"), ("stop", "replicate")]
PATIENCE = 5.0  # of the launch in which a rank stands still, seconds


def recipe(layout: str, policy: str = "skip") -> dict[str, Any]:
    return {
        "name": "tiny",
        "precision": "fp32",
        "compile": False,
        "micro_rows": 2,
        "layout": layout,
        "data": {"train": {"name": "text_files", "paths": ["left", "right"]}, "holdout": 0.2, "tokenizer": "bytes", "sequence": 32},
        "model": {
            "width": 16,
            "embedding": "token",
            "objective": "causal_lm",
            "encoder": {
                "name": "transformer",
                "depth": 2,
                "mixer": {"name": "attention", "heads": 2},
                "feedforward": "swiglu",
                "norm": "rms",
            },
        },
        "stages": [{"budget": f"{STEPS} steps", "batch": f"{BATCH} rows", "optimizer": {"name": "adamw", "lr": 0.003}, "hooks": ["clip"]}],
        "anomaly": {"policy": policy},
        "evaluate": {"every": "100%", "rows": 4},
        "checkpoint": {"every": "3 steps", "keep_last": 9},
        "log": {"tensorboard": False},
    }


def launches() -> list[dict[str, Any]]:
    def launch(
        name: str, ranks: int, layout: str, fault: dict[str, Any] | None = None, policy: str = "skip", **more: Any
    ) -> dict[str, Any]:
        return {"name": name, "ranks": ranks, "recipe": recipe(layout, policy), "fault": fault} | more

    def waiting(name: str, kind: str) -> dict[str, Any]:
        """The others wait for the first rank to prepare their data, outside of any collective."""
        found = launch(name, 2, "replicate", {"kind": kind, "rank": 0}, environment={"INGOT_RANK_TIMEOUT": str(PATIENCE)})
        found["recipe"]["data"]["cache"] = f"{name}/cache"
        return found

    killed, in_save = {"kind": "kill", "rank": 1, "row": 18}, {"kind": "kill_in_save", "at": "step-00000006"}
    return [
        launch("unbroken", 1, "auto"),
        *(launch(f"{policy}-alone", 1, "auto", POISON, policy) for policy in ("skip", "roll_back")),
        *(launch(f"{policy}-{layout}", 2, layout, POISON, policy) for policy, layout in POLICIES),
        launch("killed", 3, "replicate", killed),
        launch("killed, on 1", 1, "auto", continues="killed"),
        launch("killed, on 2", 2, "fsdp", continues="killed"),
        launch("save of 1", 3, "fsdp", in_save | {"rank": 1, "count": 1}),
        launch("save of 0", 2, "replicate", in_save | {"rank": 0, "count": 3}),
        launch("save of 1, on 2", 2, "replicate", continues="save of 1"),
        launch("raises", 3, "fsdp", {"kind": "raise", "rank": 1, "row": 18}),
        launch("stands still", 3, "replicate", {"kind": "hang", "rank": 1, "row": 18}, environment={"INGOT_RANK_TIMEOUT": str(PATIENCE)}),
        launch("torchrun", 2, "fsdp", killed, torchrun=True),
        *(waiting(f"{kind} in preparing", kind) for kind in ("raise", "kill", "hang")),
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The folder of all launches; made once, also where several pytest processes share the tests."""
    spec = importlib.util.spec_from_file_location("shared_fixtures", repository / "tests/conftest.py")
    assert spec is not None and spec.loader is not None
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    return launched(
        "faults_across_ranks",
        tmp_path_factory,
        repository,
        WORKER,
        launches,
        lambda folder, seed: shared.write_corpus(folder, seed=seed),
        580,
    )


def ended(place: Path) -> dict[int, tuple[int, float]]:
    """Exit status and seconds by rank."""
    path = place / "ended.json"
    assert path.exists(), f"{place.name} did not end:\n{(place.parent / 'log').read_text()[-4000:]}"
    return {int(rank): (status, seconds) for rank, (status, seconds) in json.loads(path.read_text()).items() if rank.isdigit()}


def said(place: Path, rank: int) -> list[str]:
    return (place / f"rank-{rank}.err").read_text().splitlines()


def ledger(place: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (place / "runs/tiny/ledger.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights(place: Path) -> dict[str, torch.Tensor]:
    path = Checkpoints(place / "runs/tiny/checkpoints").latest()
    assert path is not None
    return read_tensors(path)


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(("policy", "layout"), POLICIES)
def test_all_ranks_decide_alike(results: Path, policy: str, layout: str) -> None:
    """NaN on the second rank alone: the rows are named, the ranks end alike, with equal weights, as one rank would have."""
    place = results / f"{policy}-{layout}"
    event = next(line for line in ledger(place, "event") if line["name"] == "nonfinite")
    assert event["step"] == 5 and event["action"] == policy and {row["row"] for row in event["rows"][:2]} == {18, 19}
    assert {status for status, _ in ended(place).values()} == ({1} if policy == "stop" else {0}), [said(place, rank) for rank in range(2)]
    if policy == "stop":
        for rank in range(2):
            (line,) = said(place, rank)
            assert "step 5: loss is nan" in line and "last checkpoint is whole" in line
        assert [line["step"] for line in ledger(place, "step")] == [1, 2, 3, 4]
        return
    told = [json.loads((place / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert told[0]["weights"] == told[1]["weights"]
    assert 18 not in told[0]["rows"] and 18 in told[1]["rows"], "the bad rows are the second rank's"
    finite = all(bool(torch.isfinite(value).all()) for value in weights(place).values())
    assert finite == (policy != "log")
    if policy != "log":
        assert differ(weights(place), weights(results / f"{policy}-alone")) < 1e-4
        assert differ(weights(place), weights(results / "unbroken")) > 1e-4, "the bad step left no trace"


def test_a_killed_rank_ends_the_others_with_a_line(results: Path) -> None:
    place = results / "killed"
    found = ended(place)
    assert {rank: status for rank, (status, _) in found.items()} == {0: 1, 1: -9, 2: 1}
    assert max(seconds for _, seconds in found.values()) - found[1][1] < 15
    for rank in (0, 2):
        (line,) = said(place, rank)
        assert "rank 1 did not answer" in line and "any number of ranks" in line


def test_a_rank_that_raises_is_quoted_by_the_others(results: Path) -> None:
    place = results / "raises"
    found = ended(place)
    assert {status for status, _ in found.values()} == {1}
    assert max(seconds for _, seconds in found.values()) - found[1][1] < 15
    for rank in (0, 2):
        (line,) = said(place, rank)
        assert "rank 1 failed: AssertionError: planted" in line
    assert "Traceback" not in "".join(said(place, 1)) and "planted" in said(place, 1)[0]


def test_a_rank_that_stands_still_is_named(results: Path) -> None:
    place = results / "stands still"
    found = ended(place)
    assert found[0][0] == found[2][0] == 1
    assert max(found[0][1], found[2][1]) < 60
    for rank in (0, 2):
        (line,) = said(place, rank)
        assert "rank 1 did not answer in time" in line


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raise", "rank 0 failed: AssertionError: planted"),
        ("kill", "rank 0 did not answer: killed, or lost with its machine"),
        ("hang", "rank 0 did not answer in time"),
    ],
)
def test_who_waits_for_the_data_hears_of_the_rank_that_prepares_it(results: Path, kind: str, words: str) -> None:
    place = results / f"{kind} in preparing"
    status, seconds = ended(place)[1]
    (line,) = said(place, 1)
    assert status == 1 and words in line and seconds < 4 * PATIENCE


def test_torchrun_ends_with_the_same_line(results: Path) -> None:
    place = results / "torchrun"
    (line,) = said(place, 0)
    assert "rank 1 did not answer" in line
    assert json.loads((place / "ended.json").read_text())["torchrun"][0] == 1


@pytest.mark.parametrize(("name", "rank"), [("save of 1", 1), ("save of 0", 0)])
def test_killed_while_saving(results: Path, name: str, rank: int) -> None:
    """The checkpoint in hand is lost, the one before is whole, and the others end with a line."""
    place = results / name
    found = ended(place)
    assert found[rank][0] == -9 and all(status == 1 for other, (status, _) in found.items() if other != rank)
    for other in found.keys() - {rank}:
        (line,) = said(place, other)
        assert f"rank {rank} did not answer" in line
    assert [path.name for path in Checkpoints(place / "runs/tiny/checkpoints").all()] == ["step-00000000", "step-00000003"]
    newest = Checkpoints(place / "runs/tiny/checkpoints").latest()
    assert newest is not None and newest.name == "step-00000003"


@pytest.mark.parametrize("name", ["killed, on 1", "killed, on 2", "save of 1, on 2"])
def test_what_was_saved_goes_on_with_other_ranks(results: Path, name: str) -> None:
    """From the checkpoint at step 3 with another number of ranks and another layout: its rows are the rest, each once; its losses the unbroken run's."""
    place = results / name
    assert {status for status, _ in ended(place).values()} == {0}, [said(place, rank) for rank in ended(place)]
    rows = sorted(row for rank in ended(place) for row in json.loads((place / f"rank-{rank}.json").read_text())["rows"])
    assert rows == list(range(3 * BATCH, STEPS * BATCH))
    wanted, found = ({line["step"]: line["loss"] for line in ledger(folder, "step")} for folder in (results / "unbroken", place))
    assert found == pytest.approx(wanted, rel=1e-4) and list(found) == list(range(1, STEPS + 1))
    assert differ(weights(place), weights(results / "unbroken")) < 1e-4
    assert any(line["name"] == "resume" for line in ledger(place, "event"))
