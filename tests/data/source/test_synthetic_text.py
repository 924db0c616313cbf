"""Drawn sentences: a class is told by words of its own, a row by its number alone."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec
from ingot.data.source.synthetic_text import word


def test_words_are_told_apart() -> None:
    assert len({word(number) for number in range(2000)}) == 2000


def test_words_of_a_class_are_in_its_sentences_alone() -> None:
    found = spec("data.source", "synthetic_text", count=300, classes=3, common=20, told=0.5, length=8).build()
    own = [{word(20 + 3 * label + number) for number in range(3)} for label in range(3)]
    given = found.rows(np.arange(300), np.arange(300))
    shares = [[np.mean([word in own[other] for word in sentence.split()]) for other in range(3)] for sentence in found.captions()]
    for label in range(3):
        here = np.array(shares)[given["label"] == label]
        assert 0.45 < here[:, label].mean() < 0.55 and not np.delete(here, label, axis=1).any()


def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    few, many = (spec("data.source", "synthetic_text", count=count).build().captions() for count in (5, 50))
    assert list(few) == list(many[:5]) and list(few) != list(spec("data.source", "synthetic_text", count=5, seed=1).build().captions())
