"""Scaling laws against published measurements, and intervals against known truths.

    python benchmarks/scaling_laws.py                  everything (about 10 minutes on one core)
    python benchmarks/scaling_laws.py published speed  some sections; the results of the others are kept
    python benchmarks/scaling_laws.py coverage moe     coverage of some forms, which are named last; the results of the others are kept

Each section (and each form of coverage) carries the commit, time and machine of its own run.

published       the refit of Chinchilla's 245 points (Besiroglu et al. 2024), by Huber loss with delta 1e-3, five highest losses left out
schedules       multi-power law, at the lowest objective and as its paper fits: fitted to three learning-rate schedules, asked about six;
                beside it what the authors log for each, and how often each way does it when the points are weighed otherwise
mixtures        laws of mixtures at 70 M parameters: five-fold over runs; each domain's law is chosen by held-out runs among the fitted
over_training   fitted to the smaller half of the runs, asked about the larger; by compute and by model size (scaling_over_training.py)
coverage        90 % profile intervals on 500 synthetic data sets for every form, and for the other shapes of forms that have several;
                the fits start at the truth, and 1 % of the data sets are refitted from all starts
speed           4,000 bootstrap draws, and that twice the draws take twice the time: seconds by the clock, and of the processor
continued       the rest of a run that is cut halfway, for nine schedules of two sizes: how often the interval covers it
others          loss to loss at ten times the compute; best learning rate and batch
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
from _machine import facts, text_folder
from scaling_designs import DESIGNS, VARIANTS
from scaling_over_training import over_training as halves

from ingot.scaling import Fit, compare, continued, fit
from ingot.scaling.coverage import coverage
from ingot.scaling.fit import build
from ingot.scaling.solve import Problem, from_all_starts, huber
from ingot.scaling.table import Table, read, rename, take, where

QUIET: dict[str, Any] = {"draws": 0, "interval": "none", "backtest": False}
PUBLISHED = {"A": (482.01, 124.58), "B": (2085.43, 1293.23), "E": (1.8172, 0.03), "alpha": (0.3478, 0.02), "beta": (0.3658, 0.02)}

AUTHORS: dict[int, dict[str, Any]] = {
    25: {
        "coefficients": (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
        "r2": {
            "constant_72000": 0.99976,
            "cosine_72000": 0.99662,
            "wsd_20000_24000": 0.99922,
            "wsdcon_18": 0.99961,
            "wsdcon_3": 0.99825,
            "wsdld_20000_24000": 0.99936,
        },
    },
    100: {
        "coefficients": (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
        "r2": {
            "constant_72000": 0.99796,
            "cosine_72000": 0.99699,
            "wsd_20000_24000": 0.99867,
            "wsdcon_18": 0.99987,
            "wsdcon_3": 0.99728,
            "wsdld_20000_24000": 0.99904,
        },
    },
}
"""What the multi-power law's authors publish with their code: coefficients after 200 steps of AdamW, and R^2 of each schedule held out."""

GROUPS = {
    "academic": ("ArXiv", "PubMed_Abstracts", "PhilPapers", "NIH_ExPorter", "FreeLaw", "USPTO_Backgrounds", "PubMed_Central"),
    "prose": ("PG19", "Books3", "BookCorpus2"),
    "dialogue": ("Ubuntu_IRC", "OpenSubtitles", "EuroParl", "Enron_Emails", "HackerNews", "YoutubeSubtitles"),
    "symbolic": ("DM_Mathematics", "Github"),
    "internet": ("Pile-CC", "OpenWebText2", "StackExchange", "Wikipedia_en"),
}
"""The five validation domains that the data-mixing paper reports."""


def data() -> Path:
    return text_folder().parent / "scaling"


def chinchilla_points() -> Table:
    table = read(data() / "chinchilla_points.csv")
    return take(rename(table, {"tokens": "flop/6/params"}), table["loss"].argsort().argsort() < len(table["loss"]) - 5)


def relative(predicted: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.abs(predicted / seen - 1)


def published() -> dict[str, Any]:
    found = fit("chinchilla", chinchilla_points(), interval="bootstrap", draws=4000, backtest=False)
    rows = {
        name: {
            "estimate": found.estimates[name],
            "published": value,
            "published_error": error,
            "errors_away": abs(found.estimates[name] - value) / error,
            "bootstrap_90": found.intervals[name],
        }
        for name, (value, error) in PUBLISHED.items()
    }
    return {
        "coefficients": rows,
        "all_within_published_95": all(row["errors_away"] < 1.96 for row in rows.values()),
        "bootstrap": found.method["bootstrap"],
    }


def schedules() -> dict[str, Any]:
    found: dict[str, Any] = {}
    priors = {"no prior": {}, "published shape as prior": {"C": (2.07, 0.15), "beta": (0.59, 0.05), "gamma": (0.645, 0.05)}}
    for millions in (25, 100):
        table = rename(where(read(data() / "lr_schedule_loss_curves.csv"), [f"model_millions={millions}"]), {"run": "schedule"})
        seen = np.isin(table["run"], ("cosine_24000", "constant_24000", "wsdcon_9"))
        other = take(table, ~seen)
        for law, name, prior in (
            ("multi_power", "no prior", priors["no prior"]),
            ("multi_power", "published shape as prior", priors["published shape as prior"]),
            ("annealing", "no prior", {}),
        ):
            one = fit(law, take(table, seen), prior=prior, **QUIET)
            found[f"{law}, {millions} M, {name}"] = _by_schedule(one(other), other) | {"objective": one.error["objective"]}
        one = fit("multi_power", take(table, seen), knobs={"fit": "paper"}, **QUIET)
        found[f"multi_power, {millions} M, fit: paper"] = _by_schedule(one(other), other) | {
            "objective": one.error["objective"],
            "coefficients": one.estimates,
        }
        for way in ("paper", "optimum"):
            found[f"multi_power, {millions} M, fit: {way}, reweighted"] = _reweighted(take(table, seen), other, {"fit": way})
        ways = {
            way: fit("multi_power", take(table, seen), knobs={"fit": way}, **QUIET | {"backtest": True}) for way in ("paper", "optimum")
        }
        found[f"multi_power, {millions} M, mean error of later steps of the fitted schedules, held out"] = {
            row["law"]: row["held_out"] for row in compare(ways)
        }
        found[f"multi_power, {millions} M, at the authors' coefficients"] = _at_published(millions, take(table, seen), other)
    return found


def _reweighted(seen: Table, other: Table, knobs: dict[str, Any], draws: int = 100) -> dict[str, Any]:
    """How much hangs on the very points: blocks of a fortieth of them weigh Exp(1), and the schedules held out are asked again."""
    law, n = build("multi_power", seen, knobs), len(seen["loss"])
    length = max(1, round(n / 40))
    weights = np.repeat(np.random.default_rng(0).exponential(size=(draws, -(-n // length))), length, axis=1)[:, :n]
    found = from_all_starts(
        Problem(law, law.prepare(seen), np.log(seen["loss"]), 1e-3), w_Kn=weights / weights.mean(1, keepdims=True), keep=3
    )
    lowest = np.array([_by_schedule(guess, other)["r2_lowest"] for guess in np.exp(law.predict(found.theta_KP, law.prepare(other)))])
    return {
        "draws": draws,
        "share_with_every_schedule_at_0.995": float((lowest >= 0.995).mean()),
        "r2_lowest_median": float(np.median(lowest)),
        "r2_lowest_worst": float(lowest.min()),
    }


def _by_schedule(guess: np.ndarray, other: Table) -> dict[str, Any]:
    each = {run: r2(guess[other["run"] == run], other["loss"][other["run"] == run]) for run in dict.fromkeys(other["run"].tolist())}
    return {
        "r2_pooled": r2(guess, other["loss"]),
        "r2_mean_of_schedules": float(np.mean(list(each.values()))),
        "r2_lowest": min(each.values()),
        "r2": each,
        "mean_error": float(relative(guess, other["loss"]).mean()),
    }


def _at_published(millions: int, seen: Table, other: Table) -> dict[str, Any]:
    """Our law at their coefficients must say what their log says; objective: the sum of Huber losses over the fitted curves, which ours minimizes."""
    law, known = build("multi_power", seen), AUTHORS[millions]
    theta = law.theta(dict(zip((one.name for one in law.coefficients), known["coefficients"])))[None]
    guess = np.exp(law.predict(theta, law.prepare(other))[0])
    objective = float(huber(np.log(seen["loss"]) - law.predict(theta, law.prepare(seen))[0], 1e-3).sum())
    return _by_schedule(guess, other) | {"objective": objective, "r2_logged_by_the_authors": known["r2"]}


def r2(predicted: np.ndarray, seen: np.ndarray) -> float:
    return float(1 - ((predicted - seen) ** 2).sum() / ((seen - seen.mean()) ** 2).sum())


def mixtures() -> dict[str, Any]:
    weights = read(data() / "data_mixing_valid_weights.csv")
    weight = dict(zip(weights["valid_domain"].tolist(), weights["weight"].tolist()))
    return {
        name: _mixture(where(read(data() / f"data_mixing_{name}_70m_160m.csv.gz"), ["model=70M", "step=30000"]), weight)
        for name in ("redpajama", "5mix")
    }


MIXTURES = {
    "data_mixing, product": ("data_mixing", {"combine": "product"}),
    "data_mixing, sum": ("data_mixing", {"combine": "sum"}),
    "additive_mixing, each": ("additive_mixing", {"exponents": "each"}),
    "additive_mixing, shared": ("additive_mixing", {"exponents": "shared"}),
}


def _chosen(seen: Table) -> tuple[str, Fit]:
    """The best of the laws of mixtures by held-out runs among those that may be seen."""
    fits = {name: fit(law, seen, draws=0, interval="none", knobs=knobs) for name, (law, knobs) in MIXTURES.items()}
    return min(fits.items(), key=lambda one: one[1].backtest[0]["mean"])


def _mixture(table: Table, weight: dict[str, float]) -> dict[str, Any]:
    runs = np.unique(table["run"])
    order = np.random.default_rng(0).permutation(len(runs))
    pairs: dict[str, dict[str, np.ndarray]] = {}
    chosen = dict.fromkeys(MIXTURES, 0)
    for fold in range(5):
        held = np.isin(table["run"], runs[order[fold::5]])
        for domain in np.unique(table["valid_domain"]).tolist():
            rows = table["valid_domain"] == domain
            test = take(table, rows & held)
            name, one = _chosen(take(table, rows & ~held))
            chosen[name] += 1
            pairs.setdefault(domain, {}).update(zip(test["run"].tolist(), np.stack([one(test), test["loss"]], 1)))
        print(f"fold {fold + 1} of 5: {chosen}", flush=True)
    means = {domain: _off(pairs, (domain,), weight) for domain in pairs}
    groups = {group: _off(pairs, domains, weight) for group, domains in GROUPS.items()}
    return {
        "runs": len(runs),
        "mean_error_of_domains": float(np.mean(list(means.values()))),
        "mean_error_of_the_papers_five": float(np.mean(list(groups.values()))),
        "mean_error_of_overall_loss": _off(pairs, tuple(pairs), weight),
        "chosen": chosen,
        "papers_five": groups,
        "domains_above_1_percent": {domain: value for domain, value in means.items() if value > 0.01},
    }


def _off(pairs: dict[str, dict[str, np.ndarray]], domains: tuple[str, ...], weight: dict[str, float]) -> float:
    """Mean relative error, over the held-out runs that have all of these domains, of their weighted loss."""
    common = sorted(set.intersection(*(set(pairs[domain]) for domain in domains)))
    whole = np.array([sum(weight[domain] * pairs[domain][run] for domain in domains) for run in common])
    return float(relative(*whole.T).mean())


def over_training() -> dict[str, Any]:
    table = rename(read(data() / "overtraining_losses_small.csv"), {"flop": "6*params*tokens", "warmup_tokens": "warmup*global_batch*2048"})
    return halves(table)


def coverages(names: list[str], before: dict[str, Any]) -> dict[str, Any]:
    """names: forms and variants; all of them when it is empty, else the others keep what they had."""
    found = {name: one for name, one in before.get("forms", {}).items() if names}
    designs = DESIGNS | VARIANTS
    for name in names or designs:
        design, stamp, began = designs[name], facts(), time.perf_counter()
        found[name] = coverage(
            design.get("form", name), design["table"], design["truth"], sigma=design["sigma"], draws=500, knobs=design.get("knobs")
        )
        found[name] |= {"seconds": time.perf_counter() - began, "stamp": stamp}
        print(f"{name}: {found[name]['lowest']:.3f} to {found[name]['highest']:.3f} in {found[name]['seconds']:.0f} s", flush=True)
    low, high = min(one["lowest"] for one in found.values()), max(one["highest"] for one in found.values())
    return {
        "forms": found,
        "lowest": low,
        "highest": high,
        "all_between_85_and_95_percent": low >= 0.85 and high <= 0.95,
        "missing": sorted(set(designs) - set(found)),
    }


def speed() -> dict[str, Any]:
    """Processor seconds (one thread) say what it costs on a machine that does other things too; on an idle one the clock says the same."""
    table = chinchilla_points()
    clock: dict[int, float] = {}
    processor: dict[int, float] = {}
    for draws in (1000, 2000, 4000, 8000):
        began, used = time.perf_counter(), time.process_time()
        found = fit("chinchilla", table, interval="bootstrap", draws=draws, backtest=False)
        clock[draws], processor[draws] = time.perf_counter() - began, time.process_time() - used
    return {
        "seconds_by_draws": clock,
        "processor_seconds_by_draws": processor,
        "4000_to_8000": processor[8000] / processor[4000],
        "load_average": os.getloadavg()[0],
        "bootstrap": found.method["bootstrap"],
    }


def others() -> dict[str, Any]:
    sweep = rename(
        read(data() / "loss_to_loss_sweep.csv.gz"),
        {"source_loss": "train_loss_100", "loss": "eval/c4_val/CrossEntropyLoss", "flop": "iso_flop"},
    )
    pairs = {}
    for corpus in np.unique(sweep["data"]).tolist():
        rows = take(sweep, sweep["data"] == corpus)
        cheap = rows["flop"] <= rows["flop"].max() / 10
        pairs[corpus] = float(relative(fit("loss_to_loss", take(rows, cheap), **QUIET)(take(rows, ~cheap)), rows["loss"][~cheap]).mean())
    steps = rename(read(data() / "lr_batch_sweep_dense_small.csv.gz"), {"params": "params_non_embedding", "batch": "batch_size*2048"})
    bowl = fit("batch_lr", steps | {"loss": steps["smooth_loss"]}, draws=0)
    exponents = {
        name: {"estimate": bowl.estimates[name], "interval": bowl.intervals[name], "published": value}
        for name, value in (("a", -0.713), ("b", 0.307), ("e", 0.571))
    }
    return {"loss_to_loss_mean_error_at_10x": pairs, "batch_lr_exponents": exponents, "batch_lr_past_choices": bowl.backtest}


def continued_runs() -> dict[str, Any]:
    """Every run cut halfway. unseen: what `ingot.scaling.running` takes for the effect of a falling rate, from 25 M; 100 M judge it."""
    curves, found = read(data() / "lr_schedule_loss_curves.csv"), {}
    for law in ("multi_power", "annealing"):
        runs: dict[str, Any] = {}
        ratios: dict[int, list[float]] = {25: [], 100: []}
        for millions in ratios:
            for run in dict.fromkeys(curves["schedule"].tolist()):
                rows = where(curves, [f"model_millions={millions}", f"schedule={run}"])
                sofar = rows["step"] <= rows["step"][-1] / 2
                later = take(rows, ~sofar)
                answer = continued(take(rows, sofar), later, law=law, untested=True)
                off, effect = answer.loss / later["loss"] - 1, np.abs(answer.effect) / answer.loss
                if (much := effect > 2e-3).any():
                    ratios[millions].append(float(((off[much] / effect[much]) ** 2).mean()))
                runs[f"{millions} M, {run}"] = {
                    "end_error": float(off[-1]),
                    "mean_error": float(np.abs(off).mean()),
                    "half_width_at_the_end": float((answer.high[-1] - answer.low[-1]) / 2 / answer.loss[-1]),
                    "covered": float(((answer.low <= later["loss"]) & (later["loss"] <= answer.high)).mean()),
                    "end_covered": bool(answer.low[-1] <= later["loss"][-1] <= answer.high[-1]),
                }
                print(f"{law}, {millions} M, {run}: {runs[f'{millions} M, {run}']['covered']:.3f} covered", flush=True)
        found[law] = {
            "level": 0.9,
            "covered_mean": {f"{size} M": _mean(runs, size, "covered") for size in ratios},
            "covered_lowest": min(one["covered"] for one in runs.values()),
            "ends_covered": {f"{size} M": _mean(runs, size, "end_covered") for size in ratios},
            "unseen": {f"{size} M": float(np.sqrt(np.mean(several))) for size, several in ratios.items()},
            "runs": runs,
        }
    return found


def _mean(runs: dict[str, Any], millions: int, key: str) -> float:
    return float(np.mean([one[key] for name, one in runs.items() if name.startswith(f"{millions} M")]))


RESULTS = Path(__file__).parent / "results" / "scaling_laws.json"
SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "published": published,
    "schedules": schedules,
    "mixtures": mixtures,
    "over_training": over_training,
    "speed": speed,
    "continued": continued_runs,
    "others": others,
}
NAMES = [*SECTIONS, "coverage"]


def main() -> None:
    asked = sys.argv[1:]
    # Forms follow the word coverage: over_training is a section as well as a form.
    at = asked.index("coverage") + 1 if "coverage" in asked else len(asked)
    chosen, forms = asked[:at] or NAMES, asked[at:]
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name in chosen:
        stamp, began = facts(), time.perf_counter()
        section = coverages(forms, before.get("coverage", {})) if name == "coverage" else SECTIONS[name]()
        keep(name, {"stamp": stamp} | section)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


def keep(name: str, section: dict[str, Any]) -> None:
    """Put a section beside the others, which are read again: another run may have written its own meanwhile."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    whole = {known: one for known, one in before.items() if known in NAMES} | {name: section}
    RESULTS.write_text(json.dumps(whole, indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
