"""What a router decides, as two moves: positions to rows of work sorted by expert, and the experts' outputs back to positions.

    inputs_MD = routes.dispatch(x_BTD)    rows sorted by expert; expert e has rows [ends_{e-1}, ends_e)
    y_BTD = routes.combine(outputs_MD)    weighted sums at the positions; zero where no expert worked

B rows   T positions   N = B T   K choices of a position   M rows of work   E experts   S slots of a row   D features
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...ops.grouped import collect, ends_of, spread


class Routes(Protocol):
    """See the module's docstring. ends_E: int32."""

    ends_E: Tensor

    def dispatch(self, x_BTD: Tensor) -> Tensor: ...
    def combine(self, outputs_MD: Tensor) -> Tensor: ...


class Chosen:
    """Every position names K experts (E for none) with a weight each: M = B T K whatever was chosen, so that shapes repeat."""

    def __init__(self, experts_BTK: Tensor, weights_BTK: Tensor, experts: int):
        self.shape, self.copies = experts_BTK.shape[:2], experts_BTK.shape[2]
        sorted_M, self.order_M = experts_BTK.reshape(-1).sort(stable=True)
        places = torch.arange(len(sorted_M), device=sorted_M.device)
        self.inverse_M = torch.empty_like(self.order_M).scatter_(0, self.order_M, places)
        self.ends_E = ends_of(sorted_M, experts)
        self.weights_M = weights_BTK.reshape(-1).index_select(0, self.order_M)

    def dispatch(self, x_BTD: Tensor) -> Tensor:
        return spread(x_BTD.reshape(-1, x_BTD.shape[2]), self.order_M, self.inverse_M)

    def combine(self, outputs_MD: Tensor) -> Tensor:
        weighted_MD = outputs_MD * self.weights_M[:, None].to(outputs_MD.dtype)
        return collect(weighted_MD, self.order_M, self.inverse_M, self.copies).view(*self.shape, -1)


@dataclass
class Picked:
    """Every expert names positions: positions_BEC within the row, with weights (0 for none)."""

    positions_BEC: Tensor
    weights_BEC: Tensor
    length: int

    def __post_init__(self) -> None:
        rows, experts, each = self.positions_BEC.shape
        starts_B11 = torch.arange(rows, device=self.positions_BEC.device)[:, None, None] * self.length
        self.tokens_M = (self.positions_BEC + starts_B11).transpose(0, 1).reshape(-1)
        self.ends_E = torch.arange(1, experts + 1, device=self.positions_BEC.device, dtype=torch.int32) * (rows * each)

    def dispatch(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.reshape(-1, x_BTD.shape[2]).index_select(0, self.tokens_M)

    def combine(self, outputs_MD: Tensor) -> Tensor:
        rows = self.positions_BEC.shape[0]
        weighted_MD = outputs_MD * self.weights_BEC.transpose(0, 1).reshape(-1, 1).to(outputs_MD.dtype)
        y_ND = weighted_MD.new_zeros(rows * self.length, weighted_MD.shape[1]).index_add(0, self.tokens_M, weighted_MD)
        return y_ND.view(rows, self.length, -1)


@dataclass
class Mixed:
    """Every expert has slots, each a weighted mean of the row's positions (dispatch_BTS), and so back (combine_BTS)."""

    dispatch_BTS: Tensor
    combine_BTS: Tensor
    experts: int

    def __post_init__(self) -> None:
        rows, _, slots = self.dispatch_BTS.shape
        self.ends_E = torch.arange(1, self.experts + 1, device=self.dispatch_BTS.device, dtype=torch.int32) * (rows * slots // self.experts)

    def dispatch(self, x_BTD: Tensor) -> Tensor:
        slots_BSD = self.dispatch_BTS.to(x_BTD.dtype).transpose(1, 2) @ x_BTD
        rows, slots, width = slots_BSD.shape
        return slots_BSD.view(rows, self.experts, slots // self.experts, width).transpose(0, 1).reshape(-1, width)

    def combine(self, outputs_MD: Tensor) -> Tensor:
        rows, _, slots = self.dispatch_BTS.shape
        outputs_EBPD = outputs_MD.view(self.experts, rows, slots // self.experts, -1)
        return self.combine_BTS.to(outputs_MD.dtype) @ outputs_EBPD.transpose(0, 1).reshape(rows, slots, -1)
