"""Scaling laws against published measurements, and intervals against known truths.

    python benchmarks/scaling_laws.py                  everything (about 10 minutes on one core)
    python benchmarks/scaling_laws.py published speed  some sections; the results of the others are kept

published       the refit of Chinchilla's 245 points (Besiroglu et al. 2024), by Huber loss with delta 1e-3, five highest losses left out
schedules       multi-power law: fitted to three learning-rate schedules, asked about six others
mixtures        data-mixing law at 70 M parameters: five-fold over runs; product or sum chosen for each domain among the runs that are fitted
over_training   fitted to the cheaper half of the runs, asked about the dearer half
coverage        90 % profile intervals on 500 synthetic data sets for every form
speed           4,000 bootstrap draws, and that twice the draws take twice the time
others          loss to loss at ten times the compute; best learning rate and batch; the rest of a half-finished run
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _machine import text_folder, write
from scaling_designs import DESIGNS

from ingot.scaling import Fit, continued, fit
from ingot.scaling.coverage import coverage
from ingot.scaling.table import Table, read, rename, take, where

QUIET: dict[str, Any] = {"draws": 0, "interval": "none", "backtest": False}
PUBLISHED = {"A": (482.01, 124.58), "B": (2085.43, 1293.23), "E": (1.8172, 0.03), "alpha": (0.3478, 0.02), "beta": (0.3658, 0.02)}


def data() -> Path:
    return text_folder().parent / "scaling"


def chinchilla_points() -> Table:
    table = read(data() / "chinchilla_points.csv")
    return take(rename(table, {"tokens": "flop/6/params"}), table["loss"].argsort().argsort() < len(table["loss"]) - 5)


def relative(predicted: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.abs(predicted / seen - 1)


def published() -> dict[str, Any]:
    found = fit("chinchilla", chinchilla_points(), interval="bootstrap", draws=4000, backtest=False)
    rows = {name: {"estimate": found.estimates[name], "published": value, "published_error": error, "errors_away": abs(found.estimates[name] - value) / error,
                   "bootstrap_90": found.intervals[name]} for name, (value, error) in PUBLISHED.items()}  # fmt: skip
    return {"coefficients": rows, "all_within_published_95": all(row["errors_away"] < 1.96 for row in rows.values()), "bootstrap": found.method["bootstrap"]}


def schedules() -> dict[str, Any]:
    found: dict[str, Any] = {}
    priors = {"no prior": {}, "published shape as prior": {"C": (2.07, 0.15), "beta": (0.59, 0.05), "gamma": (0.645, 0.05)}}
    for millions in (25, 100):
        table = rename(where(read(data() / "lr_schedule_loss_curves.csv"), [f"model_millions={millions}"]), {"run": "schedule"})
        seen = np.isin(table["run"], ("cosine_24000", "constant_24000", "wsdcon_9"))
        other = take(table, ~seen)
        for law, name, prior in (("multi_power", "no prior", priors["no prior"]), ("multi_power", "published shape as prior", priors["published shape as prior"]), ("annealing", "no prior", {})):
            guess = fit(law, take(table, seen), prior=prior, **QUIET)(other)
            each = {run: r2(guess[other["run"] == run], other["loss"][other["run"] == run]) for run in dict.fromkeys(other["run"].tolist())}
            found[f"{law}, {millions} M, {name}"] = {"r2_pooled": r2(guess, other["loss"]), "r2_mean_of_schedules": float(np.mean(list(each.values()))),
                                                     "r2": each, "mean_error": float(relative(guess, other["loss"]).mean())}  # fmt: skip
    return found


def r2(predicted: np.ndarray, seen: np.ndarray) -> float:
    return float(1 - ((predicted - seen) ** 2).sum() / ((seen - seen.mean()) ** 2).sum())


def mixtures() -> dict[str, Any]:
    weights = read(data() / "data_mixing_valid_weights.csv")
    weight = dict(zip(weights["valid_domain"].tolist(), weights["weight"].tolist()))
    return {name: _mixture(where(read(data() / f"data_mixing_{name}_70m_160m.csv.gz"), ["model=70M", "step=30000"]), weight) for name in ("redpajama", "5mix")}


def _chosen(seen: Table) -> Fit:
    """The better of the paper's two forms by held-out runs among those that may be seen."""
    return min((fit("data_mixing", seen, draws=0, interval="none", knobs={"combine": combine}) for combine in ("product", "sum")), key=lambda one: one.backtest[0]["mean"])


def _mixture(table: Table, weight: dict[str, float]) -> dict[str, Any]:
    runs = np.unique(table["run"])
    order = np.random.default_rng(0).permutation(len(runs))
    errors: dict[str, list[float]] = {}
    total: dict[str, np.ndarray] = {}
    for fold in range(5):
        held = np.isin(table["run"], runs[order[fold::5]])
        for domain in np.unique(table["valid_domain"]).tolist():
            rows = table["valid_domain"] == domain
            test = take(table, rows & held)
            guess = _chosen(take(table, rows & ~held))(test)
            errors.setdefault(domain, []).extend(relative(guess, test["loss"]).tolist())
            for run, one, seen in zip(test["run"].tolist(), guess, test["loss"]):
                total[run] = total.get(run, np.zeros(2)) + weight[domain] * np.array([one, seen])
    means = {domain: float(np.mean(values)) for domain, values in errors.items()}
    whole = np.array(list(total.values()))
    return {"runs": len(runs), "mean_error_of_domains": float(np.mean(list(means.values()))), "mean_error_of_overall_loss": float(relative(*whole.T).mean()),
            "domains_above_1_percent": {domain: value for domain, value in means.items() if value > 0.01}}  # fmt: skip


def over_training() -> dict[str, Any]:
    """The cheaper half is nine runs of two sizes, of which some spent all their tokens in warm-up; so tokens are counted with and without it."""
    table = rename(read(data() / "overtraining_losses_small.csv"), {"flop": "6*params*tokens"})
    table["flop"] = table["params"] * table["tokens"] * 6
    found = {}
    for name, columns in (("warm-up discounted", {"warmup_tokens": "warmup*global_batch*2048"}), ("as published", {})):
        for share in (0.5, 0.7):
            errors: dict[str, list[float]] = {}
            for corpus in np.unique(table["dataset"]).tolist():
                for valid in np.unique(table["valid_set"]).tolist():
                    rows = rename(take(table, (table["dataset"] == corpus) & (table["valid_set"] == valid)), columns)
                    cheap = rows["flop"] <= np.quantile(rows["flop"], share)
                    law, dear = fit("over_training", take(rows, cheap), **QUIET), take(rows, ~cheap)
                    errors.setdefault(valid, []).extend(relative(law(dear), dear["loss"]).tolist())
            means = {valid: float(np.mean(values)) for valid, values in errors.items()}
            found[f"{name}, fitted to the cheaper {share:.0%}"] = {"mean_error": float(np.mean([one for values in errors.values() for one in values])), "by_validation_set": means}
    return found


def coverages() -> dict[str, Any]:
    found = {}
    for name, design in DESIGNS.items():
        began = time.perf_counter()
        found[name] = coverage(name, design["table"], design["truth"], sigma=design["sigma"], draws=500, knobs=design.get("knobs"))
        found[name]["seconds"] = time.perf_counter() - began
        print(f"{name}: {found[name]['lowest']:.3f} to {found[name]['highest']:.3f} in {found[name]['seconds']:.0f} s", flush=True)
    low, high = min(one["lowest"] for one in found.values()), max(one["highest"] for one in found.values())
    return {"forms": found, "lowest": low, "highest": high, "all_between_85_and_95_percent": low >= 0.85 and high <= 0.95}


def speed() -> dict[str, Any]:
    table = chinchilla_points()
    seconds = {}
    for draws in (1000, 2000, 4000, 8000):
        began = time.perf_counter()
        found = fit("chinchilla", table, interval="bootstrap", draws=draws, backtest=False)
        seconds[draws] = time.perf_counter() - began
    return {"seconds_by_draws": seconds, "4000_to_8000": seconds[8000] / seconds[4000], "bootstrap": found.method["bootstrap"]}


def others() -> dict[str, Any]:
    sweep = rename(read(data() / "loss_to_loss_sweep.csv.gz"), {"source_loss": "train_loss_100", "loss": "eval/c4_val/CrossEntropyLoss", "flop": "iso_flop"})
    pairs = {}
    for corpus in np.unique(sweep["data"]).tolist():
        rows = take(sweep, sweep["data"] == corpus)
        cheap = rows["flop"] <= rows["flop"].max() / 10
        pairs[corpus] = float(relative(fit("loss_to_loss", take(rows, cheap), **QUIET)(take(rows, ~cheap)), rows["loss"][~cheap]).mean())
    steps = rename(read(data() / "lr_batch_sweep_dense_small.csv.gz"), {"params": "params_non_embedding", "batch": "batch_size*2048"})
    bowl = fit("batch_lr", steps | {"loss": steps["smooth_loss"]}, draws=0, backtest=False)
    curves, ends = read(data() / "lr_schedule_loss_curves.csv"), {}
    for millions in (25, 100):
        for run, cut in (("constant_24000", 12000), ("cosine_24000", 12000), ("wsd_20000_24000", 18000), ("cosine_72000", 36000)):
            rows = where(curves, [f"model_millions={millions}", f"schedule={run}"])
            later = take(rows, rows["step"] > cut)
            answer = continued(take(rows, rows["step"] <= cut), later)
            ends[f"{millions} M, {run} from step {cut}"] = {"end_error": float(answer.loss[-1] / later["loss"][-1] - 1), "mean_error": float(relative(answer.loss, later["loss"]).mean()),
                                                            "covered": float(((answer.low <= later["loss"]) & (later["loss"] <= answer.high)).mean())}  # fmt: skip
    exponents = {name: {"estimate": bowl.estimates[name], "interval": bowl.intervals[name], "published": value} for name, value in (("a", -0.713), ("b", 0.307), ("e", 0.571))}
    return {"loss_to_loss_mean_error_at_10x": pairs, "batch_lr_exponents": exponents, "continued": ends}


RESULTS = Path(__file__).parent / "results" / "scaling_laws.json"
SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "published": published, "schedules": schedules, "mixtures": mixtures, "over_training": over_training, "coverage": coverages, "speed": speed, "others": others,
}  # fmt: skip


def main() -> None:
    chosen = sys.argv[1:] or list(SECTIONS)
    results: dict[str, Any] = {}
    for name in chosen:
        began = time.perf_counter()
        results[name] = SECTIONS[name]()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    before = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else "{}"
    kept = {name: section for name, section in json.loads(before).items() if name in SECTIONS}
    write("scaling_laws", kept | results)


if __name__ == "__main__":
    main()
