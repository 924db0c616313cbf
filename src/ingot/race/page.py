"""``race.html``: the whole race on one page that needs no network, no script and no other file, and can be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.amounts import count, duration, size
from ..core.atomic import write_text
from ..report.document import document, kept
from ..report.text import safe
from . import plots
from .spec import BASELINE, CONTROL
from .words import budget_words, confidence, counted, metric_words, percent, span

COST_WORDS = {
    "tokens": ("tokens", count),
    "flops": ("FLOPs", lambda value: count(value, "FLOP")),
    "reference_seconds": ("reference time", duration),
    "seconds": ("wall-clock", duration),
    "peak_memory": ("peak memory", size),
}
STATE = ("weights", "gradients", "optimizer_state")
STYLE = """
.lead { margin: 22px 0 0; padding: 16px 20px; border-left: 4px solid var(--accent); background: var(--card); border-radius: 0 12px 12px 0; font-size: 17px; line-height: 1.5; }
.plot { overflow-x: auto; } .plot svg { display: block; max-width: 100%; height: auto; min-width: 440px; } .plot svg.wide { min-width: 720px; }
.plot text { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; } .plot text.strong { fill: var(--ink); font-size: 12.5px; font-weight: 600; } .plot text.name { font-size: 12px; }
.word { font-weight: 600; white-space: nowrap; } .word.better { color: var(--good); } .word.worse, .word.failed, .word.off { color: var(--bad); } .badge.word.none { color: var(--soft); }
td + td { white-space: nowrap; } tr.control td { color: var(--soft); } .notes li { margin: 4px 0; } table { min-width: 560px; }
.card p { margin: 0 0 10px; } .card .facts, .card .note { margin: 6px 0 0; } .card summary { margin-top: 8px; font-size: 13px; cursor: pointer; } .card pre { margin: 6px 0 0; white-space: pre-wrap; }
@media print {
  .plot { overflow: visible; } .plot svg, .plot svg.wide { min-width: 0; } .plot text { font-size: 13px; } .plot svg.wide text, .plot svg.wide text.strong { font-size: 14.5px; }
  .grid.two { grid-template-columns: 1fr 1fr; } .lead { font-size: 14px; } .scroll { overflow: visible; } td, th { padding: 4px 7px; font-size: 10.5px; } table { min-width: 0; } details > pre { display: block; }
}
"""


def page(title: str, body: str, data: Any = None) -> str:
    """A whole page in the style of the reports; data is kept in it for programs."""
    return document(title, body, data="" if data is None else kept("race", data), style=STYLE)


def write_page(verdict: dict[str, Any], path: Path) -> Path:
    """Write the page of a verdict, replacing an older one at once."""
    write_text(path, render(verdict))
    return path


def render(verdict: dict[str, Any]) -> str:
    """The page's HTML from a verdict."""
    colors = arm_colors(verdict["arms"])
    parts = [
        _header(verdict),
        _tiles(verdict),
        _verdicts(verdict, colors),
        _curves(verdict, colors),
        _target(verdict, colors),
        _where(verdict),
        _front(verdict, colors),
        _spending(verdict),
        _tuning(verdict, colors),
        _notes(verdict),
        _method(verdict),
        _provenance(verdict),
    ]
    return page(
        f"{verdict['race']}: race",
        "\n".join(filter(None, parts)),
        {key: value for key, value in verdict.items() if key != "arms"}
        | {
            "arms": {
                name: {key: value for key, value in arm.items() if key not in ("curves", "curve")} for name, arm in verdict["arms"].items()
            }
        },
    )


def arm_colors(arms: Mapping[str, Any]) -> dict[str, str]:
    """The baseline in ink, the control in gray, contenders in colors."""
    contenders = [name for name in arms if name not in (BASELINE, CONTROL)]
    return {BASELINE: "var(--ink)", CONTROL: "var(--c7)"} | {name: f"var(--c{index % 7})" for index, name in enumerate(contenders)}


def section(title: str, body: str, note: str = "") -> str:
    return f"<section><h2>{title}</h2>{f'<p class=note>{note}</p>' if note else ''}{body}</section>"


def figure(identity: str, title: str, drawing: str, legend: str = "", caption: str = "") -> str:
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure data-plot="{identity}"><h3>{title}</h3>{legend}<div class="plot">{drawing}</div>{caption}</figure>'


def legend(colors: Mapping[str, str], names: Sequence[str]) -> str:
    return '<div class="legend">' + "".join(f'<span style="--k:{colors[name]}">{safe(name)}</span>' for name in names) + "</div>"


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """rows: (class, cells)."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for kind, cells in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:.5g}"


def word(verdict: str | None) -> str:
    return f'<span class="word {safe((verdict or "").split(" ")[0])}">{safe(verdict or "–")}</span>'


def _header(verdict: dict[str, Any]) -> str:
    facts = [
        verdict.get("time", "")[:16].replace("T", " "),
        f"commit <code>{safe(verdict['commit'])}</code>" if verdict.get("commit") else "",
        f"race <code>{safe(verdict.get('identity', ''))[:12]}</code>",
        "tiny twins: shows only that the race runs" if verdict["tiny"] else "",
    ]
    question = f"<p>{safe(verdict['question'])}</p>" if verdict["question"] else ""
    return (
        f'<header><p class="brand">Ingot · race report</p><h1>{safe(verdict["race"])}</h1><p class="facts">{" · ".join(filter(None, facts))}</p>'
        f'{question}<p class="lead">{safe(verdict["sentence"])}</p></header>'
    )


def _tiles(verdict: dict[str, Any]) -> str:
    arms, advice = verdict["arms"], verdict["recommend"]
    tuned = verdict["tuning"]["trials"]
    tiles = [
        ("budget", budget_words(verdict["budget"]), "for every arm, tuning apart"),
        ("seeds", str(verdict["seeds"]), "chosen after a pilot" if verdict["chosen"] else "paired: same data order and start"),
        ("baseline", digits(arms[BASELINE]["mean"]), f"{metric_words(verdict['metric'])}, mean over seeds"),
        (
            "tuning",
            f"{tuned} trials" if tuned > 1 else "none",
            "of learning rates, per arm" if tuned > 1 else "learning rates as in the recipes",
        ),
        ("resolves", percent(advice["resolves"]) if advice["resolves"] else "–", "found 4 times in 5 with these seeds"),
        (
            "seeds wanted",
            str(advice["seeds"] or "over 12") if advice["sd"] is not None else "–",
            f"to resolve {percent(advice['resolution'])}",
        ),
    ]
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}</dd><small>{note}</small></div>" for name, value, note in tiles)
        + "</dl>"
    )


def _judged(verdict: dict[str, Any]) -> list[str]:
    return [name for name in verdict["arms"] if name not in (BASELINE, CONTROL)] + [CONTROL] * (CONTROL in verdict["arms"])


def _verdicts(verdict: dict[str, Any], colors: Mapping[str, str]) -> str:
    rows, effects = [], []
    for name in _judged(verdict):
        arm = verdict["arms"][name]
        effect = arm.get("effect") or {}
        if effect:
            effects.append(
                {
                    "name": name,
                    "color": colors[name],
                    "verdict": arm.get("verdict", ""),
                    "note": f"{percent(effect['mean'], True)} ({span(effect)})",
                }
                | {key: effect[key] for key in ("mean", "low", "high")}
            )
        numbers = (
            [
                percent(effect["mean"], True),
                span(effect),
                f"{effect['adjusted']:.3g}",
                "–" if effect["sign_flip"] is None else f"{effect['sign_flip']:.3g}",
                str(effect["n"]),
            ]
            if effect
            else ["–"] * 5
        )
        rows.append(
            (
                "control" if name == CONTROL else "",
                [
                    f"<b>{safe(name)}</b> {safe(arm['about'])}" if name != CONTROL else "<b>control</b> the baseline with other seeds",
                    word(arm.get("verdict")),
                    digits(arm["mean"]),
                    *numbers,
                ],
            )
        )
    name = metric_words(verdict["metric"])
    drawing = plots.forest(
        effects,
        margin=verdict["margin"],
        words=lambda value: f"{100 * value:+.4g} %".replace("-", "−") if abs(value) > 1e-12 else "0",
        name_x=f"change of {name} against the baseline; left is better; the band is ∓{percent(verdict['margin'])}",
    )
    head = ["arm", "verdict", name, "effect", f"{confidence(verdict)} interval", "adjusted p", "sign-flip p", "pairs"]
    return section(
        "Verdicts",
        figure("forest", f"Effects on {name}", drawing)
        + "<br>"
        + table(
            head,
            [
                ("", ["<b>baseline</b>", "", digits(verdict["arms"][BASELINE]["mean"]), *[""] * 4, str(verdict["arms"][BASELINE]["runs"])]),
                *rows,
            ],
        ),
    )


def _timed(verdict: dict[str, Any], cost: str) -> list[str]:
    """The arms that a cost compares: all but the control; in wall-clock, only those whose trials ran beside the baseline's."""
    return [name for name, arm in verdict["arms"].items() if name != CONTROL and (cost != "seconds" or arm["side_by_side"])]


def _untimed(verdict: dict[str, Any]) -> str:
    """A sentence on the arms that wall-clock does not compare; empty where it compares all."""
    left_out = [name for name, arm in verdict["arms"].items() if name not in (BASELINE, CONTROL) and not arm["side_by_side"]]
    return (
        f"<br>Wall-clock is not compared for {safe(', '.join(left_out))}: the trials did not run beside the baseline’s, under the same load. "
        "Reference time is."
        if left_out
        else ""
    )


def _curves(verdict: dict[str, Any], colors: Mapping[str, str]) -> str:
    figures = []
    for cost in ("tokens", "flops", "reference_seconds", "seconds"):
        label, words = COST_WORDS[cost]
        arms = _timed(verdict, cost)
        if not arms:
            continue
        series = [
            {
                "name": name,
                "color": colors[name],
                "x": arm["curve"].get(cost, []),
                "y": arm["curve"].get("value", []),
                "runs": [(run[cost], run["value"]) for run in arm["curves"]],
            }
            for name, arm in verdict["arms"].items()
            if name in arms and arm["curve"]
        ]
        drawing = plots.curves(
            series,
            name_x=label,
            name_y=metric_words(verdict["metric"]),
            words_x=words,
            words_y=lambda value: f"{value:.3g}",
            target=verdict["target"],
        )
        figures.append(figure(f"curve_{cost}", f"Against {label}", drawing, legend(colors, arms)))
    return section(
        "Curves",
        f'<div class="grid two">{"".join(figures)}</div>',
        "mean over seeds; single runs faint. Every schedule ends with the budget, so only the ends compare methods; the way there shows how."
        + _untimed(verdict),
    )


def _target(verdict: dict[str, Any], colors: Mapping[str, str]) -> str:
    figures, rows = [], []
    for cost in ("tokens", "flops", "reference_seconds", "seconds"):
        label, words = COST_WORDS[cost]
        names = _timed(verdict, cost)
        if not names:
            continue
        found = {name: verdict["arms"][name]["to_target"][cost] for name in names}
        figures.append(
            figure(
                f"target_{cost}",
                label.capitalize() if label != "FLOPs" else label,
                plots.censored(
                    [{"name": name, "color": colors[name], "costs": one["costs"], "median": one["median"]} for name, one in found.items()],
                    name_x=label,
                    words=words,
                ),
            )
        )
        for name, one in found.items():
            if name == BASELINE or not one["runs"]:
                continue
            ratio = (
                f"{one['ratio']:.3g} ({one['low']:.3g} to {one['high']:.3g})"
                if one["ratio"]
                else f"above {one['bound']:.3g}"
                if one["bound"]
                else "–"
            )
            rows.append(
                (
                    "",
                    [
                        safe(name),
                        label,
                        words(one["median"]) if one["median"] is not None else "not reached",
                        f"{one['reached']} of {one['runs']}",
                        ratio,
                    ],
                )
            )
    body = f'<div class="grid two">{"".join(figures)}</div><br>' + table(
        ["arm", "cost", "median", "runs that got there", "ratio to the baseline"], rows
    )
    return section(
        "Cost to target",
        body,
        f"to {digits(verdict['target'])} {metric_words(verdict['metric'])}, which {_reaching(verdict)}. Arrows are runs that ended above it: "
        "they cost more than they spent." + _untimed(verdict),
    )


def _reaching(verdict: dict[str, Any]) -> str:
    """How many of the baseline's runs get to the target, which a race file may state."""
    found = verdict["arms"][BASELINE]["to_target"]["tokens"]
    if found["reached"] == found["runs"]:
        return "every baseline run reaches"
    return f"{found['reached']} of {found['runs']} baseline runs reach" if found["reached"] else "no baseline run reaches"


def _where(verdict: dict[str, Any]) -> str:
    parts = []
    arms = {name: arm for name, arm in verdict["arms"].items() if name != CONTROL}
    kinds: list[tuple[str, str, Any, dict[str, dict[str, float]]]] = [
        ("time", "Time", duration, {name: arm["time"] for name, arm in arms.items()}),
        ("memory", "Memory", size, {name: arm["memory"] for name, arm in arms.items()}),
        (
            "state",
            "Memory of the training state alone",
            size,
            {name: {kind: value for kind, value in arm["memory"].items() if kind in STATE} for name, arm in arms.items()},
        ),
        ("flops", "FLOPs", lambda value: count(value, "FLOP"), {name: arm["flops"] for name, arm in arms.items()}),
    ]
    for key, title, words, rows in kinds:
        drawing, colors = plots.stacked(
            [(name, {part.replace("_", " "): value for part, value in one.items()}) for name, one in rows.items()], words=words, title=title
        )
        parts.append(figure(f"where_{key}", title, drawing, legend(colors, list(colors)) if colors else ""))
    return section(
        "Where it went",
        f'<div class="grid bars">{"".join(parts)}</div>',
        "mean over seeds; memory is the largest seen of each kind, the rest activations, batches and the program itself"
        + _untimed(verdict),
    )


def _front(verdict: dict[str, Any], colors: Mapping[str, str]) -> str:
    parts = []
    for cost in ("peak_memory", "reference_seconds", "seconds", "flops"):
        label, words = COST_WORDS[cost]
        points = [
            {"name": name, "color": colors[name], "x": arm["costs"].get(cost), "y": arm["mean"], "front": name in verdict["pareto"][cost]}
            for name, arm in verdict["arms"].items()
            if name in _timed(verdict, cost)
        ]
        if not points:
            continue
        parts.append(
            figure(
                f"front_{cost}",
                f"Against {label}",
                plots.scatter(
                    points, name_x=label, name_y=metric_words(verdict["metric"]), words_x=words, words_y=lambda value: f"{value:.4g}"
                ),
            )
        )
    return section(
        "Pareto front",
        f'<div class="grid two">{"".join(parts)}</div>',
        "filled: no other arm is at least as good in both" + _untimed(verdict),
    )


def _spending(verdict: dict[str, Any]) -> str:
    rows = []
    for name, arm in verdict["arms"].items():
        spent = arm["spent"]
        share = spent.get(verdict["unit"])
        tuning = arm["tuning"]
        apart = f"{tuning['trials']} trials: {count(tuning['flops'], 'FLOP')}, {duration(tuning['seconds'])}" if tuning["trials"] else "–"
        rows.append(
            (
                "control" if name == CONTROL else "",
                [
                    f"<b>{safe(name)}</b>{' (the program’s word)' if arm['declared'] else ''}",
                    "–" if share is None else f"{100 * share / verdict['budget_value']:.2f} %",
                    count(spent["tokens"]),
                    count(spent["flops"], "FLOP") if spent["flops"] else "–",
                    duration(spent["reference_seconds"]) if spent["reference_seconds"] else "–",
                    duration(spent["seconds"]),
                    duration(spent.get("cpu_seconds")),
                    size(arm["peak_memory"] or None),
                    apart,
                ],
            )
        )
    return section(
        "Spent",
        table(
            ["arm", "of the budget", "tokens", "FLOPs", "reference time", "wall-clock", "processor time", "peak memory", "tuning, apart"],
            rows,
        ),
        "a run, mean over seeds; processor time is of all threads, evaluation included, and does not depend on what else runs"
        + _untimed(verdict),
    )


def _tuning(verdict: dict[str, Any], colors: Mapping[str, str]) -> str:
    arms = {name: arm for name, arm in verdict["arms"].items() if name != CONTROL and arm["tuned"]}
    if not arms:
        return ""
    drawing = plots.tuning(
        [{"name": name, "color": colors[name], "points": arm["tuned"], "chosen": arm["factor"]} for name, arm in arms.items()],
        name_y=metric_words(verdict["metric"]),
        words_y=lambda value: f"{value:.3g}",
    )
    chosen = ", ".join(f"{safe(name)} ×{arm['factor']:g}" for name, arm in arms.items())
    return section(
        "Tuning",
        figure(
            "tuning",
            "Multipliers tried",
            drawing,
            legend(colors, list(arms)),
            f"chosen: {chosen}; on a seed that is not raced, {100 * verdict['tuning']['budget']:.3g} % of the budget a trial",
        ),
    )


def _notes(verdict: dict[str, Any]) -> str:
    if not verdict["notes"]:
        return ""
    return section("What to know", '<ul class="notes">' + "".join(f"<li>{safe(note)}</li>" for note in verdict["notes"]) + "</ul>")


def _method(verdict: dict[str, Any]) -> str:
    arms = len(_judged(verdict)) - (CONTROL in verdict["arms"])
    text = (
        f"Effects are means of differences of log {metric_words(verdict['metric'])} between runs with the same seed. Intervals are Student's, "
        f"for {arms} contender{'s' * (arms != 1)} together (Bonferroni), verdicts by p-values adjusted by Holm at {100 * verdict['level']:.3g} %. "
        "<b>better</b>, <b>worse</b>: lower, higher. <b>no difference</b>: two one-sided tests put the effect within "
        f"{percent(verdict['margin'])}. <b>not resolved</b>: neither. The control is the baseline with other seeds against itself; it should not differ."
        + _looked(verdict)
        + (" Losing arms stop early; a tenth of the error is kept for that." if verdict["early_stopping"] else "")
        + (" The number of seeds was chosen after a pilot, whose noise is the one used." if verdict["chosen"] else "")
    )
    return section("How it was judged", f"<p>{text}</p>")


def _looked(verdict: dict[str, Any]) -> str:
    """How many looks there were and are to be."""
    before, planned = verdict["looks"]["before"], verdict["looks"]["planned"]
    text = f" The race file plans {planned} looks, which share the 5 %." if planned > 1 else ""
    if before:
        text += (
            f" It was looked at before, at {counted(before)} seeds: so that looking again does not bring false verdicts, this look judges at "
            f"{100 * verdict['level']:.3g} %, which adds at most {100 * verdict['looks']['error']:.2g} % to those of the looks before."
        )
    return text


def _provenance(verdict: dict[str, Any]) -> str:
    machine, rates = verdict.get("machine") or {}, verdict.get("machine_rates") or {}
    pairs = {
        "processor": machine.get("cpu"),
        "cores": machine.get("cores"),
        "threads a trial": machine.get("threads"),
        "trials at once": verdict.get("jobs"),
        "memory": size(machine.get("memory")),
        "device": machine.get("device"),
        "torch": machine.get("torch"),
        "matrix products": count(rates.get("flops_per_second"), "FLOP/s"),
        "copies": count(rates.get("bytes_per_second"), "B/s"),
        "reference system": "100 GFLOP/s, 10 GB/s",
        "version": verdict.get("version"),
        "commit": verdict.get("commit"),
        "race": verdict.get("identity"),
    }
    cells = "".join(f"<dt>{name}</dt><dd>{safe(value)}</dd>" for name, value in pairs.items() if value not in (None, "–"))
    return section("Where it came from", f'<div class="grid boxes"><div><dl class="pairs">{cells}</dl></div></div>')
