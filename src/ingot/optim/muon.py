r"""Muon: momentum orthogonalized by Newton-Schulz, for matrices; another optimizer for the rest.   Jordan et al. 2024 (the post
"Muon: An optimizer for hidden layers in neural networks"); its scale for AdamW's learning rates: Liu et al. 2025, arXiv:2502.16982, eq. 4.

    m_t = mu m_{t-1} + (1 - mu) g_t        u_t = (1 - mu) g_t + mu m_t with nesterov, else m_t
    w_t = w_{t-1} - lr weight_decay w_{t-1} - lr s NewtonSchulz(u_t)
    s = sqrt(max(1, rows / columns))  "original"       s = 0.2 sqrt(max(rows, columns))  "match_rms_adamw"

Options, each from its paper:

    coefficients: polar_express   another polynomial in every iteration, nearer to orthogonal   Amsel et al. 2025, arXiv:2505.16932
    normalize: neurons            NorMuon, Li et al. 2025, arXiv:2510.05491, Algorithm 1: with O = NewtonSchulz(u_t), row by row
                                  n_t = b n_{t-1} + (1 - b) mean_columns(O^2),   O^ = O / (sqrt(n_t) + 1e-10),   and O^ in place of O,
                                  scaled to the norm of O ("original") or to a root mean square of 0.2 ("match_rms_adamw")
    cautious: true                decay only where the update has the sign of the weight   Chen et al. 2025, arXiv:2510.12402, Algorithm 1:
                                  w_t = w_{t-1} - lr (s O + weight_decay [O w_{t-1} >= 0] w_{t-1})

A matrix is a weight with the declared role "matrix"; its leading axis of experts or blocks counts matrices, further axes count as columns.
Weights without declared axes are matrices when they have two dimensions or more. Everything else goes to `rest`, which keeps its own
learning rate and weight decay in its own groups.

Shapes: u, m, g as w; n: one per row.   State: one tensor per matrix, with neurons one number per row; rest's for the others.
Cost: 5 (4 r^2 c + 2 r^3) FLOPs per matrix of r x c, r <= c, fewer for wide ones in fp32.
Sharding: momentum stays sharded; the update alone is gathered, and every rank repeats the iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from ..core.axes import STACKS, Axes
from ..core.parts import NonNegative, Positive, Slot, part
from ..core.recipe import Recipe
from ..core.resolve import resolve
from ..ops.bf16 import multiplies_bf16
from ._declared import fixed
from ._groups import Beta, Group, Layout, StatefulOptimizer, count, local, local_gradient, normal_groups, prepare_groups
from ._orthogonal import STEPS, Coefficients, orthogonalize, worth_stacking

REST = {"name": "adamw", "lr": 3e-4}
_CHUNK = 2**26  # elements gathered and iterated at once: bounds the extra memory to a few hundred MB


@part
class Muon(StatefulOptimizer):
    """lr: of the matrices. scale: of the update, by shape. rest: optimizer of all other weights, with its own lr. neuron_beta: b of
    the rows' second moment.

    iteration_dtype: "auto" is bf16 on CUDA and the weight's own dtype elsewhere; "fast" is bf16 on every device that multiplies it
    natively. On a CPU that does, bf16 is two to three times faster, but a rounding error in a gradient may then change the update by
    1e-3; on one that does not, it takes many times as long.
    """

    width_rule = "spectral"
    state_powers: ClassVar[dict[str, int | str]] = StatefulOptimizer.state_powers | {"neurons": "each row"}

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        momentum: Beta = 0.95,
        nesterov: bool = True,
        weight_decay: NonNegative[float] = 0.0,
        scale: Literal["original", "match_rms_adamw"] = "original",
        iterations: Positive[int] = STEPS,
        coefficients: Coefficients = "original",
        normalize: Literal["none", "neurons"] = "none",
        neuron_beta: Beta = 0.95,
        cautious: bool = False,
        iteration_dtype: Literal["auto", "fast", "bf16", "fp32"] = "auto",
        rest: Slot["optim"] = REST,
    ):
        groups = normal_groups(params)
        matrices = [chosen for group in groups if (chosen := _select(group, matrices=True))["params"]]
        others = [chosen for group in groups if (chosen := _select(group, matrices=False))["params"]]
        if matrices:
            matrices = prepare_groups(matrices, lr=lr, weight_decay=weight_decay)
        for group in matrices:
            group |= {"rule": "muon", "momentum": momentum, "nesterov": nesterov, "neuron_beta": neuron_beta}
        self.scale, self.iterations, self.iteration_dtype = scale, iterations, iteration_dtype
        self.coefficients, self.neurons, self.cautious = coefficients, normalize == "neurons", cautious
        self.rest: Any = resolve(Recipe(rest), Slot["optim"]).build(params=others) if others else None
        self.built = False
        super().__init__(matrices + (self.rest.param_groups if self.rest else []), {})
        self.built = True
        self._link()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        if why := getattr(knobs["rest"].target, "around_closure", ""):
            yield f"Muon: the rest cannot be updated by {knobs['rest'].name!r}, which {why}"
        yield from fixed(knobs, context, "normalize")

    def _link(self) -> None:
        """Let `rest` work on this optimizer's own group dicts and state."""
        if self.rest is not None:
            others = [group for group in self.param_groups if group.get("rule") != "muon"]
            self.rest.__setstate__({"state": self.state, "param_groups": others})

    def __getstate__(self) -> dict[str, Any]:
        kept = ("rest", "built", "scale", "iterations", "iteration_dtype", "coefficients", "neurons", "cautious")
        return super().__getstate__() | {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # torch's load_state_dict comes here with fresh group dicts and a fresh state
        super().__setstate__(state)
        self._link()

    def add_param_group(self, param_group: Group) -> None:
        """As torch's while the optimizer is built; later it could not tell who claims the weights, and raises RuntimeError."""
        if self.built:
            raise RuntimeError("Muon claims its weights when it is built: build a new one for new weights")
        super().add_param_group(param_group)

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        if is_matrix(axes, shape):
            return {"momentum": "elementwise"} | ({"neurons": "per_axis"} if self.neurons else {})
        layout: dict[str, Layout] = self.rest.state_layout(axes, shape)
        return layout

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        if not is_matrix(axes, shape):
            return int(self.rest.state_bytes(shape, dtype, axes))
        matrices, rows, _ = matrix_view(axes, shape)
        return (count(shape) + (matrices * rows if self.neurons else 0)) * dtype.itemsize

    def state_dtypes(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.dtype]:
        found: dict[str, torch.dtype] = {} if is_matrix(axes, shape) else self.rest.state_dtypes(axes, shape, dtype)
        return found

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        if group.get("rule") == "muon":
            axes = next(axes for held, axes in zip(group["params"], group["axes"]) if held is weight)
            view = matrix_view(axes, tuple(weight.shape))
            # the rows' moments are whole on every rank: they are few, and follow from the update, which every rank works out
            neurons = {"neurons": torch.zeros(view[:2], dtype=weight.dtype, device=weight.device)} if self.neurons else {}
            return {"momentum": torch.zeros_like(weight)} | neurons
        fresh: dict[str, Tensor] = self.rest.new_state(weight, group)
        return fresh

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of the matrices, then of the rest; the closure is called once."""
        loss = super().step(closure)
        if self.rest is not None:
            self.rest.step()
        return loss

    def update_one(self, group: Group, weight: Tensor) -> None:
        """As the base's; a weight of the rest is updated by its own optimizer."""
        if group.get("rule") == "muon" or self.rest is None:
            super().update_one(group, weight)
        else:
            self.rest.update_one(group, weight)

    def update(self, group: Group, weights: list[Tensor]) -> None:
        if group.get("rule") != "muon":
            return
        gradients = [local_gradient(weight) for weight in weights]
        momenta = [local(self.state[weight]["momentum"]) for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        axes = {id(weight): axes for weight, axes in zip(group["params"], group["axes"])}
        views = [matrix_view(axes[id(weight)], tuple(weight.shape)) for weight in weights]
        for chunk in _chunks(weights, views):
            directions = [momenta[i] for i in chunk]
            if group["nesterov"]:
                directions = list(torch._foreach_lerp([gradients[i] for i in chunk], directions, group["momentum"]))
            self._move(group, [weights[i] for i in chunk], directions, [views[i] for i in chunk])

    def _move(self, group: Group, weights: list[Tensor], directions: list[Tensor], views: list[tuple[int, int, int]]) -> None:
        """Gather, orthogonalize and apply the directions (this rank's pieces) of weights whose matrices have the same shape."""
        dtype = self._dtype(weights[0])
        gathered = [_gather(direction.to(dtype), weight).reshape(view) for direction, weight, view in zip(directions, weights, views)]
        updates = orthogonalize(torch.cat(gathered) if len(gathered) > 1 else gathered[0], self.iterations, self.coefficients)
        _, rows, columns = views[0]
        scale = math.sqrt(max(1, rows / columns)) if self.scale == "original" else 0.2 * math.sqrt(max(rows, columns))
        for weight, update_NRC in zip(weights, updates.split([view[0] for view in views])):
            if self.neurons:
                update_NRC = self._normalized(update_NRC, self.state[weight]["neurons"], group["neuron_beta"])
            piece, update = local(weight), _piece(update_NRC.reshape(weight.shape), weight)
            decay = group["lr"] * group["weight_decay"]
            piece.mul_(1 - decay * (update * piece >= 0).to(piece.dtype) if self.cautious and decay else 1 - decay)
            piece.add_(update, alpha=-group["lr"] * scale)

    def _normalized(self, update_NRC: Tensor, second_NR: Tensor, beta: float) -> Tensor:
        """NorMuon's O^ for O: rows divided by the roots of their second moments, the matrix scaled back as a whole."""
        update_NRC = update_NRC.to(second_NR.dtype)
        size_N11 = torch.linalg.vector_norm(update_NRC, dim=(-2, -1), keepdim=True)
        if self.scale != "original":  # so that its factor makes 0.2 sqrt(rows columns) of it, the paper's
            size_N11 = torch.full_like(size_N11, math.sqrt(min(update_NRC.shape[-2:])))
        second_NR.lerp_(update_NRC.square().mean(dim=-1), 1 - beta)
        found_NRC = update_NRC / (second_NR.sqrt() + 1e-10)[..., None]
        return found_NRC * (size_N11 / (torch.linalg.vector_norm(found_NRC, dim=(-2, -1), keepdim=True) + 1e-10))

    def _dtype(self, weight: Tensor) -> torch.dtype:
        if self.iteration_dtype in ("auto", "fast"):
            narrow = weight.device.type == "cuda" if self.iteration_dtype == "auto" else multiplies_bf16(weight.device)
            return torch.bfloat16 if narrow and weight.dtype != torch.float64 else weight.dtype
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[self.iteration_dtype]


def is_matrix(axes: Axes | None, shape: tuple[int, ...]) -> bool:
    """Whether Muon claims a weight: by its declared role; without one, by its dimensions."""
    return len(shape) >= 2 and (axes is None or axes.role == "matrix")


def matrix_view(axes: Axes | None, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(matrices, rows, columns) of a weight: an axis of experts or blocks counts matrices, axes after the first two join the columns."""
    if axes is not None and axes.names[0] in STACKS and len(shape) > 2:
        return shape[0], shape[1], math.prod(shape[2:])
    return 1, shape[0], math.prod(shape[1:])


def _select(group: Group, *, matrices: bool) -> Group:
    """The group with only its matrices, or only its other weights."""
    kept = [i for i, (weight, axes) in enumerate(zip(group["params"], group["axes"])) if is_matrix(axes, tuple(weight.shape)) == matrices]
    return group | {key: [group[key][i] for i in kept] for key in ("params", "names", "axes")}


def _chunks(weights: list[Tensor], views: list[tuple[int, int, int]]) -> Iterator[list[int]]:
    """Indices of weights whose matrices can be iterated in one stack, at most _CHUNK elements (or one weight) at a time."""
    alike: dict[Any, list[int]] = {}
    for i, (weight, view) in enumerate(zip(weights, views)):
        alike.setdefault((view[1:], weight.dtype, weight.device), []).append(i)
    for ((rows, columns), _, device), indices in alike.items():
        size = max(1, _CHUNK // max(weights[i].numel() for i in indices)) if worth_stacking(rows, columns, device) else 1
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _gather(piece: Tensor, weight: Tensor) -> Tensor:
    """The whole tensor of which every rank holds a piece, cut as the weight is."""
    if not isinstance(weight, DTensor):
        return piece
    whole = DTensor.from_local(piece, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride())
    return whole.full_tensor()


def _piece(whole: Tensor, weight: Tensor) -> Tensor:
    """This rank's piece of a tensor that every rank holds, cut as the weight is; nothing is sent."""
    if not isinstance(weight, DTensor):
        return whole
    copies = DTensor.from_local(whole, weight.device_mesh, [Replicate()] * weight.device_mesh.ndim, run_check=False)
    return copies.redistribute(placements=weight.placements).to_local()
