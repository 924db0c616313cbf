"""Dropout depends on (seed, row, layer), not on how rows are batched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ingot.nn.context import Context
from ingot.nn.dropout import Dropout, name_layers


def context(rows: list[int], key: int = 7) -> Context:
    return Context(torch.zeros(len(rows), 1), rows_B=torch.tensor(rows), key=torch.tensor(key))


def test_batch_split_and_order_do_not_matter() -> None:
    layer, x = Dropout(0.3), torch.randn(4, 8, 16)
    whole = layer(x, context([4, 5, 6, 7]))
    assert torch.equal(whole[1:3], layer(x[1:3], context([5, 6])))
    assert torch.equal(whole.flip(0), layer(x.flip(0), context([7, 6, 5, 4])))


def test_rows_keys_and_layers_differ() -> None:
    model = nn.ModuleList([Dropout(0.5), Dropout(0.5)])
    name_layers(model)
    x = torch.ones(1, 16, 64)
    results = [model[0](x, context([1])), model[1](x, context([1])), model[0](x, context([2])), model[0](x, context([1], key=8))]
    for i, first in enumerate(results):
        for second in results[i + 1 :]:
            assert 0.4 < float(((first > 0) == (second > 0)).float().mean()) < 0.6


def test_share_and_mean_are_kept() -> None:
    y = Dropout(0.2)(torch.ones(8, 64, 64), context(list(range(8))))
    assert abs(float((y == 0).float().mean()) - 0.2) < 0.01
    assert abs(float(y.mean()) - 1) < 0.01


def test_identity_in_evaluation_and_refusal_without_rows() -> None:
    layer, x = Dropout(0.5), torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="'rows' and 'key'"):
        layer(x, Context(torch.zeros(2, 3)))
    assert layer.eval()(x, Context(torch.zeros(2, 3))) is x
