"""Mel bands through convolutions: Whisper's stem with the same weights; padding changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context


def build(frames: int, **knobs: Any) -> Any:
    torch.manual_seed(0)
    return spec("nn.embedding", "log_mel", **knobs).build(width=8, sequence=4, fields={"frames": Field((frames, 5))})


def test_whispers_stem() -> None:
    part, frames = build(20, position=None), torch.randn(2, 20, 5)
    one, two = part.convolutions
    wanted = F.gelu(F.conv1d(F.gelu(F.conv1d(frames.mT, one.weight, one.bias, padding=1)), two.weight, two.bias, stride=2, padding=1)).mT
    torch.testing.assert_close(part({"frames": frames}, Context()), wanted)
    assert part.longest == 10 and part.grid({"frames": frames}) == (10,)


def test_padding_changes_nothing() -> None:
    long, short, frames = build(20), build(14), torch.randn(1, 14, 5)
    context = Context()
    padded = F.pad(frames, (0, 0, 0, 6), value=3.0)
    found = long({"frames": padded, "lengths": torch.tensor([13])}, context)
    torch.testing.assert_close(found[:, :7], short({"frames": frames, "lengths": torch.tensor([13])}, Context()))
    assert context.segments_BT.tolist() == [[1] * 7 + [0] * 3] and long.lengths({"lengths": torch.tensor([13, 0])}).tolist() == [7, 0]
