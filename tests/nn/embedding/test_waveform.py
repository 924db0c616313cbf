"""The waveform stem: positions, padding that changes nothing, the gradient's factor, hidden positions. Against transformers: see
tests/convert/test_sound.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context

STEM = {"channels": 6, "kernels": [10, 3], "strides": [5, 2], "neighbors": 4, "groups": 2}


def build(samples: int, **knobs: Any) -> Any:
    torch.manual_seed(0)
    return spec("nn.embedding", "waveform", **STEM | knobs).build(
        width=8, sequence=4, linear=spec("nn.linear", "dense"), fields={"waveform": Field((samples,))}
    )


@pytest.mark.parametrize("norms", ["first", "all"])
def test_padding_changes_nothing(norms: str) -> None:
    long, short, sound = build(300, norms=norms), build(200, norms=norms), torch.randn(1, 200)
    found = long({"waveform": F.pad(sound, (0, 100)), "lengths": torch.tensor([200])}, context := Context())
    wanted = short({"waveform": sound, "lengths": torch.tensor([200])}, Context())
    real = short.longest
    torch.testing.assert_close(found[:, :real], wanted)
    assert context.segments_BT.sum() == real and long.longest > real
    torch.testing.assert_close(wanted, short({"waveform": sound}, Context()))


def test_published_positions() -> None:
    stem = spec("nn.embedding", "waveform", channels=2, neighbors=0).build(
        width=2, sequence=4, linear=spec("nn.linear", "dense"), fields={"waveform": Field((16000,))}
    )
    assert stem.longest == 49 and stem.stride == 320 and stem.lengths({"lengths": torch.tensor([400, 16000, 0])}).tolist() == [1, 49, 0]
    with pytest.raises(UserError, match="399 samples"):
        spec("nn.embedding", "waveform").build(width=32, sequence=4, linear=spec("nn.linear", "dense"), fields={"waveform": Field((399,))})


def test_loudness_and_offset_do_not_matter() -> None:
    part, sound = build(200), torch.randn(1, 200)
    torch.testing.assert_close(part({"waveform": 7 * sound + 3}, Context()), part({"waveform": sound}, Context()), rtol=1e-4, atol=1e-5)


def test_the_convolutions_gradient_is_scaled_and_nothing_else() -> None:
    grads = []
    for gradient in (1.0, 0.1):
        part = build(200, gradient=gradient)
        out = part({"waveform": torch.linspace(-1, 1, 200).sin()[None]}, Context())
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        grads.append((out.detach(), part.convolutions[0].weight.grad, part.project.weight.grad))
    torch.testing.assert_close(grads[1][0], grads[0][0])
    torch.testing.assert_close(grads[1][1], 0.1 * grads[0][1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(grads[1][2], grads[0][2], rtol=1e-4, atol=1e-4)


def test_what_is_hidden_is_not_seen() -> None:
    part = build(200, neighbors=0)
    masked = torch.zeros(1, part.longest, dtype=torch.bool)
    masked[:, 3:6] = True
    vector = torch.ones(8)
    one, other = (part({"waveform": torch.randn(1, 200)}, Context(hidden=(masked, vector))) for _ in range(2))
    assert torch.equal(one[:, 3:6], other[:, 3:6]) and not torch.equal(one[:, :3], other[:, :3])
