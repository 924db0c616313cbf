"""Columns as positions: every kind of cell by its definition, and blanks."""

from __future__ import annotations

import torch

from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context

FIELDS = {"numbers": Field((2,)), "numbers_missing": Field((2,), "bool"), "categories": Field((2,), "int64", 4)}


def test_each_cell_by_its_definition() -> None:
    embedding = spec("nn.embedding", "columns").build(width=6, fields=FIELDS)
    batch = {"numbers": torch.tensor([[2.0, 0.0]]), "numbers_missing": torch.tensor([[False, True]]), "categories": torch.tensor([[3, 0]])}
    x = embedding(batch, Context())[0]
    bias = embedding.column.weight
    wanted = [
        embedding.first.weight,
        2 * embedding.number.weight[0] + bias[0],
        embedding.missing.weight[1] + bias[1],
        embedding.category.weight[3] + bias[2],
        embedding.category.weight[4] + bias[3],
    ]
    torch.testing.assert_close(x, torch.stack(wanted))
    assert embedding.present(batch).tolist() == [[True, False, True, False]]


def test_one_kind_alone() -> None:
    embedding = spec("nn.embedding", "columns", class_token=False).build(width=6, fields={"categories": FIELDS["categories"]})
    assert embedding.reads == ("categories",) and embedding.longest == 2
    assert embedding({"categories": torch.tensor([[1, 2]])}, Context()).shape == (1, 2, 6)
