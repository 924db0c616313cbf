from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec

ONE = {"name": "text_files", "paths": ["x"]}


def mixture(**knobs: object):
    return spec("data.source", "mixture", sources={"web": ONE, "books": ONE}, **knobs).build(folder=Path("."))


def test_defaults_to_the_sizes_of_the_sources() -> None:
    assert mixture().order({"web": 300, "books": 100}, 512).counts(1000).tolist() == [750, 250]


def test_weights_phases_and_caps() -> None:
    part = mixture(
        weights={"web": 3, "books": 1},
        max_epochs={"books": 2.5},
        phases=[{"start": "2k rows", "weights": {"web": 1, "books": 1}}, {"start": "2048k tokens", "weights": {"books": 1}}],
    )
    order = part.order({"web": 10_000, "books": 2000}, 512)
    assert order.counts(2000).tolist() == [1500, 500]
    assert order.counts(4000).tolist() == [2500, 1500]
    source, _ = order.locate(np.arange(4000, 7500))
    assert (source == 1).all() and order.end == 4000 + 3500


BAD = [
    ({"weights": {"web": 1, "boks": 2}}, r"weights: there is no source named 'boks'\. Did you mean 'books'\?"),
    ({"weights": {"web": 1}}, "weights: gives no weight to source 'books'; write 0 to leave it out"),
    ({"weights": {"web": 0, "books": 0}}, "weights: wants at least one weight above 0"),
    ({"weights": {"web": -1, "books": 0}}, "wants a number at least 0, got -1|at least 0"),
    ({"max_epochs": {"wiki": 1}}, "max_epochs: there is no source named 'wiki'"),
    ({"phases": [{"start": "5 rows", "weights": {"wiki": 1}}]}, r"phases\.0\.weights: there is no source named 'wiki'"),
    ({"phases": [{"start": "5 min", "weights": {"web": 1}}]}, r"phases\.0\.start: wants rows or tokens"),
    (
        {"phases": [{"start": "9 rows", "weights": {"web": 1}}, {"start": "9 rows", "weights": {"web": 1}}]},
        r"phases\.1\.start: wants a row after",
    ),
    ({"sources": {}}, "sources: wants at least one source"),
    ({"sources": {"m": {"name": "mixture", "sources": {"a": ONE}}}}, "a mixture cannot hold a mixture"),
]


@pytest.mark.parametrize(("knobs", "message"), BAD)
def test_what_cannot_be_meant_is_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        part = spec("data.source", "mixture", **({"sources": {"web": ONE, "books": ONE}} | knobs)).build(folder=Path("."))
        part.order({"web": 100, "books": 100}, 512)
