"""Over-training runs (Gadre et al. 2024): fitted to the smaller half, asked about the larger, halved by compute and by model size.

A section of scaling_laws.py. There are 17 runs of each of three corpora, each judged on eight validation sets. The paper fits five runs of
four sizes (all at 20 tokens per parameter, and one at 320), by least squares on the loss, with tokens as they are; no half of the runs here
has four sizes, so its very fit cannot be made. The variants are:

tokens      as published, or warm-up discounted (as the form `over_training` does where it is told warmup_tokens)
runs        all, or those that left their warm-up: two of a corpus's runs (79 M and 411 M at 5 tokens per parameter) ended at a rate that
            never fell, and our own doubts say to compare only annealed runs; they are then neither fitted nor predicted
objective   Huber's, as `fit` takes it, or least squares on the logarithm of the loss
law         `over_training` (both exponents equal, as in the paper), `chinchilla` (they differ), parameters with or without embeddings
exponent    of each corpus and validation set by itself, or one for all of them (the paper finds nearly the same for its corpora)

`inner_error` is a back-test inside the fitted half, by tokens (by compute it would leave one size): what can be known without the other
half.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ingot.scaling import fit
from ingot.scaling.shared import fit_shared
from ingot.scaling.table import Table, take

QUIET: dict[str, Any] = {"draws": 0, "interval": "none", "backtest": False}
INNER = 9e8
"""Tokens up to which the back-test inside a half fits: it leaves two sizes fitted, and longer runs of them to predict."""

VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {"tokens": "published"},
    "as published, annealed, least squares": {"tokens": "published", "annealed": True, "delta": 1.0},
    "discounted": {},
    "discounted, annealed": {"annealed": True},
    "discounted, annealed, least squares": {"annealed": True, "delta": 1.0},
    "discounted, annealed, without embeddings": {"annealed": True, "delta": 1.0, "params": "params_no_embed"},
    "discounted, annealed, two exponents": {"annealed": True, "delta": 1.0, "law": "chinchilla"},
    "as published, annealed, one exponent for all": {"tokens": "published", "annealed": True, "delta": 1.0, "shared": True},
    "discounted, annealed, one exponent for all": {"annealed": True, "delta": 1.0, "shared": True},
}


def over_training(table: Table) -> dict[str, Any]:
    """table: overtraining_losses_small with flop and warmup_tokens."""
    found: dict[str, Any] = {}
    for split, half_n in (
        ("halved by compute", table["flop"] <= np.median(table["flop"])),
        ("halved by model size", table["params"] < 1e8),
    ):
        guesses = {name: _predicted(table, half_n, **variant) for name, variant in VARIANTS.items()}
        rows = {name: _row(table, half_n, guess_n, VARIANTS[name]) for name, guess_n in guesses.items()}
        annealed = [guess_n for name, guess_n in guesses.items() if VARIANTS[name].get("annealed")]
        average = np.exp(np.mean(np.log(annealed), axis=0))
        picked = min((name for name in rows if VARIANTS[name].get("annealed")), key=lambda name: rows[name]["inner_error"])
        sizes, counts = np.unique(
            table["params"][half_n & (table["valid_set"] == "c4_val") & (table["dataset"] == "rpj")], return_counts=True
        )
        found[split] = {
            "fitted_runs_of_a_corpus": {f"{size / 1e6:.0f} M": int(count) for size, count in zip(sizes, counts)},
            "variants": rows,
            "average_of_the_annealed_variants": _errors(table, ~half_n & _annealed(table), average),
            "picked_by_the_inner_back_test": {"variant": picked, "mean_error": rows[picked]["annealed_held_out"]["mean_error"]},
        }
        print(f"{split}: " + ", ".join(f"{name} {row['annealed_held_out']['mean_error']:.4f}" for name, row in rows.items()), flush=True)
    return found


def _annealed(table: Table) -> np.ndarray:
    return np.asarray(table["warmup_tokens"] < table["tokens"])


def _groups(table: Table) -> Iterator[tuple[str, np.ndarray]]:
    for corpus in np.unique(table["dataset"]).tolist():
        for valid in np.unique(table["valid_set"]).tolist():
            yield f"{corpus} on {valid}", (table["dataset"] == corpus) & (table["valid_set"] == valid)


def _predicted(
    table: Table,
    seen_n: np.ndarray,
    *,
    tokens: str = "discounted",
    annealed: bool = False,
    delta: float | None = None,
    law: str = "over_training",
    params: str = "params",
    shared: bool = False,
) -> np.ndarray:
    """(n,) what fits to the rows seen say of every row."""
    columns = {name: table[name] for name in ("tokens", "warmup_tokens", "loss")} | {"params": table[params]}
    if tokens == "published":
        del columns["warmup_tokens"]
    elif law == "chinchilla":
        share = columns["warmup_tokens"] / columns["tokens"]
        columns["tokens"] = columns["tokens"] * np.where(share < 1, 1 - share / 2, 0.5 / np.maximum(share, 1))
    if annealed:
        seen_n = seen_n & _annealed(table)
    groups = dict(_groups(table))
    parts = {name: take(columns, rows_n & seen_n) for name, rows_n in groups.items()}
    fits = (
        fit_shared(law, parts, "eta", delta=delta, **QUIET)
        if shared
        else {name: fit(law, part, delta=delta, **QUIET) for name, part in parts.items()}
    )
    guess_n = np.empty(len(table["loss"]))
    for name, rows_n in groups.items():
        guess_n[rows_n] = fits[name](take(columns, rows_n))
    return guess_n


def _row(table: Table, half_n: np.ndarray, guess_n: np.ndarray, variant: dict[str, Any]) -> dict[str, Any]:
    found = {"all_held_out": _errors(table, ~half_n, guess_n), "annealed_held_out": _errors(table, ~half_n & _annealed(table), guess_n)}
    if variant.get("annealed"):
        seen_n, rest_n = half_n & (table["tokens"] <= INNER), half_n & (table["tokens"] > INNER) & _annealed(table)
        found["inner_error"] = float(np.abs(_predicted(table, seen_n, **variant) / table["loss"] - 1)[rest_n].mean())
    return found


def _errors(table: Table, rows_n: np.ndarray, guess_n: np.ndarray) -> dict[str, Any]:
    off_n = np.abs(guess_n / table["loss"] - 1)
    means = {valid: float(off_n[rows_n & (table["valid_set"] == valid)].mean()) for valid in np.unique(table["valid_set"]).tolist()}
    return {
        "mean_error": float(off_n[rows_n].mean()),
        "median_error": float(np.median(off_n[rows_n])),
        "validation_sets_within_2_percent": sum(mean <= 0.02 for mean in means.values()),
        "by_validation_set": means,
    }
