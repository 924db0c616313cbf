"""The nearest semi-orthogonal matrix, nearly: the quintic Newton-Schulz iteration of Muon, many matrices at a time.

    X <- G / |G|_F        X <- a X + (b A + c A^2) X,   A = X X^T        (a, b, c) = (3.4445, -4.7750, 2.0315), five times

The coefficients maximize the slope at zero, and do not converge to 1: singular values of G / |G|_F from 0.01 upward end between 0.68
and 1.14, those from 0.002 upward below 1.21.

Cost per matrix of r x c, r <= c: 5 (4 r^2 c + 2 r^3) FLOPs; in fp32 with c >= 2 r, 4 r^2 c + 34 r^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
EPS = 1e-7
_SMALL = 128  # below about this many rows a CPU's batched product beats single products; above, stacking only costs copies


def worth_stacking(rows: int, columns: int, device: torch.device) -> bool:
    """Whether equal matrices of this shape are faster in one stack than one at a time."""
    return device.type != "cpu" or min(rows, columns) <= _SMALL


def orthogonalize(matrices_NRC: Tensor, steps: int = STEPS) -> Tensor:
    """Every matrix of the stack with its singular values pushed to about 1, in the dtype given. A zero matrix stays zero."""
    count, rows, columns = matrices_NRC.shape
    if rows > columns:
        return orthogonalize(matrices_NRC.mT, steps).mT
    if count > 1 and not worth_stacking(rows, columns, matrices_NRC.device):
        return torch.cat([orthogonalize(matrix_1RC, steps) for matrix_1RC in matrices_NRC.split(1)])
    # The Frobenius norm bounds the spectral norm; it is taken in fp32 at least, for bf16 sums lose small entries.
    wide_NRC = matrices_NRC if matrices_NRC.dtype == torch.float64 else matrices_NRC.float()
    x_NRC = (wide_NRC / torch.linalg.vector_norm(wide_NRC, dim=(-2, -1), keepdim=True).clamp(min=EPS)).to(matrices_NRC.dtype)
    iterate = _collected if columns >= 2 * rows and x_NRC.dtype in (torch.float32, torch.float64) else _iterated
    # the product of two single matrices is faster than that of two stacks of one
    return iterate(x_NRC[0], steps)[None] if count == 1 else iterate(x_NRC, steps)


def _iterated(x_NRC: Tensor, steps: int) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = _product(_product(gram_NRR, gram_NRR, gram_NRR, b, c), x_NRC, x_NRC, a, 1.0)
    return x_NRC


def _collected(x_NRC: Tensor, steps: int) -> Tensor:
    """The same for wide matrices, where the polynomials P_k of A_k are multiplied first: A_{k+1} = P_k A_k P_k, X = P_n ... P_1 X_0.

    Rounding in A grows about tenfold per iteration, which fp32 bears (to 1e-4 of the result at worst) and bf16 does not.
    """
    a, b, c = COEFFICIENTS
    gram_NRR, collected_NRR = x_NRC @ x_NRC.mT, None
    for step in range(steps):
        polynomial_NRR = _product(gram_NRR, gram_NRR, gram_NRR, b, c)
        polynomial_NRR.diagonal(dim1=-2, dim2=-1).add_(a)
        collected_NRR = polynomial_NRR if collected_NRR is None else polynomial_NRR @ collected_NRR
        if step < steps - 1:
            gram_NRR = polynomial_NRR @ (gram_NRR @ polynomial_NRR)
    return x_NRC if collected_NRR is None else collected_NRR @ x_NRC


def _product(left: Tensor, right: Tensor, added: Tensor, beta: float, alpha: float) -> Tensor:
    """beta added + alpha left @ right, of matrices or of stacks."""
    multiply = torch.addmm if added.dim() == 2 else torch.baddbmm
    return multiply(added, left, right, beta=beta, alpha=alpha)
