"""Stems: each modality as its own embedding gives it, told apart by a vector, put together in one row."""

from __future__ import annotations

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context

FIELDS = {"image": Field((3, 8, 8), "uint8")}
WIRING = {"width": 16, "linear": spec("nn.linear", "dense"), "sequence": 6, "vocabulary": 20, "fields": FIELDS}


def stems() -> torch.nn.Module:
    torch.manual_seed(0)
    built = spec(
        "nn.embedding", "stems", stems={"image": {"name": "patch", "patch": 4}, "text": {"name": "token", "position": "learned"}}
    ).build(**WIRING)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_()
    return built


def batch() -> dict[str, torch.Tensor]:
    return {
        "image": torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8),
        "tokens": torch.arange(12).view(2, 6),
        "segments": torch.tensor([[1] * 6, [1] * 3 + [0] * 3]),
        "positions": torch.arange(6).expand(2, -1),
    }


def test_each_is_its_own_embedding_and_a_vector() -> None:
    built, given, context = stems(), batch(), Context()
    x = built(given, context)
    torch.testing.assert_close(x[:, :4], built.stems["image"](given, Context()) + built.kinds["image"].weight)
    torch.testing.assert_close(x[:, 4:], built.stems["text"](given, Context()) + built.kinds["text"].weight)
    assert context.segments_BT.tolist() == [[1] * 10, [1] * 7 + [0] * 3]
    assert built.longest == 10 and built.grid(given) == (10,) and built.vocabulary == 20
    assert built.weight is built.stems["text"].weight


def test_real_positions_are_those_of_all_stems_that_are_there() -> None:
    built, given = stems(), batch() | {"rows": torch.arange(2)}
    assert built.lengths(given).tolist() == [10, 7]
    assert built.lengths({key: value for key, value in given.items() if key != "image"}).tolist() == [6, 3]


def test_what_no_stem_reads_is_refused() -> None:
    with pytest.raises(UserError, match="they read image, tokens"):
        stems()({"waveform": torch.zeros(2, 5)}, Context())
