from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.resolve import spec
from ingot.data.text_rows import TextRows

END = 0


class Store:
    """Documents in memory behind the interface of a token store."""

    def __init__(self, sizes: list[int]):
        self.documents = [np.append(np.arange(1, size) + 1000 * index, END) for index, size in enumerate(sizes, 1)]
        self.tokens = np.concatenate(self.documents) if sizes else np.zeros(0, np.int64)
        self.total, self.identity, self.sizes = len(self.tokens), [str(sizes)], sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def chunks(self):
        for at in range(0, len(self.sizes), 3):
            yield np.array(self.sizes[at : at + 3], dtype=np.int64)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        return np.stack([self.tokens[start : start + length] for start in starts])

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.concatenate([self.tokens[start : start + length] for start, length in zip(starts, lengths)])


def rows_of(name: str, sizes: list[int], sequence: int, **knobs: object) -> tuple[Store, TextRows, dict[str, np.ndarray]]:
    store = Store(sizes)
    pack = spec("data.pack", name, **knobs).build(lengths=store, sequence=sequence, cache=None)
    rows = TextRows(store, pack, sequence=sequence, end=END, pad=7)  # type: ignore[arg-type]
    ids = np.arange(len(rows))
    return store, rows, rows.rows(ids, ids)


def check_layout(batch: dict[str, np.ndarray]) -> None:
    """Segments are runs 1, 2, ... then padding; each holds tokens of one document in order; positions count within the segment."""
    for tokens, segments, positions in zip(batch["tokens"], batch["segments"], batch["positions"]):
        filled = int((segments > 0).sum())
        assert (segments[filled:] == 0).all() and (positions[filled:] == 0).all() and (tokens[filled:] == 7).all()
        assert segments[0] == 1 and set(np.diff(segments[:filled])) <= {0, 1}
        for number in range(1, segments.max() + 1):
            inside = tokens[segments == number]
            assert np.array_equal(positions[segments == number], np.arange(len(inside)))
            assert END not in inside[:-1]
            body = inside[inside != END]
            assert len(set(body // 1000)) <= 1 and (np.diff(body) == 1).all()


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), sequence=st.integers(2, 33))
def test_every_token_exactly_once_in_order(sizes: list[int], sequence: int) -> None:
    store, rows, batch = rows_of("stream", sizes, sequence)
    assert np.array_equal(batch["tokens"][batch["segments"] > 0], store.tokens)
    assert len(rows) == -(-store.total // sequence)
    check_layout(batch)


def test_attend_row_sees_the_whole_row() -> None:
    _, _, batch = rows_of("stream", [3, 4, 2], 8, attend="row")
    assert batch["segments"].tolist() == [[1] * 8, [1] + [0] * 7]
    assert batch["positions"][0].tolist() == list(range(8))


def test_reports_documents_that_rows_cut() -> None:
    _, rows, _ = rows_of("stream", [4, 4, 3, 5], 8)
    assert rows.pack.report() == {"rows": 2, "padding": 0.0, "cut": 0.0}
    _, rows, _ = rows_of("stream", [5, 5, 5, 1], 8)
    assert rows.pack.report()["cut"] == 0.25
