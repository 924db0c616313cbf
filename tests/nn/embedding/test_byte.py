"""The byte embedding needs no trained vocabulary."""

from __future__ import annotations

import torch

from ingot.core.parts import load
from ingot.core.resolve import spec
from ingot.nn.context import Context


def test_holds_every_byte_and_specials() -> None:
    layer = spec("nn.embedding", "byte").build(width=6, sequence=16)
    text = torch.tensor([list("Grüße 你".encode())])
    assert torch.equal(layer({"tokens": text}, Context(torch.zeros_like(text))), layer.weight[text])
    assert layer.weight.shape[0] > 256
    assert spec("nn.embedding", "byte").build(width=6, sequence=16, vocabulary=258).weight.shape == (258, 6)
    assert load("nn.embedding", "byte").tokenizer == "bytes"
