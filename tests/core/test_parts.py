"""The registry is the file tree; third parties enter through entry points; listing imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ingot.core.parts import Entry, load, part, parts_in, signature


def test_the_tree_is_the_registry() -> None:
    assert "cosine" in parts_in("schedule")
    assert load("schedule", "cosine").__name__ == "cosine"
    assert parts_in("schedule")["cosine"].summary.startswith("Cosine decay")
    assert parts_in("no.such.slot") == {}
    with pytest.raises(KeyError):
        load("schedule", "nothing")


def test_a_file_holds_exactly_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("ingot.schedule.fake")
    monkeypatch.setitem(sys.modules, "ingot.schedule.fake", module)
    with pytest.raises(LookupError, match="0 parts"):
        Entry("schedule", "fake").load()


def test_signature_splits_wiring_from_knobs() -> None:
    @part
    class Example:
        def __init__(self, width: int, layer: int = 0, *, rate: float, name: str = "x"): ...

    found = signature(Example)
    assert list(found.wiring) == ["width", "layer"]
    assert str(found) == "Example(rate, name='x')"


def test_core_does_not_import_torch() -> None:
    code = "import sys, ingot.core.resolve, ingot.core.seams, ingot.core.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
