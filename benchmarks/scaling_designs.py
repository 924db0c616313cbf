"""For every form: an experiment that could have been run, and coefficients near published ones, from which synthetic data are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np


def sizes(
    counts: tuple[int, int] = (8, 8), tokens: tuple[float, float] = (2.0, 600.0), params: tuple[float, float] = (1e7, 3e9)
) -> dict[str, np.ndarray]:
    """A grid over params and tokens per parameter."""
    N, M = np.meshgrid(np.geomspace(*params, counts[0]), np.geomspace(*tokens, counts[1]))
    return {"params": N.ravel(), "tokens": (N * M).ravel()}


def cross(**axes: Any) -> dict[str, np.ndarray]:
    """Every combination of the values of several columns."""
    grids = np.meshgrid(*(np.asarray(values, float) for values in axes.values()), indexing="ij")
    return {name: grid.ravel() for name, grid in zip(axes, grids)}


def schedules(points: int = 40) -> dict[str, np.ndarray]:
    """Constant, cosine, and two drops, 24,000 steps each after a warm-up of 2,160; peak 3e-4."""
    step = np.linspace(2160, 24000, points)
    through = (step - 2160) / (24000 - 2160)
    rates = {
        "constant": np.full(points, 3e-4),
        "cosine": 3e-5 + 1.35e-4 * (1 + np.cos(np.pi * through)),
        "drop": np.where(step < 10000, 3e-4, 9e-5),
        "late": np.where(step < 16000, 3e-4, 3e-5),
    }
    return {"run": np.repeat(np.arange(len(rates)), points), "step": np.tile(step, len(rates)), "lr": np.concatenate(list(rates.values()))}


def mixtures(runs: int = 40, domains: int = 5) -> dict[str, np.ndarray]:
    shares = np.random.default_rng(1).dirichlet(np.ones(domains), runs)
    return {f"mix_{name}": shares[:, index] for index, name in enumerate("abcdefgh"[:domains])}


def sweeps() -> dict[str, np.ndarray]:
    """A square of learning rates and batches around the optimum of each of nine sizes."""
    rows = []
    for N in (6e7, 2.5e8, 1e9):
        for D in (2e9, 1e10, 5e10):
            lr, batch = 1.79 * N**-0.713 * D**0.307, 0.58 * D**0.571
            rows += [(N, D, lr * a, batch * b) for a in (0.35, 0.6, 1.0, 1.7, 2.8) for b in (0.35, 0.6, 1.0, 1.7, 2.8)]
    return dict(zip(("params", "tokens", "lr", "batch"), np.array(rows).T))


def repeated() -> dict[str, np.ndarray]:
    table = cross(params=np.geomspace(2e7, 5e9, 6), unique_tokens=np.geomspace(1e8, 2e10, 4), repeats=(1, 2, 4, 8, 16, 32, 64))
    return {"params": table["params"], "unique_tokens": table["unique_tokens"], "tokens": table["unique_tokens"] * table["repeats"]}


DESIGNS: dict[str, dict[str, Any]] = {
    "power": {"table": {"tokens": np.geomspace(1e8, 1e12, 24)}, "truth": {"E": 1.8, "A": 400.0, "alpha": 0.3}, "sigma": 0.003},
    "kaplan": {"table": sizes(), "truth": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}, "sigma": 0.005},
    "chinchilla": {"table": sizes(), "truth": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}, "sigma": 0.005},
    "data_constrained": {
        "table": repeated(),
        "truth": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.39, "R_N": 5.31},
        "sigma": 0.003,
    },
    "over_training": {
        "table": sizes((6, 8), (5.0, 640.0), (1e7, 4e8)),
        "truth": {"E": 1.8, "a": 141.0, "b": 190.0, "eta": 0.121},
        "sigma": 0.004,
    },
    "annealing": {"table": schedules(), "truth": {"L_0": 2.79, "A": 0.59, "alpha": 0.454, "C": 0.48}, "sigma": 0.002},
    "multi_power": {
        "table": schedules(),
        "truth": {"L_0": 2.651, "A": 0.601, "alpha": 0.453, "B": 437.946, "C": 2.132, "beta": 0.598, "gamma": 0.655},
        "sigma": 0.001,
    },
    "batch_lr": {
        "table": sweeps(),
        "knobs": {"within": 10.0},
        "sigma": 0.001,
        "truth": {"c": 1.79, "a": -0.713, "b": 0.307, "d": 0.58, "e": 0.571, "u": 0.006, "v": 0.004, "w": -0.4}
        | {f"l_{i}": 3.2 - 0.1 * i for i in range(1, 10)},
    },
    "critical_batch": {"table": {"batch": np.geomspace(2e4, 2e7, 16)}, "truth": {"S_min": 5000.0, "B_crit": 1e6}, "sigma": 0.03},
    "data_mixing": {"table": mixtures(), "truth": {"c": 1.9, "t_a": -1.5, "t_b": 0.6, "t_c": 0.8, "t_d": 0.4, "t_e": 1.0}, "sigma": 0.003},
    "additive_mixing": {
        "table": mixtures(80),
        "sigma": 0.002,
        "truth": {"E": 1.5}
        | {f"w_{name}": w for name, w in zip("abcde", (1.4, 0.9, 0.7, 0.5, 0.8))}
        | {f"gamma_{name}": g for name, g in zip("abcde", (0.15, 0.3, 0.4, 0.5, 0.3))},
    },
    "d_cpt": {
        "table": cross(
            params=np.geomspace(5e8, 4e9, 4), tokens=np.geomspace(1e8, 2.6e10, 8), share=(0.0, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1.0)
        ),
        "sigma": 0.002,
        "truth": {"E": 0.6, "A": 600.0, "B": 900.0, "C": 0.25, "alpha": 0.33, "beta": 0.36, "gamma": 0.6, "eta": 0.3, "epsilon": 0.05},
    },
    "moe": {
        "table": cross(params=np.geomspace(1.5e7, 1.3e9, 7), experts=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)),
        "sigma": 0.003,
        "truth": {"a": -0.082, "b": -0.072, "c": 0.009, "d": 1.41, "E_start": 1.847, "E_max": 314.478},
    },
    "joint_moe": {
        "table": cross(params=np.geomspace(3e7, 2.7e9, 6), tokens=np.geomspace(1e9, 1e11, 6), experts=(1, 2, 4, 8, 16, 32)),
        "sigma": 0.003,
        "truth": {"c": 1.6, "a": 0.55, "b": 0.6, "alpha": -0.3, "beta": -0.3, "delta": -0.25, "omega": 0.05, "gamma": 0.02, "zeta": -0.01},
    },
    "loss_to_loss": {
        "table": {"source_loss": np.geomspace(1.75, 7.0, 50)},
        "truth": {"K": 1.1, "kappa": 0.9, "E_source": 1.3, "E": 1.2},
        "sigma": 0.002,
    },
    "downstream": {
        "table": {"loss": np.linspace(1.9, 3.8, 40)},
        "truth": {"floor": 0.25, "ceiling": 0.85, "k": 4.0, "L_0": 2.7},
        "sigma": 0.008,
    },
    "average_error": {"table": {"loss": np.linspace(2.0, 4.5, 40)}, "truth": {"epsilon": 0.857, "k": 2.21, "gamma": 0.715}, "sigma": 0.004},
}

VARIANTS: dict[str, dict[str, Any]] = {
    "critical_batch, target_loss": {
        "form": "critical_batch",
        "table": cross(batch=np.geomspace(2e4, 2e7, 8), target_loss=np.linspace(2.5, 4.0, 5)),
        "truth": {"S_min": 2e5, "B_crit": 2e8, "p": 3.0, "q": 4.76},
        "sigma": 0.03,
    },
    "data_mixing, sum": {
        "form": "data_mixing",
        "knobs": {"combine": "sum"},
        "table": mixtures(60),
        "sigma": 0.002,
        "truth": {"c": 1.5, "k": 0.4, "t_a": -12.0, "t_b": 0.6, "t_c": -1.5, "t_d": -6.0, "t_e": 0.4},
    },
    "additive_mixing, shared": {
        "form": "additive_mixing",
        "knobs": {"exponents": "shared"},
        "table": mixtures(),
        "sigma": 0.002,
        "truth": {"E": 1.5, "gamma": 0.3} | {f"w_{name}": w for name, w in zip("abcde", (1.4, 0.9, 0.7, 0.5, 0.8))},
    },
}
"""The other shapes of forms that have several."""
