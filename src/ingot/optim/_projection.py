r"""Adam on low-rank images of gradients: what GaLore, Fira, Online Subspace Descent and APOLLO share.

    rows >= columns:  R = G B,   U = N B^T        rows < columns:  R = B^T G,   U = B N        B: (min(rows, columns), rank)
    m = b1 m + (1 - b1) R      v = b2 v + (1 - b2) R^2      N = m / (sqrt(v) + eps)

A matrix is a weight with the declared role "matrix" (a leading axis of experts or blocks counts matrices, further axes count as
columns), or of two dimensions where nothing is declared. Every other weight has plain Adam moments. The rank is at most the shorter
side. The bias corrections make the step lr sqrt(1 - b2^t) / (1 - b1^t), eps is added before them, as in the authors' code.

A gradient of zero (behind a zero-initialized weight) has no subspace: the one at hand is kept, and before the first other gradient
nothing is counted but the weight decay. An expert without a gradient while others have one is given coordinate axes.

Sharding: B is cut along its rows and the moments along theirs, as the weight is. On the right side (rows >= columns) B is gathered
for every step, on the left the image is summed over ranks and N gathered; the gradient is gathered whole only for a new subspace.

Growing: in depth, and into experts, all is carried. A wider gradient has another subspace, of another shape: a projected weight's
state begins anew (its first step seeks the subspace), every other weight's is carried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import sqrt
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..core.axes import STACKS, Axes
from ._declared import STEP, DeclaredOptimizer, Held, first_ranks, gathered, number, piece, scattered, total
from ._groups import Group, local, local_gradient, prepare_groups
from ._quantize import CODE_POWERS, Codec, KeepsCodes, adam_rows_, by_rows, codecs, held_moment
from .muon import is_matrix, matrix_view


class Plan(NamedTuple):
    """How a weight is projected. stack: how many matrices it holds, 0 for one that is not stacked."""

    stack: int
    rows: int
    columns: int
    rank: int

    @property
    def right(self) -> bool:
        """Whether the subspace is that of rows, multiplied from the right."""
        return self.rows >= self.columns

    @property
    def basis(self) -> tuple[int, ...]:
        """Shape of B."""
        return self.stacked(min(self.rows, self.columns), self.rank)

    @property
    def image(self) -> tuple[int, ...]:
        """Shape of R."""
        return self.stacked(self.rows, self.rank) if self.right else self.stacked(self.rank, self.columns)

    def stacked(self, *shape: int) -> tuple[int, ...]:
        """A matrix's shape with the stack before it."""
        return (self.stack, *shape) if self.stack else shape

    def matrix(self, values: Tensor) -> Tensor:
        """This rank's piece of a gradient as (rows, columns), or as a stack of such."""
        return values.reshape(-1, self.rows, self.columns) if self.stack else values.reshape(-1, self.columns)


def plan_of(axes: Axes | None, shape: tuple[int, ...], rank: int) -> Plan | None:
    """How a weight is projected; None where it is not."""
    if not is_matrix(axes, shape):
        return None
    number, rows, columns = matrix_view(axes, shape)
    stacked = axes is not None and axes.names[0] in STACKS and len(shape) > 2
    return Plan(number if stacked else 0, rows, columns, min(rank, rows, columns))


class Projector:
    """Products with B for one weight, of which this rank may have some rows."""

    def __init__(self, plan: Plan, weight: Tensor):
        self.plan, self.weight = plan, weight
        self.cut = isinstance(weight, DTensor) and not plan.stack  # a stack is cut between its matrices

    def operand(self, basis: Tensor) -> Tensor:
        """The rows of B that this rank's rows of the gradient meet: all on the right, its own on the left. basis: as it is kept."""
        own = local(basis)
        return gathered(own, self.plan.basis[0], self.weight) if self.cut and self.plan.right else own

    def drawn(self, basis: Tensor) -> Tensor:
        """The same of a B that every rank has whole."""
        return basis if self.cut and self.plan.right else piece(basis, self.weight)

    def down(self, gradient: Tensor, operand: Tensor) -> Tensor:
        """R, or this rank's rows of it."""
        if self.plan.right:
            return gradient @ operand
        term = operand.mT @ gradient
        return scattered(term, self.weight) if self.cut else term

    def add_up(self, added: Tensor, image: Tensor, operand: Tensor, *, beta: float, alpha: float, out: Tensor | None = None) -> Tensor:
        """beta added + alpha U: this rank's rows of an image's return to the shape of the gradient, added to another in one product."""
        left, right = (image, operand.mT) if self.plan.right else (operand, self.whole(image))
        multiply = torch.addmm if added.dim() == 2 else torch.baddbmm
        found: Tensor = multiply(added, left, right, beta=beta, alpha=alpha, out=out)
        return found

    def whole(self, image: Tensor) -> Tensor:
        """All rows of an image."""
        return gathered(image, self.plan.image[0], self.weight) if self.cut else image

    def total(self, term: Tensor) -> Tensor:
        """The sum over the ranks that have other rows of the same matrix."""
        return total(term, self.weight) if self.cut else term

    def norm(self, values: Tensor) -> Tensor:
        """Frobenius norm of each matrix, as (..., 1, 1)."""
        norm = torch.linalg.vector_norm(values, dim=(-2, -1), keepdim=True)
        return self.total(norm.square()).sqrt() if self.cut else norm

    def channel_norm(self, image: Tensor) -> Tensor:
        """Norms over the rank axis of an image: one per row (right) or per column (left), ready to multiply a gradient."""
        if self.plan.right:
            return torch.linalg.vector_norm(image, dim=-1, keepdim=True)
        return self.total(image.square().sum(-2, keepdim=True)).sqrt()


def turn(group: Group, state: dict[str, Any]) -> int:
    """Which subspace a step's is, counted from 0. The step count is not advanced yet."""
    return int(number(state["step"], 0)) // int(group["refresh"])


def seed_of(name: str, number: int) -> int:
    """The seed of a weight's random matrix with this number: the same on every rank and after every restart."""
    return int.from_bytes(hashlib.blake2b(f"{name}/{number}".encode(), digest_size=8).digest(), "little") >> 1


def gaussian(shape: tuple[int, ...], name: str, number: int, like: Tensor) -> Tensor:
    """Standard normal numbers, drawn on the CPU so that devices agree."""
    generator = torch.Generator().manual_seed(seed_of(name, number))
    return torch.randn(shape, generator=generator).to(device=like.device, dtype=like.dtype)


def svd_basis(matrix: Tensor, plan: Plan) -> Tensor:
    """The leading singular vectors of the shorter side."""
    wide = matrix if matrix.dtype == torch.float64 else matrix.float()
    left, _, right = torch.linalg.svd(wide, full_matrices=False)
    return (right[..., : plan.rank, :].mT if plan.right else left[..., : plan.rank]).to(matrix.dtype)


def randomized_basis(matrix: Tensor, plan: Plan, noise: Tensor) -> Tensor:
    """The same, nearly: the range of a sketch after two power iterations. Halko et al. 2011, arXiv:0909.4061, algorithm 4.4.

    noise: normal numbers, (longer side, rank), stacked as the matrices are.
    """
    wide = matrix if matrix.dtype == torch.float64 else matrix.float()
    short = wide.mT if plan.right else wide  # its columns' span is wanted
    sketch = short @ noise.to(wide.dtype)
    for _ in range(2):
        sketch = short @ (short.mT @ torch.linalg.qr(sketch).Q)
    return torch.linalg.qr(sketch).Q.to(matrix.dtype)


class LowRankAdam(KeepsCodes, DeclaredOptimizer):
    """The skeleton: state, plain weights, weight decay and bias corrections. Subclasses give ``move``, perhaps ``more`` and ``operand``."""

    # Neither a subspace nor the norm of a direction follows the gradient's size.
    state_powers: ClassVar[dict[str, int | str]] = (
        DeclaredOptimizer.state_powers
        | CODE_POWERS
        | {"norm": "each matrix", "projection": 0, "projection_exp_avg": 0, "projection_exp_avg_sq": 0}
    )

    def __init__(self, params: Iterable[Any], *, lr: float, weight_decay: float, **knobs: Any):
        super().__init__(prepare_groups(params, lr=lr, weight_decay=weight_decay), knobs)

    @property
    def phase(self) -> str:  # type: ignore[override]
        """A step in which subspaces are sought costs more than others, by how many they are; weights that no gradient has given one yet,
        from which nothing may be sought, do not count."""
        states = ((group, self.state.get(weight, {})) for group in self.param_groups for weight in group["params"])
        held = [(group, state) for group, state in states if "projection" in state]
        found = [(group, state) for group, state in held if number(state["step"], 0)]
        if not found:
            return "first" if held or not self.state else ""
        due = sum(self.due(group, state) for group, state in found)
        return f"refresh {due}" if due else ""

    def due(self, group: Group, state: dict[str, Any]) -> bool:
        """Whether the coming step of a projected weight, whose step count is not advanced yet, finds a new subspace."""
        return number(state["step"], 0) % int(group["refresh"]) == 0

    def plan(self, axes: Axes | None, shape: tuple[int, ...]) -> Plan | None:
        """How a weight is projected; None where it is not."""
        return plan_of(axes, shape, self.defaults["rank"])

    def kept(self, shape: tuple[int, ...]) -> dict[str, Codec]:
        """Codecs of moments of this shape; vectors and small ones stay as they are."""
        small = len(shape) < 2 or torch.Size(shape).numel() < self.defaults.get("smallest", 0)
        return {} if small else codecs(self.defaults.get("state_bits", 32))

    def in_full(self, held: dict[str, Any], axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Any]:
        return dict(held) if self.plan(axes, shape) else super().in_full(held, axes, shape)  # an image's moments are not the weight's

    def in_codes(self, held: dict[str, Any], axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Any]:
        return dict(held) if self.plan(axes, shape) else super().in_codes(held, axes, shape)

    def more(self, plan: Plan, dtype: torch.dtype) -> dict[str, Held]:
        """What else is kept of a projected weight."""
        return {"projection": Held("projected", plan.basis, dtype)}

    def declare(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Held]:
        plan = self.plan(axes, shape)
        held: dict[str, Held] = {"step": STEP} | ({} if plan is None else self.more(plan, dtype))
        kind, image = ("elementwise", shape) if plan is None else ("projected", plan.image)
        for key in ("exp_avg", "exp_avg_sq"):
            held |= held_moment(key, image, dtype, kind, self.kept(image).get(key))  # type: ignore[arg-type]
        return held

    def update(self, group: Group, weights: list[Tensor]) -> None:
        described = {id(weight): (axes, name) for weight, axes, name in zip(group["params"], group["axes"], group["names"])}
        for weight in weights:
            axes, name = described[id(weight)]
            state, own, gradient, plan = self.state[weight], local(weight), local_gradient(weight), self.plan(axes, tuple(weight.shape))
            if plan is not None:
                to, gradient = Projector(plan, weight), plan.matrix(gradient)
                if (found := self.operand(group, state, name, to, gradient)) is None:
                    own.mul_(1 - group["lr"] * group["weight_decay"])
                    continue
                operand = found
            state["step"] += 1
            step, (beta1, beta2) = number(state["step"], 1), group["betas"]
            rate, decay = group["lr"] * sqrt(1 - beta2**step) / (1 - beta1**step), group["lr"] * group["weight_decay"]
            if plan is None:
                self.adam(group, state, own, gradient, tuple(weight.shape), rate, decay)
            else:
                self.move(group, state, to, operand, gradient, own.view(gradient.shape), rate, decay)

    def adam(
        self, group: Group, state: dict[str, Any], own: Tensor, gradient: Tensor, shape: tuple[int, ...], rate: float, decay: float = 0.0
    ) -> None:
        """Adam's update of a value by a gradient of its shape, without bias corrections; shape: of the whole."""
        kept, chosen = self.kept(shape), {"betas": group["betas"], "eps": group["eps"], "rate": rate, "decay": decay}
        for rows, part in by_rows(state, gradient, kept):
            adam_rows_(own[rows], gradient[rows], part, kept, **chosen)

    def normalized(self, group: Group, state: dict[str, Any], image: Tensor, shape: tuple[int, ...]) -> Tensor:
        """N of an image; shape: of the whole."""
        found = torch.zeros_like(image)
        self.adam(group, state, found, image, shape, -1.0)
        return found

    def operand(self, group: Group, state: dict[str, Any], name: str, to: Projector, gradient: Tensor) -> Tensor | None:
        """B for the coming step, as this rank's products want it; sought where it is due. The step count is not advanced yet.

        None where no gradient has given one so far.
        """
        if self.due(group, state) and not self.sought(group, state, name, to, gradient):
            return None
        return to.operand(state["projection"])

    def move(
        self, group: Group, state: dict[str, Any], to: Projector, operand: Tensor, gradient: Tensor, own: Tensor, rate: float, decay: float
    ) -> None:
        """own <- (1 - decay) own - rate D, with D the direction of a projected weight. own, gradient: this rank's rows, as matrices."""
        raise NotImplementedError

    def sought(self, group: Group, state: dict[str, Any], name: str, to: Projector, gradient: Tensor) -> bool:
        """Put the subspace of this gradient, if it is not zero, into the state; whether one is there."""
        plan, weight = to.plan, to.weight
        if not number(total(torch.count_nonzero(gradient), weight), 1):
            return number(state["step"], 1) > 0
        whole = gathered(gradient, plan.rows, weight) if to.cut else gradient
        if group.get("subspace", "svd") == "svd":
            basis = svd_basis(whole, plan)
        else:
            shape = plan.stacked(max(plan.rows, plan.columns), plan.rank)
            noise = gaussian(shape, name, turn(group, state), gradient)
            basis = randomized_basis(whole, plan, noise if to.cut else piece(noise, weight))
        local(state["projection"]).copy_(first_ranks(basis, weight) if to.cut else basis)
        return True

    def limit(self, state: dict[str, Any], to: Projector, norm: Tensor, growth: float | None) -> Tensor:
        """The factor, as (..., 1, 1), that keeps a direction of this norm within `growth` times that of the step before.

        Fira, arXiv:2410.01623, section 3.3.   DEPARTS: a direction that was zero sets no limit, as the first one has none; after a
        gradient of zero (a weight behind one that is zero itself) the authors' code lets the direction grow from 1e-8 only.
        """
        if growth is None:
            return norm.new_ones(())
        before, norm = local(state["norm"]).reshape(-1, 1, 1), norm.reshape(-1, 1, 1)
        factor = torch.where(before > 0, (norm / (before + 1e-8)).clamp(min=growth) / growth, 1.0)
        local(state["norm"]).copy_((norm / factor).reshape(local(state["norm"]).shape))
        return factor.reciprocal() if to.plan.stack else factor[0].reciprocal()


def held_norm(plan: Plan, dtype: torch.dtype) -> dict[str, Held]:
    """What ``limited`` keeps: one norm per matrix."""
    return {"norm": Held("per_axis", (plan.stack,), dtype) if plan.stack else Held("scalar", (), dtype)}
