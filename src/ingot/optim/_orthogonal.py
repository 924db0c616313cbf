"""The nearest semi-orthogonal matrix, nearly: the quintic Newton-Schulz iteration of Muon, many matrices at a time.

    X <- G / |G|_F        X <- a X + (b A + c A^2) X,   A = X X^T        (a, b, c) = (3.4445, -4.7750, 2.0315), five times

The coefficients maximize the slope at zero, and do not converge to 1: singular values of G / |G|_F from 0.01 upward end between 0.68
and 1.14, those from 0.002 upward below 1.21.

"polar_express" (Amsel et al. 2025, arXiv:2505.16932, Algorithm 1) takes other coefficients in every iteration, each the best for the
interval in which the last left the singular values, and X <- G / (1.01 |G|_F): five bring those from 0.002 upward to between 0.87 and
1.13, six to between 0.997 and 1.002, and further ones converge.

Cost per matrix of r x c, r <= c: 5 (4 r^2 c + 2 r^3) FLOPs; in fp32 with c >= 2 r, 4 r^2 c + 34 r^3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Coefficients = Literal["original", "polar_express"]
ORIGINAL = (3.4445, -4.7750, 2.0315)
# From the paper's Algorithm 1, before its safety factor of 1.01 for every polynomial but the last, which repeats.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
SAFETY = 1.01
STEPS = 5
EPS = 1e-7
_SMALL = 128  # below about this many rows a CPU's batched product beats single products; above, stacking only costs copies


def worth_stacking(rows: int, columns: int, device: torch.device) -> bool:
    """Whether equal matrices of this shape are faster in one stack than one at a time."""
    return device.type != "cpu" or min(rows, columns) <= _SMALL


def polynomials(coefficients: Coefficients, steps: int) -> list[tuple[float, float, float]]:
    """The (a, b, c) of every iteration."""
    if coefficients == "original":
        return [ORIGINAL] * steps
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return (safe + [POLAR_EXPRESS[-1]] * steps)[:steps]


def orthogonalize(matrices_NRC: Tensor, steps: int = STEPS, coefficients: Coefficients = "original") -> Tensor:
    """Every matrix of the stack with its singular values pushed to about 1, in the dtype given. A zero matrix stays zero."""
    count, rows, columns = matrices_NRC.shape
    if rows > columns:
        return orthogonalize(matrices_NRC.mT, steps, coefficients).mT
    if count > 1 and not worth_stacking(rows, columns, matrices_NRC.device):
        return torch.cat([orthogonalize(matrix_1RC, steps, coefficients) for matrix_1RC in matrices_NRC.split(1)])
    # The Frobenius norm bounds the spectral norm; it is taken in fp32 at least, for bf16 sums lose small entries.
    wide_NRC = matrices_NRC if matrices_NRC.dtype == torch.float64 else matrices_NRC.float()
    size_N11 = torch.linalg.vector_norm(wide_NRC, dim=(-2, -1), keepdim=True) * (1.0 if coefficients == "original" else SAFETY)
    x_NRC = (wide_NRC / size_N11.clamp(min=EPS)).to(matrices_NRC.dtype)
    chosen = polynomials(coefficients, steps)
    iterate = _collected if columns >= 2 * rows and x_NRC.dtype in (torch.float32, torch.float64) else _iterated
    # the product of two single matrices is faster than that of two stacks of one
    return iterate(x_NRC[0], chosen)[None] if count == 1 else iterate(x_NRC, chosen)


def _iterated(x_NRC: Tensor, chosen: list[tuple[float, float, float]]) -> Tensor:
    for a, b, c in chosen:
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = _product(_product(gram_NRR, gram_NRR, gram_NRR, b, c), x_NRC, x_NRC, a, 1.0)
    return x_NRC


def _collected(x_NRC: Tensor, chosen: list[tuple[float, float, float]]) -> Tensor:
    """The same for wide matrices, where the polynomials P_k of A_k are multiplied first: A_{k+1} = P_k A_k P_k, X = P_n ... P_1 X_0.

    Rounding in A grows about tenfold per iteration, which fp32 bears (to 4e-4 of the result at worst) and bf16 does not.
    """
    gram_NRR, collected_NRR = x_NRC @ x_NRC.mT, None
    for step, (a, b, c) in enumerate(chosen):
        polynomial_NRR = _product(gram_NRR, gram_NRR, gram_NRR, b, c)
        polynomial_NRR.diagonal(dim1=-2, dim2=-1).add_(a)
        collected_NRR = polynomial_NRR if collected_NRR is None else polynomial_NRR @ collected_NRR
        if step < len(chosen) - 1:
            gram_NRR = polynomial_NRR @ (gram_NRR @ polynomial_NRR)
    return x_NRC if collected_NRR is None else collected_NRR @ x_NRC


def _product(left: Tensor, right: Tensor, added: Tensor, beta: float, alpha: float) -> Tensor:
    """beta added + alpha left @ right, of matrices or of stacks."""
    multiply = torch.addmm if added.dim() == 2 else torch.baddbmm
    return multiply(added, left, right, beta=beta, alpha=alpha)
