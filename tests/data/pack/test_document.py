from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

_loaded = importlib.util.spec_from_file_location("stream_rows", Path(__file__).with_name("test_stream.py"))
assert _loaded is not None and _loaded.loader is not None
shared = importlib.util.module_from_spec(_loaded)
_loaded.loader.exec_module(shared)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), sequence=st.integers(2, 33))
def test_one_document_a_row(sizes: list[int], sequence: int) -> None:
    store, rows, batch = shared.rows_of("document", sizes, sequence)
    assert np.array_equal(batch["tokens"][batch["segments"] > 0], store.tokens)
    assert batch["segments"].max() == 1 and len(rows) == sum(-(-size // sequence) for size in sizes)
    shared.check_layout(batch)


def test_long_documents_may_lose_their_end() -> None:
    store, rows, batch = shared.rows_of("document", [3, 20, 8], 8, long="cut")
    assert len(rows) == 3
    assert batch["tokens"][1].tolist() == store.documents[1][:8].tolist()
    assert rows.pack.report() == {"rows": 3, "padding": 1 - 19 / 24, "cut": 1 / 3}
