"""Latents as an embedding: one position, projected where widths differ and as they are where not."""

from __future__ import annotations

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context

WIRING = {"width": 6, "linear": spec("nn.linear", "dense")}
EMPTY = {"causal": False, "rows_B": None, "key": None, "cache": None}


def test_projected_where_widths_differ() -> None:
    built = spec("nn.embedding", "latent", key="latent_text").build(**WIRING, fields={"latent_text": Field((4,))})
    z = torch.randn(3, 4)
    x = built({"latent_text": z}, Context(None, None, **EMPTY))
    torch.testing.assert_close(x, (z @ built.project.weight.T + built.project.bias)[:, None])
    assert built.reads == ("latent_text",) and built.settled() == {"size": 4}


def test_taken_as_they_are_where_not() -> None:
    built = spec("nn.embedding", "latent", size=6).build(**WIRING)
    z = torch.randn(3, 6)
    assert torch.equal(built({"latent": z}, Context(None, None, **EMPTY))[:, 0], z) and not list(built.parameters())


def test_other_data_is_refused() -> None:
    with pytest.raises(UserError, match="gives no 'latent_image'"):
        spec("nn.embedding", "latent", key="latent_image").build(**WIRING)
    with pytest.raises(UserError, match="latents of 5"):
        spec("nn.embedding", "latent", size=5).build(**WIRING)({"latent": torch.randn(2, 4)}, Context(None, None, **EMPTY))
