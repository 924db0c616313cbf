"""The page of a fitted law: points, law, interval, what was held out, and what past predictions erred. No network, no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.amounts import count
from ..core.atomic import write_text
from ..report.text import safe
from .page import figure, legend, page, section, table
from .plots import EMPTY, Plane, hinted, line, svg, text

if TYPE_CHECKING:
    from ..scaling import Fit

Words = Callable[[float], str]
LINES = 7  # colors there are
POINTS = 400  # drawn of a curve


def write_fit_page(fits: Mapping[str, Fit], path: str | Path, *, title: str, held: Mapping[str, Any] | None = None) -> Path:
    """One page for a fit, or for a fit of every group. held: per group a table of rows that the fit did not see."""
    path = Path(path)
    body = [
        f'<header><p class="brand">Ingot · scaling law</p><h1>{safe(title)}</h1><p class="lead">{safe(_lead(fits, held or {}))}</p></header>'
    ]
    for name, fit in fits.items():
        body.append(_one(name, fit, (held or {}).get(name)))
    write_text(path, page(title, "\n".join(body), {name: fit.as_dict() for name, fit in fits.items()}))
    return path


def _lead(fits: Mapping[str, Fit], held: Mapping[str, Any]) -> str:
    from ..scaling.held import held_rows

    errors = [abs(row["error"]) for name, fit in fits.items() for row in held_rows(fit, held.get(name))]
    first = next(iter(fits.values()))
    about = f"{first.form} describes {sum(int(fit.error['n']) for fit in fits.values())} measurements within {np.mean([fit.error['mean'] for fit in fits.values()]):.2%} on average"
    return about + (
        f"; {len(errors)} held-out ones were predicted within {np.mean(errors):.2%} on average, {max(errors):.2%} at worst."
        if errors
        else "."
    )


def _one(name: str, fit: Fit, held: Any) -> str:
    """The sections of one fit."""
    from ..scaling.held import held_rows

    rows, words = held_rows(fit, held), f" ({safe(name)})" if name else ""
    figures = [_law(fit, rows), _residuals(fit)]
    parts = [
        section(f"The law and its points{words}", f'<div class="grid two">{"".join(figures)}</div>'),
        section("Coefficients", _coefficients(fit)),
    ]
    if rows:
        cells = [
            (
                "",
                (
                    " ".join(filter(None, (row.get("of", ""), count(row["x"])))),
                    *(_value(row, text) for text in ("{predicted}", "{low} to {high}", "{seen}")),
                    f"{row['error']:+.2%}",
                    f"{row['reach']:.3g}×" if row["reach"] else "–",
                    "inside" if row["inside"] else "outside",
                ),
            )
            for row in rows
        ]
        parts.append(
            section(
                "Held out",
                table(("scale", "predicted", f"{fit.level:.0%} interval", "measured", "error", "reach", ""), cells),
                "rows that the fit has not seen",
            )
        )
    parts.append(
        section("Past predictions", _past(fit), "the law fitted to the smaller part and asked about the larger, by how far it reached")
    )
    if fit.doubts:
        parts.append(section("Doubts", "<ul class=notes>" + "".join(f"<li>{safe(doubt)}</li>" for doubt in fit.doubts) + "</ul>"))
    return "\n".join(parts)


def _value(row: Mapping[str, Any], text: str) -> str:
    """Numbers of a held-out row; of a choice (a rate, a batch) as many digits as it has, of a loss four places."""
    return text.format(**{key: format(row[key], ".4g" if "of" in row else ".4f") for key in ("predicted", "low", "high", "seen")})


def _coefficients(fit: Fit) -> str:
    rows = [
        (
            "",
            (
                safe(name),
                f"{value:.5g}",
                "fixed" if name in fit.fixed else " to ".join(f"{end:.4g}" for end in fit.intervals.get(name, ())) or "–",
            ),
        )
        for name, value in fit.estimates.items()
    ]
    return table(("coefficient", "estimate", f"{fit.level:.0%} interval"), rows)


def _past(fit: Fit) -> str:
    if not fit.backtest:
        return '<p class="empty">this fit was never back-tested: too few points, or it was not asked for</p>'
    rows = [
        (
            "",
            (
                f"{one.get('of', '')} {one['from']:g} to {one['to']:.3g}×".strip(),
                f"{one['n']:.0f}",
                f"{one['mean']:.2%}",
                f"{one['worst']:.2%}",
                f"{one['bias']:+.2%}",
            ),
        )
        for one in fit.backtest
    ]
    return table(("reach", "predictions", "mean error", "worst", "bias"), rows)


def _law(fit: Fit, rows: Sequence[Mapping[str, Any]]) -> str:
    """The law in the plane that suits it: whole curves, lines of one size, a line with its band, or predicted against measured."""
    inputs = list(fit.law.inputs)
    if fit.law.curve:
        return figure("law", "Curves, measured (faint) and by the law", *_curves(fit))
    if len(inputs) == 1:
        return figure(
            "law",
            "The law with its interval",
            _band(fit, inputs[0], rows),
            caption="open circles: held out, with the interval predicted for them",
        )
    if {"params", "tokens"} <= set(inputs) and len(inputs) == 2:
        return figure("law", "A line for each size", *_sizes(fit, rows))
    return figure("law", "Predicted against measured", _agreement(fit), caption="on the line they agree")


def _plane(x: Sequence[float], y: Sequence[float], *, logarithmic: bool) -> Plane:
    low, high = min(y), max(y)
    pad = 0.06 * ((high - low) or abs(low) * 0.05 or 1.0)
    ends = (min(x) / 1.2, max(x) * 1.2) if logarithmic else (min(x), max(x) if max(x) > min(x) else min(x) + 1)
    return Plane(548, 320, ends, (low - pad, high + pad), left=70, logarithmic=logarithmic)


def _path(plane: Plane, x: Sequence[float], y: Sequence[float], color: str, more: str = "") -> str:
    places = [f"{plane.x(a):.1f},{plane.y(b):.1f}" for a, b in zip(x, y) if math.isfinite(b)]
    return (
        f'<path d="M{"L".join(places)}" fill="none" stroke="{color}" stroke-width="1.8" stroke-linejoin="round"{more}/>' if places else ""
    )


def _dot(plane: Plane, x: float, y: float, color: str, hint: str, *, open_: bool = False) -> str:
    fill = "var(--card)" if open_ else color
    return hinted(f'<circle cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="4" fill="{fill}" stroke="{color}" stroke-width="1.6"/>', hint)


def _held_marks(plane: Plane, rows: Sequence[Mapping[str, Any]], places: Sequence[float | None]) -> list[str]:
    """Held-out rows at their places along the axis."""
    marks = []
    for row, place in zip(rows, places):
        if place is not None:
            x = plane.x(place)
            marks += [
                line(x, plane.y(row["low"]), x, plane.y(row["high"]), "var(--accent)", ' stroke-width="1.6"'),
                _dot(
                    plane,
                    place,
                    row["seen"],
                    "var(--accent)",
                    f"held out: measured {row['seen']:.4f}, predicted {row['predicted']:.4f}",
                    open_=True,
                ),
            ]
    return marks


def _band(fit: Fit, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    seen, loss = np.asarray(fit.table[name], float), np.asarray(fit.table[fit.law.output], float)
    if seen.min() <= 0:
        return _agreement(fit)
    places = [row["at"][name] for row in rows]
    start, end = _ends(fit, name, seen, places)
    x = np.geomspace(start, end, 120)
    middle, sample = fit({name: x}), fit.sample({name: x})
    low, high = np.nanquantile(sample, [0.5 - fit.level / 2, 0.5 + fit.level / 2], axis=0) if len(sample) else (middle, middle)
    plane = _plane([*x], [*middle, *loss, *(value for row in rows for value in (row["low"], row["high"], row["seen"]))], logarithmic=True)
    floor, ceiling = plane.ys
    edge = [f"{plane.x(a):.1f},{plane.y(float(np.clip(b, floor, ceiling))):.1f}" for a, b in [*zip(x, high), *zip(x[::-1], low[::-1])]]
    parts = plane.axes(name, count, lambda value: f"{value:.3g}", fit.law.output)
    parts += [f'<path d="M{"L".join(edge)}Z" fill="var(--c0)" fill-opacity=".15"/>', _path(plane, x, middle, "var(--c0)")]
    parts += [_dot(plane, a, b, "var(--c0)", f"{count(a)}: {b:.4f}") for a, b in zip(seen, loss)]
    return svg(plane.width, plane.height, f"{fit.law.output} against {name}", [*parts, *_held_marks(plane, rows, places)])


def _ends(fit: Fit, name: str, seen: np.ndarray, held: Sequence[float]) -> tuple[float, float]:
    """How far a law of one input is drawn: over all rows, and to where it is asked; a law that reads a loss reaches to lower ones."""
    low, high = min([float(seen.min()), *held]), max([float(seen.max()), *held])
    scale = fit.law.scale({name: np.array([seen.min(), seen.max()])})
    if scale is not None and scale[1] < scale[0]:
        return low / 1.1 if low > 0 else float(seen.min()), high * 1.02
    return low if low > 0 else float(seen.min()), max(float(seen.max()) * 3, high * 1.1)


def _sizes(fit: Fit, rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Loss against compute: a line for a few sizes, every point."""
    N, D, loss = (np.asarray(fit.table[name], float) for name in ("params", "tokens", fit.law.output))
    C = fit.law.scale(fit.table)
    C = 6 * N * D if C is None else C
    sizes = np.unique(N)
    shown = sizes[np.unique(np.linspace(0, len(sizes) - 1, min(LINES, len(sizes))).round().astype(int))]
    plane = _plane(
        [*C, *(row["x"] for row in rows if row["x"])],
        [*loss, *(value for row in rows for value in (row["low"], row["high"]))],
        logarithmic=True,
    )
    parts, colors = plane.axes("FLOPs", count, lambda value: f"{value:.3g}", fit.law.output), {}
    others = ~np.isin(N, shown)
    parts += [_dot(plane, a, b, "var(--faint)", f"{count(n)} parameters: {b:.4f}") for n, a, b in zip(N[others], C[others], loss[others])]
    for index, size in enumerate(shown):
        color, rows_ = f"var(--c{index})", size == N
        tokens = np.geomspace(D[rows_].min(), D[rows_].max(), 40)
        x = float(np.median(C[rows_] / (N[rows_] * D[rows_]))) * size * tokens
        parts.append(_path(plane, x, np.clip(fit({"params": np.full(40, size), "tokens": tokens}), *plane.ys), color))
        parts += [
            _dot(plane, a, b, color, f"{count(size)} parameters, {count(d)} tokens: {b:.4f}")
            for d, a, b in zip(D[rows_], C[rows_], loss[rows_])
        ]
        colors[f"{count(size)} parameters"] = color
    return svg(
        plane.width, plane.height, f"{fit.law.output} against FLOPs", [*parts, *_held_marks(plane, rows, [row["x"] for row in rows])]
    ), legend(colors, list(colors))


def _curves(fit: Fit) -> tuple[str, str]:
    step, loss, law = np.asarray(fit.table["step"], float), np.asarray(fit.table["loss"], float), fit(fit.table)
    runs = np.asarray(fit.table["run"]) if "run" in fit.table else np.zeros(len(step))
    late = loss[step >= np.quantile(step, 0.1)]
    plane = _plane([*step], [*late], logarithmic=False)
    parts, colors = plane.axes("step", count, lambda value: f"{value:.3g}", "loss"), {}
    for index, run in enumerate(list(dict.fromkeys(runs.tolist()))[:LINES]):
        rows = np.flatnonzero((runs == run) & (loss <= plane.ys[1]))
        rows, color = rows[:: max(1, len(rows) // POINTS)], f"var(--c{index})"
        parts += [
            _path(plane, step[rows], loss[rows], color, ' stroke-opacity=".35"'),
            _path(plane, step[rows], np.clip(law[rows], *plane.ys), color, ' stroke-dasharray="5 3"'),
        ]
        colors[str(run)] = color
    return svg(plane.width, plane.height, "loss along the schedules", parts), legend(colors, list(colors))


def _agreement(fit: Fit) -> str:
    seen, guess = np.asarray(fit.table[fit.law.output], float), fit(fit.table)
    plane = _plane([*seen], [*guess, *seen], logarithmic=False)
    parts = plane.axes("measured", lambda value: f"{value:.3g}", lambda value: f"{value:.3g}", "predicted")
    ends = [float(seen.min()), float(seen.max())]
    parts.append(_path(plane, ends, ends, "var(--soft)", ' stroke-dasharray="3 4"'))
    return svg(
        plane.width,
        plane.height,
        "predicted against measured",
        parts + [_dot(plane, a, b, "var(--c0)", f"{a:.4f}, by the law {b:.4f}") for a, b in list(zip(seen, guess))[:POINTS]],
    )


def _residuals(fit: Fit) -> str:
    """Relative errors of the fitted rows against scale, or in their order where there is none."""
    seen, guess = np.asarray(fit.table[fit.law.output], float), fit(fit.table)
    error = guess / seen - 1 if fit.law.residual == "log" else guess - seen
    scale = fit.law.scale(fit.table)
    logarithmic = scale is not None and float(np.min(scale)) > 0
    x = np.asarray(scale, float) if logarithmic and scale is not None else np.arange(1.0, len(seen) + 1)
    if not len(seen):
        return figure("residuals", "What the law leaves", EMPTY)
    keep = np.unique(np.linspace(0, len(seen) - 1, min(POINTS, len(seen))).astype(int))
    plane = _plane([*x[keep]], [*error[keep], 0.0], logarithmic=logarithmic)
    words: Words = (lambda value: f"{value:+.2%}") if fit.law.residual == "log" else (lambda value: f"{value:+.3g}")
    parts = plane.axes("scale" if logarithmic else "row", count, words, "error")
    parts.append(line(plane.left, plane.y(0), plane.width - plane.right, plane.y(0), "var(--soft)"))
    parts += [_dot(plane, x[row], error[row], "var(--c2)", f"{words(error[row])}") for row in keep]
    parts.append(text(plane.width - plane.right, plane.top + 8, f"mean {fit.error.get('mean', 0):.2%}", "end"))
    return figure("residuals", "What the law leaves", svg(plane.width, plane.height, "errors of the fitted rows", parts))
