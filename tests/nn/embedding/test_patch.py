"""Patches: the same as a strided convolution, normalized bytes, class token, positions over the grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context

FIELDS = {"image": Field((3, 8, 12), "uint8")}


def embedding(**knobs: Any) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = spec("nn.embedding", "patch", **({"patch": 4} | knobs)).build(
        width=16, linear=spec("nn.linear", "dense"), fields=FIELDS
    )
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_()
    return built


def images(rows: int = 2) -> Tensor:
    return torch.randint(0, 256, (rows, 3, 8, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_equals_a_strided_convolution() -> None:
    layer, image = embedding(position=None, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4]).double(), images()
    normal = (image.double() / 255 - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    expected = F.conv2d(normal, layer.project.weight.view(16, 3, 4, 4), layer.project.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(layer({"image": image}, Context()), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer({"image": normal}, Context()), expected, rtol=1e-6, atol=1e-6)  # floats are taken as they are
    assert layer.grid({"image": image}) == (2, 3) and layer.longest == 6


def test_a_class_token_stands_in_front() -> None:
    layer, image = embedding(class_token=True), images()
    context = Context()
    x = layer({"image": image}, context)
    assert x.shape == (2, 7, 16) and layer.leading == 1 and layer.longest == 7 and context.positions_BT.tolist() == [list(range(7))] * 2
    torch.testing.assert_close(x[:, 0], (layer.first.weight + layer.position.weight[0]).expand(2, -1))


def test_hidden_patches_keep_their_positions() -> None:
    layer, image = embedding(class_token=True), images()
    masked, vector = torch.tensor([[True, False, False, False, True, False]] * 2), torch.ones(16)
    x = layer({"image": image}, Context(hidden=(masked, vector)))
    torch.testing.assert_close(x[0, 1], vector + layer.position.weight[1])
    assert not torch.equal(x[0, 2], vector + layer.position.weight[2])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="patches of 5 do not divide an image of 8 x 12"):
        embedding(patch=5)
    with pytest.raises(UserError, match="say the side of the images"):
        spec("nn.embedding", "patch", patch=4).build(width=16, linear=spec("nn.linear", "dense"), fields={})
    with pytest.raises(UserError, match=r"embedding.std wants one number or one for each of 3 channels, got \[0.1, 0.2\]"):
        embedding(std=[0.1, 0.2])
    with pytest.raises(UserError, match="reads images of 3 channels, the data gives 1"):
        embedding()({"image": images()[:, :1]}, Context())
