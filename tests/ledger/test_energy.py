"""Joules from the machine's counters: summed over packages, across a counter's end, and absent where nothing can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.ledger import energy
from ingot.ledger.energy import Energy


def zone(folder: Path, name: str, joules: float, kind: str = "package-0") -> Path:
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "name").write_text(kind + "\n")
    (place / "max_energy_range_uj").write_text("262143328850\n")
    (place / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    return place


def test_sums_packages_and_not_their_parts(tmp_path: Path) -> None:
    zones = [
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl", ""),
    ]
    for name, kind in zones:
        zone(tmp_path, name, 100, kind)
    found = Energy("cpu", tmp_path)
    assert found.since_last() == {"cpu": 0.0}
    for number, (name, kind) in enumerate(zones):
        zone(tmp_path, name, 100 + 10**number, kind)
    assert found.since_last() == {"cpu": pytest.approx(1 + 10)}
    assert found.since_last() == {"cpu": 0.0}


def test_a_counter_that_begins_again(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 262_143)
    found = Energy("cpu", tmp_path)
    zone(tmp_path, "intel-rapl:0", 5)
    assert found.since_last()["cpu"] == pytest.approx(262_143.328850 - 262_143 + 5)


def test_nothing_where_nothing_can_be_read(tmp_path: Path) -> None:
    assert Energy("cpu", tmp_path / "none").since_last() == {}
    (zone(tmp_path, "intel-rapl:0", 5) / "energy_uj").unlink()  # as for a user who may not read it
    assert Energy("cpu", tmp_path).since_last() == {}


def test_the_ledger_tells_it(tiny_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that grows by 3 J at every look: so many in every line, and no such entry without a counter."""
    looks = iter(range(0, 10**6, 3))
    monkeypatch.setattr(energy, "_packages", lambda powercap: [("cpu", lambda: float(next(looks)), 0.0)])
    ingot.build(tiny_recipe({"stages": {0: {"budget": "3 steps"}}})).train()
    monkeypatch.setattr(energy, "_packages", lambda powercap: [])
    ingot.build(tiny_recipe({"stages": {0: {"budget": "1 steps"}}}, name="silent")).train()
    lines = {name: [json.loads(line) for line in Path(f"runs/{name}/ledger.jsonl").read_text().splitlines()] for name in ("tiny", "silent")}
    assert [line["joules"] for line in lines["tiny"] if line["kind"] in ("step", "end")] == [{"cpu": 3.0}] * 4
    assert not any("joules" in line for line in lines["silent"])
