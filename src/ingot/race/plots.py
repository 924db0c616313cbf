"""The figures of a race as SVG text: drawn here, so that the page needs no script, prints, and follows the color scheme by its classes.

Every function takes plain data and returns one ``<svg>`` element, or a paragraph where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..report.text import safe

Words = Callable[[float], str]
EMPTY = '<p class="empty">nothing recorded</p>'


def known(values: Sequence[Any]) -> list[float]:
    """The finite numbers."""
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round places from low to high, at most about `most`."""
    span = (high - low) or 1.0
    raw = span / max(1, most)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the two."""
    return [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
        if low <= factor * 10.0**power <= high
    ]


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    wide = ' class="wide"' if width > 800 else ""
    return f'<svg{wide} viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{safe(title)}">{"".join(parts)}</svg>'


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{safe(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{more}/>'


def hinted(shape: str, hint: str) -> str:
    """A shape with a tooltip."""
    return f"<g>{shape}<title>{safe(hint)}</title></g>"


class Plane:
    """Axes over a rectangle: x and y turn values into places. logarithmic: the horizontal axis."""

    def __init__(
        self,
        width: float,
        height: float,
        xs: tuple[float, float],
        ys: tuple[float, float],
        *,
        left: float = 58,
        right: float = 14,
        top: float = 12,
        bottom: float = 42,
        logarithmic: bool = False,
    ):
        self.width, self.height, self.left, self.right, self.top, self.bottom = width, height, left, right, top, bottom
        self.xs, self.ys, self.logarithmic = xs, ys, logarithmic

    def x(self, value: float) -> float:
        low, high, at = (*self.xs, value)
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.left + (at - low) / ((high - low) or 1.0) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.height - self.bottom - (value - low) / ((high - low) or 1.0) * (self.height - self.top - self.bottom)

    def axes(self, name_x: str, words_x: Words, words_y: Words, name_y: str = "") -> list[str]:
        """Grid, labels and names."""
        parts = []
        for value in ticks(*self.ys, 5):
            parts += [
                line(self.left, self.y(value), self.width - self.right, self.y(value), "var(--grid)"),
                text(self.left - 8, self.y(value) + 4, words_y(value), "end"),
            ]
        wanted = max(3, int((self.width - self.left) / 90))
        places = log_ticks(*self.xs) if self.logarithmic else ticks(*self.xs, wanted)
        for value in places[:: -(-len(places) // wanted)]:
            parts += [
                line(self.x(value), self.height - self.bottom, self.x(value), self.height - self.bottom + 4, "var(--faint)"),
                text(
                    min(self.x(value), self.width - self.right - 2),
                    self.height - self.bottom + 17,
                    words_x(value),
                    "middle" if self.x(value) < self.width - 40 else "end",
                ),
            ]
        parts.append(line(self.left, self.height - self.bottom, self.width - self.right, self.height - self.bottom, "var(--faint)"))
        parts.append(text((self.left + self.width - self.right) / 2, self.height - 6, name_x, "middle", ' class="name"'))
        if name_y:
            middle = (self.top + self.height - self.bottom) / 2
            parts.append(text(12, middle, name_y, "middle", f' class="name" transform="rotate(-90 12 {middle:.1f})"'))
        return parts


def curves(
    series: Sequence[Mapping[str, Any]],
    *,
    name_x: str,
    name_y: str,
    words_x: Words,
    words_y: Words,
    target: float | None = None,
    width: float = 548,
    height: float = 300,
) -> str:
    """Metric against a cost. series: name, color, x, y, and `runs`, a list of (x, y) of its single runs, drawn faintly. The view starts
    where the first tenth of the way down is done, so that the end can be told apart."""
    drawn = [one for one in series if len([1 for x, y in zip(one["x"], one["y"]) if x is not None and y is not None]) > 1]
    if not drawn:
        return EMPTY
    values = [value for one in drawn for value in known([*one["y"], *(y for _, ys in one.get("runs", []) for y in ys)])]
    low, high = min(values), max(values)
    late = [
        value for one in drawn for ys in (one["y"], *(ys for _, ys in one.get("runs", []))) for value in known(ys[max(1, len(ys) // 8) :])
    ] or values
    top = max(late) if max(late) > low else high
    pad = 0.06 * ((top - low) or abs(low) * 0.05 or 1.0)
    furthest = max(value for one in drawn for value in known(one["x"]))
    plane = Plane(width, height, (0.0, furthest or 1.0), (low - pad, top + pad), left=70)
    clip = f"clip-{abs(hash((name_x, width, low, top))) % 10**9}"
    parts = [
        f'<defs><clipPath id="{clip}"><rect x="{plane.left - 3}" y="{plane.top - 6}" width="{width - plane.left - plane.right + 8}" height="{height - plane.top - plane.bottom + 8}"/></clipPath></defs>'
    ]
    parts += plane.axes(name_x, words_x, words_y, name_y)
    if target is not None and plane.ys[0] < target < plane.ys[1]:
        parts += [
            line(plane.left, plane.y(target), width - plane.right, plane.y(target), "var(--soft)", ' stroke-dasharray="3 4"'),
            text(plane.left + 6, plane.y(target) - 5, "target"),
        ]
    inside = []
    for one in drawn:
        inside += [_path(x, y, plane, one["color"], 1.0, 0.3) for x, y in one.get("runs", [])]
    for one in drawn:
        inside.append(hinted(_path(one["x"], one["y"], plane, one["color"], 2.0, 1.0, one.get("dash", "")), one["name"]))
    return svg(width, height, f"{name_y} against {name_x}", [*parts, f'<g clip-path="url(#{clip})">{"".join(inside)}</g>'])


def _path(xs: Sequence[Any], ys: Sequence[Any], plane: Plane, color: str, thickness: float, opacity: float, dash: str = "") -> str:
    places = [(plane.x(x), plane.y(y)) for x, y in zip(xs, ys) if x is not None and y is not None and math.isfinite(y)]
    if not places:
        return ""
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{thickness}" stroke-opacity="{opacity}" stroke-linejoin="round"{dashes}/>'


def forest(rows: Sequence[Mapping[str, Any]], *, margin: float, words: Words, name_x: str, width: float = 1112) -> str:
    """Effects with intervals. rows: name, color, verdict, mean, low, high (shares; None is unbounded), note. The margin is a band."""
    shown = [row for row in rows if row["mean"] is not None]
    if not shown:
        return EMPTY
    ends = [abs(value) for row in shown for value in (row["low"], row["high"], row["mean"]) if value is not None]
    reach = min(max([*ends, 2 * margin, 1e-4]) * 1.12, max(8 * max(abs(row["mean"]) for row in shown), 12 * margin, 2e-3))
    row_height, top = 38, 14
    height = top + row_height * len(shown) + 46
    plane = Plane(width, height, (-reach, reach), (0, 1), left=190, right=250, top=top, bottom=46)
    bottom = height - plane.bottom
    parts = [
        f'<rect x="{plane.x(-margin):.1f}" y="{top}" width="{plane.x(margin) - plane.x(-margin):.1f}" height="{bottom - top}" fill="var(--grid)"/>'
    ]
    for value in ticks(-reach, reach, 7):
        parts += [
            line(plane.x(value), bottom, plane.x(value), bottom + 4, "var(--faint)"),
            text(plane.x(value), bottom + 17, words(value), "middle"),
        ]
    parts += [
        line(plane.left, bottom, width - plane.right, bottom, "var(--faint)"),
        line(plane.x(0), top, plane.x(0), bottom, "var(--soft)"),
        text(plane.x(0), height - 6, name_x, "middle", ' class="name"'),
    ]
    for index, row in enumerate(shown):
        y = top + row_height * (index + 0.5)
        low, high = (
            max(-reach, -math.inf if row["low"] is None else row["low"]),
            min(reach, math.inf if row["high"] is None else row["high"]),
        )
        mean = min(reach, max(-reach, row["mean"]))
        shape = line(plane.x(low), y, plane.x(high), y, row["color"], ' stroke-width="2.4" stroke-linecap="round"')
        for end, value, sign in ((low, row["low"], -1), (high, row["high"], 1)):
            cut = value is None or abs(value) > reach
            shape += (
                f'<path d="M{plane.x(end) + 6 * sign:.1f},{y:.1f}l{-8 * sign},-5v10z" fill="{row["color"]}"/>'
                if cut
                else line(plane.x(end), y - 5, plane.x(end), y + 5, row["color"], ' stroke-width="2"')
            )
        shape += f'<rect x="{plane.x(mean) - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" rx="2" fill="{row["color"]}"/>'
        parts += [
            text(plane.left - 14, y + 4, row["name"], "end", ' class="strong"'),
            hinted(shape, row["note"]),
            text(width - plane.right + 18, y - 3, row["verdict"], "start", ' class="strong"'),
            text(width - plane.right + 18, y + 12, row["note"]),
        ]
    return svg(width, height, "effects with intervals", parts)


def censored(rows: Sequence[Mapping[str, Any]], *, name_x: str, words: Words, width: float = 548) -> str:
    """Cost to target of every run: a dot where it got there, an open arrow where it ended above; a bar at the median. rows: name, color,
    costs [(cost, reached)], median."""
    shown = [row for row in rows if row["costs"]]
    values = [cost for row in shown for cost, _ in row["costs"]]
    if not values or max(values) <= 0:
        return EMPTY
    row_height, top = 30, 8
    height = top + row_height * len(shown) + 44
    plane = Plane(width, height, (0.0, max(values) * 1.04), (0, 1), left=130, top=top, bottom=44)
    bottom = height - plane.bottom
    parts = []
    for value in ticks(0.0, plane.xs[1], 5):
        parts += [
            line(plane.x(value), top, plane.x(value), bottom, "var(--grid)"),
            text(plane.x(value), bottom + 17, words(value), "middle"),
        ]
    parts += [
        line(plane.left, bottom, width - plane.right, bottom, "var(--faint)"),
        text((plane.left + width - plane.right) / 2, height - 6, name_x, "middle", ' class="name"'),
    ]
    for index, row in enumerate(shown):
        y = top + row_height * (index + 0.5)
        parts.append(text(plane.left - 10, y + 4, row["name"], "end", ' class="strong"'))
        if row["median"] is not None:
            parts.append(line(plane.x(row["median"]), y - 10, plane.x(row["median"]), y + 10, row["color"], ' stroke-width="3"'))
        for cost, reached in row["costs"]:
            x = plane.x(cost)
            shape = (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{row["color"]}" fill-opacity=".65"/>'
                if reached
                else f'<path d="M{x - 4:.1f},{y - 5:.1f}l9,5l-9,5z" fill="none" stroke="{row["color"]}" stroke-width="1.6"/>'
            )
            parts.append(hinted(shape, f"{row['name']}: {'' if reached else 'not reached after '}{words(cost)}"))
    return svg(width, height, f"{name_x} to target", parts)


def stacked(
    rows: Sequence[tuple[str, Mapping[str, float]]], *, words: Words, title: str, width: float = 1112
) -> tuple[str, dict[str, str]]:
    """A bar for each arm, its parts in the same colors throughout; the colors by part for the legend."""
    shown = [(name, {part: value for part, value in parts.items() if value > 0}) for name, parts in rows]
    shown = [(name, parts) for name, parts in shown if parts]
    if not shown:
        return EMPTY, {}
    totals: dict[str, float] = {}
    for _, parts in shown:
        for part, value in parts.items():
            totals[part] = totals.get(part, 0.0) + value
    order = sorted(totals, key=lambda part: (part in ("other", "rest"), -totals[part]))
    colors = {part: f"var(--c{7 if part in ('other', 'rest') else index % 7})" for index, part in enumerate(order)}
    widest = max(sum(parts.values()) for _, parts in shown)
    row_height, left, right = 30, 130, 90
    height, scale, drawn = row_height * len(shown) + 4, (width - left - right) / widest, []
    for index, (name, parts) in enumerate(shown):
        y, x = 2 + row_height * index, float(left)
        drawn.append(text(left - 10, y + 17, name, "end", ' class="strong"'))
        for part in order:
            if part in parts:
                size = parts[part] * scale
                drawn.append(
                    hinted(
                        f'<rect x="{x:.1f}" y="{y + 2}" width="{max(0.4, size - 1):.1f}" height="20" rx="2" fill="{colors[part]}"/>',
                        f"{name}, {part.replace('_', ' ')}: {words(parts[part])}",
                    )
                )
                x += size
        drawn.append(text(x + 8, y + 17, words(sum(parts.values()))))
    return svg(width, height, title, drawn), colors


def scatter(
    points: Sequence[Mapping[str, Any]],
    *,
    name_x: str,
    name_y: str,
    words_x: Words,
    words_y: Words,
    width: float = 548,
    height: float = 270,
) -> str:
    """Metric against a cost, one point an arm, those on the front joined. points: name, color, x, y, front."""
    shown = [point for point in points if known([point["x"], point["y"]]) and len(known([point["x"], point["y"]])) == 2]
    if not shown:
        return EMPTY
    xs, ys = [point["x"] for point in shown], [point["y"] for point in shown]
    room_x, room_y = max((max(xs) - min(xs)) * 0.22, max(xs) * 0.02) or 1.0, max((max(ys) - min(ys)) * 0.2, abs(max(ys)) * 0.002) or 1.0
    plane = Plane(width, height, (max(0.0, min(xs) - room_x), max(xs) + room_x), (min(ys) - room_y, max(ys) + room_y), left=70)
    parts = plane.axes(name_x, words_x, words_y, name_y)
    front = sorted((point for point in shown if point["front"]), key=lambda point: point["x"])
    corners = [place for one, two in pairwise(front) for place in ((two["x"], one["y"]), (two["x"], two["y"]))]
    if corners:
        places = [(front[0]["x"], front[0]["y"]), *corners]
        parts.append(
            f'<path d="M{"L".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in places)}" fill="none" stroke="var(--soft)" stroke-dasharray="3 4"/>'
        )
    taken: list[tuple[float, float]] = []
    for point in sorted(shown, key=lambda point: point["y"]):
        x, y = plane.x(point["x"]), plane.y(point["y"])
        label = y + 4
        while any(abs(label - other) < 14 and abs(x - place) < 110 for place, other in taken):
            label -= 14
        taken.append((x, label))
        end = x > width - 120
        fill = point["color"] if point["front"] else "var(--card)"
        parts += [
            hinted(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{fill}" stroke="{point["color"]}" stroke-width="2"/>',
                f"{point['name']}: {words_y(point['y'])} at {words_x(point['x'])}",
            ),
            text(x - 11 if end else x + 11, label, point["name"], "end" if end else "start", ' class="strong"'),
        ]
    return svg(width, height, f"{name_y} against {name_x}", parts)


def tuning(series: Sequence[Mapping[str, Any]], *, name_y: str, words_y: Words, width: float = 1112, height: float = 250) -> str:
    """Metric against the multiplier tried, the chosen one marked. series: name, color, points [(multiplier, metric)], chosen."""
    shown = [one | {"points": [(factor, value) for factor, value in one["points"] if value is not None]} for one in series]
    shown = [one for one in shown if len(one["points"]) > 1]
    if not shown:
        return EMPTY
    factors = [factor for one in shown for factor, _ in one["points"]]
    values = sorted(value for one in shown for _, value in one["points"])
    high = values[-1] if values[-1] < 1.5 * values[len(values) // 2] else 1.5 * values[len(values) // 2]
    pad = 0.08 * ((high - values[0]) or 1.0)
    plane = Plane(width, height, (min(factors) / 1.15, max(factors) * 1.15), (values[0] - pad, high + pad), left=70, logarithmic=True)
    parts = plane.axes("multiplier on the recipe's learning rates", lambda value: f"×{value:g}", words_y, name_y)
    for one in shown:
        points = [(factor, min(value, plane.ys[1])) for factor, value in sorted(one["points"])]
        parts.append(hinted(_path([x for x, _ in points], [y for _, y in points], plane, one["color"], 1.6, 1.0), one["name"]))
        for factor, value in points:
            chosen = factor == one["chosen"]
            parts.append(
                hinted(
                    f'<circle cx="{plane.x(factor):.1f}" cy="{plane.y(value):.1f}" r="{5.5 if chosen else 3}" fill="{one["color"]}"/>',
                    f"{one['name']} ×{factor:g}: {words_y(value)}{', chosen' if chosen else ''}",
                )
            )
    return svg(width, height, "tuning", parts)
