"""Mixing over positions: equal documents as rows of their own, the gate, and no looking ahead in secret."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.nn.context import Context


def built(**knobs: Any) -> Any:
    torch.manual_seed(0)
    mixer = spec("nn.mixer", "mlp_mixing", **knobs).build(width=4, linear=spec("nn.linear", "dense"), sequence=5)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def test_it_is_what_it_says() -> None:
    mixer, x = built(), torch.randn(2, 5, 4)
    u = mixer.down.weight @ F.gelu(mixer.up.weight @ x + mixer.up.bias[:, None]) + mixer.down.bias[:, None]
    wanted = u * (mixer.gate.weight @ u + mixer.gate.bias[:, None]).softmax(dim=1)
    torch.testing.assert_close(mixer(x, Context(causal=False)), wanted)
    mixer.gate = None
    torch.testing.assert_close(mixer(x, Context(causal=False)), u)


@pytest.mark.parametrize("gated", [True, False])
def test_equal_documents_are_as_rows(gated: bool) -> None:
    mixer, x = built(gated=gated), torch.randn(3, 8, 4)
    place = torch.arange(8)
    context = Context((place % 4).expand(3, -1), (place // 4 + 1).expand(3, -1), False)
    wanted = mixer(x.view(6, 4, 4), Context(causal=False)).reshape(3, 8, 4)
    torch.testing.assert_close(mixer(x, context), wanted)
    context.even = 2
    torch.testing.assert_close(mixer(x, context), wanted)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="a causal objective wants a mixer that does not look ahead"):
        built()(torch.randn(1, 5, 4), Context(causal=True))
    with pytest.raises(UserError, match="weights for 5 positions, a document has 6"):
        built()(torch.randn(1, 6, 4), Context(causal=False))
    place, documents = torch.arange(8)[None], torch.ones(1, 8, dtype=torch.int64)
    with pytest.raises(UserError, match="weights for 5 positions, a document has 8"):
        built()(torch.randn(1, 8, 4), Context(place, documents, False))
