"""Reasons not to believe a fit: inputs that were not tuned or did not converge, coefficients that the data do not determine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import stats

from .form._base import Form


def of_table(table: Mapping[str, Any], output: str) -> Iterator[str]:
    """Sentences about the measurements themselves."""
    yield from _rates_at_the_edge(table, output)
    yield from _unfinished(table)
    yield from _diverged(table, output)


def _setting(table: Mapping[str, Any]) -> np.ndarray | None:
    if "params" not in table or "tokens" not in table:
        return None
    pairs = np.stack([np.asarray(table["params"], float), np.asarray(table["tokens"], float)], 1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def _rates_at_the_edge(table: Mapping[str, Any], output: str) -> Iterator[str]:
    """The best learning rate or batch of a setting is the smallest or largest that was tried."""
    setting = _setting(table)
    if setting is None or output not in table or ("run" in table and "step" in table):
        return
    loss = np.asarray(table[output], float)
    for name in ("lr", "batch"):
        if name not in table:
            continue
        tried, edge, single = np.asarray(table[name], float), 0, 0
        count = int(setting.max()) + 1
        for index in range(count):
            rows = np.flatnonzero((setting == index) & np.isfinite(loss))
            values = np.unique(tried[rows])
            single += len(values) == 1
            edge += len(values) > 1 and tried[rows[np.argmin(loss[rows])]] in (values[0], values[-1])
        what = "learning rate" if name == "lr" else "batch"
        if edge:
            yield f"untuned: in {edge} of {count} settings the best {what} is at the edge of those tried, so the best loss may be lower"
        if single == count > 1 and len(np.unique(tried)) == 1 and name == "lr":
            yield f"untuned: every run used the learning rate {tried[0]:g}; larger models may want a lower one"


def _unfinished(table: Mapping[str, Any]) -> Iterator[str]:
    if "warmup_tokens" in table and "tokens" in table:
        share = np.asarray(table["warmup_tokens"], float) / np.asarray(table["tokens"], float)
        if many := int((share > 0.5).sum()):
            yield f"unconverged: {many} runs spent more than half of their tokens in warm-up"
    if "final_lr" in table and "lr" in table:
        held = np.asarray(table["final_lr"], float) > 0.3 * np.asarray(table["lr"], float)
        if held.any():
            yield f"unconverged: {int(held.sum())} runs ended with more than 30 % of their peak learning rate; compare only annealed runs"


def _diverged(table: Mapping[str, Any], output: str) -> Iterator[str]:
    loss = np.asarray(table[output], float)
    setting = _setting(table)
    if setting is None or "step" in table or output != "loss":
        return
    lowest = np.full(int(setting.max()) + 1, np.inf)
    np.minimum.at(lowest, setting, np.where(np.isfinite(loss), loss, np.inf))
    if many := int((loss > 1.5 * lowest[setting]).sum()):
        yield f"diverged: {many} runs lost more than 1.5 times the best of their setting; leave them out"


def of_inputs(form: Form, table: Mapping[str, Any], free: int) -> Iterator[str]:
    """Sentences about where the law was measured. free: coefficients that are not known."""
    if form.curve:
        return
    inputs = np.stack([np.asarray(table[name], float) for name in form.inputs], 1)
    distinct = len(np.unique(inputs, axis=0))
    if distinct < free:
        yield f"{distinct} distinct {'settings' if distinct != 1 else 'setting'} of {', '.join(form.inputs)} cannot determine {free} coefficients"
    for name, column in zip(form.inputs, inputs.T):
        if distinct > 1 and np.ptp(column) == 0:
            yield f"every row has the same {name}: nothing tells what it does"


def of_fit(
    form: Form,
    theta_P: np.ndarray,
    intervals: Mapping[str, tuple[float, float]],
    fixed: Mapping[str, float],
    r_n: np.ndarray,
    scale_n: np.ndarray | None,
    converged: bool,
) -> Iterator[str]:
    """Sentences about the estimates."""
    if not converged:
        yield "unconverged: the optimizer stopped before the objective settled"
    low, high = form.bounds.T
    for index, coefficient in enumerate(form.coefficients):
        if coefficient.name in fixed:
            continue
        if np.isclose(theta_P[index], low[index]) or np.isclose(theta_P[index], high[index]):
            yield f"{coefficient.name} lies at the bound of what it may be ({coefficient.outward(theta_P[index]):.4g})"
        ends = np.array(
            [coefficient.inward(max(value, 1e-300) if coefficient.log else value) for value in intervals.get(coefficient.name, (0.0, 1.0))]
        )
        if (coefficient.name in intervals) and (not np.isfinite(ends).all() or (coefficient.log and np.ptp(ends) > np.log(1e3))):
            yield f"{coefficient.name} is not determined by these data"
    center = float(np.median(r_n))
    spread = max(float(np.median(np.abs(r_n - center))) / 0.6745, 1e-12)
    far = int((np.abs(r_n - center) > 6 * spread).sum())
    if far > 0.01 * len(r_n):
        yield f"{far} of {len(r_n)} points lie more than 6 robust deviations from the law"
    if scale_n is not None and len(r_n) >= 12 and len(np.unique(scale_n)) > 3:
        top = scale_n >= np.quantile(scale_n, 0.8)
        if top.sum() >= 5 and np.abs(r_n[top]).max() > 1e-9 and stats.wilcoxon(r_n[top]).pvalue < 0.001:
            yield f"the largest fifth of the data lies {'above' if np.median(r_n[top]) > 0 else 'below'} the law: extrapolation will lean the same way"


def uneven(form: Form, intervals: Mapping[str, tuple[float, float]], draws_KP: np.ndarray, level: float) -> Iterator[str]:
    """Errors that differ over the data: profile intervals take them as alike, bootstrap draws do not."""
    if len(draws_KP) < 100:
        return
    ends = np.quantile(draws_KP, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    wider = []
    for index, coefficient in enumerate(form.coefficients):
        low, high = intervals[coefficient.name]
        width = float(coefficient.inward(high) - coefficient.inward(low)) if high > low > 0 or not coefficient.log else 0.0
        if 0 < width < np.inf and np.ptp(ends[:, index]) > 1.5 * width:
            wider.append(coefficient.name)
    if wider:
        yield f"bootstrap intervals of {', '.join(wider)} are more than 1.5 times as wide: errors differ over the data; prefer interval='bootstrap'"
