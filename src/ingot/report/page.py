"""``write_report(run_folder)``: everything a run did, as one HTML file that needs no network, no server and no other file.

The figures are data inside the page; ``page.js`` draws them as SVG, so they follow the width, the color scheme and the printer.
A ledger that is missing, empty or cut off by a kill gives a page that says so.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..core.amounts import count, duration, size
from ..core.atomic import write_text
from ..core.errors import UserError
from ..core.folders import checkpoints
from ..ledger.ledger import plain, read
from .document import document, kept
from .figures import figures, number
from .text import moment, recipe_lines, safe

FILE = "report.html"
SAMPLES = 8
EVENTS = 200


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder, replacing an older one at once, and return its path.

    Raises UserError when there is no such folder, RunError when the file cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run folder at {folder}")
    write_text(folder / FILE, render(folder))
    return folder / FILE


def render(folder: Path) -> str:
    """The page's HTML."""
    recipe = _text(folder / "recipe.yaml")
    data = figures(read(folder), _objectives(recipe))
    run = _json(folder / "run.json")
    name = str(run.get("name") or folder.resolve().name)
    sections = [
        _header(name, data, run),
        _tiles(data),
        _charts(data),
        _evaluation_table(data),
        _events(data),
        _samples(data),
        _recipe(recipe),
        _provenance(folder, data, run),
    ]
    drawn = plain({key: data[key] for key in ("curves", "stages", "evaluations", "events", "time", "flops", "memory")})
    script = (files(__package__) / "page.js").read_text(encoding="utf-8")
    return document(name, "\n".join(filter(None, sections)), data=kept("figures", drawn, allow_nan=False), script=script)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _objectives(recipe: str) -> list[Any]:
    """The objective in force in each stage; nothing where the recipe cannot be read."""
    try:
        tree = yaml.safe_load(recipe)
        found = [tree["model"]["objective"]]
        for stage in tree["stages"]:
            found.append(stage.get("objective") or found[-1])
    except (yaml.YAMLError, LookupError, TypeError, AttributeError):
        return []
    return found[1:]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _section(title: str, body: str, *, note: str = "", kind: str = "") -> str:
    note = f'<p class="note">{note}</p>' if note else ""
    return f'<section class="{kind}"><h2>{title}</h2>{note}{body}</section>'


def _header(name: str, data: dict[str, Any], run: dict[str, Any]) -> str:
    start, end, last = data["start"], data["end"], data["last"]
    reason = str(end.get("reason", "")) if end else ""
    good = reason in ("budget", "finished", "done", "complete", "spent")
    words = ("finished" if good else reason or "ended") if end else "no end recorded" if last else "not started"
    badge = f'<span class="badge {"good" if good else "open"}">{safe(words)}</span>'
    parts = [
        f"{count(number(start.get('parameters')))} parameters" if start.get("parameters") else "",
        moment(start.get("time")),
        f"commit <code>{safe(str(start['commit'])[:12])}</code>" if start.get("commit") else "",
        f"recipe <code>{safe(str(start['recipe_hash'])[:12])}</code>" if start.get("recipe_hash") else "",
        f"resumed {data['starts'] - 1}×" if data["starts"] > 1 else "",
    ]
    return f'<header><p class="brand">Ingot · run report</p><h1>{safe(name)} {badge}</h1><p class="facts">{" · ".join(filter(None, parts))}</p></header>'


def _tiles(data: dict[str, Any]) -> str:
    spent = data["spent"]
    losses = [value for value in data["curves"]["smooth_loss"] if value is not None]
    best = [entry for entry in data["best"].values() if entry["best"] is not None]
    bits = [entry["best"] for entry in best if "bits_per_byte" in entry["last"]]
    least = bits or [entry["best"] for entry in best]
    speeds = sorted(value for value in data["curves"]["tokens_per_second"] if value is not None)
    tiles = [
        ("training loss", f"{losses[-1]:.4g}" if losses else "–", "smoothed, at the end"),
        ("validation", f"{min(least):.4g}" if least else "–", f"{'bits per byte' if bits else 'loss'}, best" if least else "not evaluated"),
        ("tokens", count(number(spent.get("tokens"))), f"{count(number(spent.get('step')))} steps"),
        ("compute", count(number(spent.get("flops")), "FLOP"), _utilization(data) or "measured"),
        ("time", duration(number(spent.get("seconds"))), f"{count(speeds[len(speeds) // 2])} tokens/s" if speeds else ""),
        (
            "peak memory",
            size(sum(data["memory"].values()) or None),
            "of the device" if (data["last"].get("memory") or {}).get("device_peak") else "of the process",
        ),
    ]
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd><small>{note}</small></div>" for label, value, note in tiles)
    empty = "" if data["last"] else '<p class="empty">The ledger holds no step yet: nothing to draw.</p>'
    return f'<dl class="tiles">{cells}</dl>{empty}'


def _utilization(data: dict[str, Any]) -> str:
    """The middle one of the run, unless the rate that it is a share of was measured on a busy machine: a share above 1 shows that too."""
    uses = sorted(value for value in data["curves"]["utilization"] if value is not None)
    if not uses:
        return ""
    if uses[len(uses) // 2] > 1 or (data["start"].get("machine") or {}).get("matmul_doubt"):
        return "utilization in doubt: the machine was busy when its rate was measured"
    return f"{uses[len(uses) // 2]:.0%} utilization"


def _figure(identity: str, title: str, height: int = 190, note: str = "") -> str:
    note = f"<figcaption>{note}</figcaption>" if note else ""
    return f'<figure><h3>{title}</h3><div class="chart" data-chart="{identity}" style="--h:{height}px"></div>{note}</figure>'


def _charts(data: dict[str, Any]) -> str:
    known = {name: any(value is not None for value in column) for name, column in data["curves"].items()}
    axes = "".join(
        f'<button type="button" data-axis="{axis}">{label}</button>'
        for axis, label in (("tokens", "tokens"), ("flops", "FLOPs"), ("seconds", "time"), ("step", "steps"))
        if known[axis]
    )
    bars = [
        _figure("time", "Where the time went", 0) if data["time"] else "",
        _figure("flops", "Where the FLOPs went", 0, "measured; a multiply-add is 2, recomputation left out") if data["flops"] else "",
        _figure("memory", "Where the memory went", 0, "largest seen of each kind; the rest is activations, batches and the program itself")
        if data["memory"]
        else "",
    ]
    use = _utilization(data)
    small = [
        _figure("lr", "Learning rate") if known["lr"] else "",
        _figure("grad_norm", "Gradient norm") if known["grad_norm"] else "",
        _figure("tokens_per_second", "Throughput") if known["tokens_per_second"] else "",
        _figure("utilization", "Utilization", note=use if "doubt" in use else "") if use else "",
    ]
    parts = []
    if known["loss"] or data["evaluations"]:
        switch = f'<div class="switch" role="group" aria-label="horizontal axis">{axes}</div>'
        large = (_figure("loss", "Training loss", 320) if known["loss"] else "") + (
            _figure("evaluations", "Validation", 260) if data["evaluations"] else ""
        )
        parts.append(f'<section class="wide"><div class="head"><h2>Learning</h2>{switch}</div>{large}</section>')
    if any(small):
        parts.append(f'<section><h2>The way there</h2><div class="grid two">{"".join(small)}</div></section>')
    if any(bars):
        parts.append(f'<section><h2>What it cost</h2><div class="grid bars">{"".join(bars)}</div></section>')
    return "\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _evaluation_table(data: dict[str, Any]) -> str:
    if not data["best"]:
        return ""
    metrics = sorted({name for entry in data["best"].values() for name in entry["last"]})
    order = [name for name in ("bits_per_byte", "loss", "perplexity") if name in metrics]
    order += [name for name in metrics if name not in order]
    rows = [
        [safe(source), *(_metric(entry["last"].get(name)) for name in order), _metric(entry["best"]), _metric(entry["best_step"])]
        for source, entry in data["best"].items()
    ]
    return _section(
        "Validation, last results", _table(["source", *(safe(name.replace("_", " ")) for name in order), "best", "at step"], rows)
    )


def _metric(value: Any) -> str:
    known = number(value)
    if known is None:
        return "–" if value is None else safe(value)
    return f"{known:,.0f}" if known.is_integer() and abs(known) >= 1000 else f"{known:.4g}"


def _events(data: dict[str, Any]) -> str:
    found = [event for event in data["events"] if event["name"] != "checkpoint"]
    checkpoints = len(data["events"]) - len(found)
    if not found:
        return ""
    shown = found if len(found) <= EVENTS else found[: EVENTS // 2] + found[-EVENTS // 2 :]
    notes = [
        f"{len(found):,} events; the first and last {EVENTS // 2} are listed" if shown is not found else "",
        f"{checkpoints:,} checkpoint{'s' * (checkpoints != 1)} written" if checkpoints else "",
    ]
    rows = [
        [
            f"{event['step']:.0f}",
            f'<span class="event {safe(event["name"])}">{safe(event["name"].replace("_", " "))}</span>',
            safe(event["message"]) + (" <em>(this step was run again after a resume)</em>" if event.get("replayed") else ""),
        ]
        for event in shown
    ]
    return _section("Events", _table(["step", "what", "message"], rows), note="; ".join(filter(None, notes)))


def _samples(data: dict[str, Any]) -> str:
    found = data["samples"]
    if not found:
        return ""
    chosen = (
        [found[round(index * (len(found) - 1) / max(1, SAMPLES - 1))] for index in range(min(SAMPLES, len(found)))]
        if len(found) > SAMPLES
        else found
    )
    cells = "".join(
        f"<blockquote><small>step {safe(line.get('step', '–'))}</small><p><b>{safe(line.get('prompt', ''))}</b>{safe(line.get('text', ''))}</p></blockquote>"
        for line in chosen
    )
    return _section("Samples", f'<div class="samples">{cells}</div>', note="the prompt in bold, what the model wrote after it")


def _recipe(text: str) -> str:
    if not text:
        return ""
    return _section("Recipe", f'<pre class="recipe"><code>{recipe_lines(text)}</code></pre>', note="as resolved, defaults included")


def _provenance(folder: Path, data: dict[str, Any], run: dict[str, Any]) -> str:
    start = data["start"]
    machine = dict(start.get("machine") or {})
    if number(machine.get("matmul_flops_per_second")):
        machine["matmul rate"] = count(number(machine.pop("matmul_flops_per_second")), "FLOP/s")
    for key in ("memory", "device_memory"):
        if number(machine.get(key)):
            machine[key] = size(number(machine[key]))
    kept = [path.name for path in checkpoints(folder / "checkpoints")]
    lineage = {key: run[key] for key in ("parents", "lineage", "from") if run.get(key)}
    if kept:
        lineage["checkpoints"] = kept if len(kept) <= 6 else [*kept[:2], f"… {len(kept) - 4} more", *kept[-2:]]
    about = {key: start.get(key) or run.get(key) for key in ("version", "commit", "recipe_hash")}
    about["recipe_hash"] = about["recipe_hash"] and str(about["recipe_hash"])[:16]
    about["written"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC") if start else None
    boxes = [("Machine", machine), ("Choices", start.get("choices") or {}), ("Version", about), ("Lineage", lineage)]
    cells = "".join(
        f"<div><h3>{title}</h3>{_pairs(values)}</div>" for title, values in boxes if any(value is not None for value in values.values())
    )
    return _section("Where it came from", f'<div class="grid boxes">{cells}</div>') if cells else ""


def _pairs(values: dict[str, Any]) -> str:
    rows = "".join(
        f"<dt>{safe(str(key).replace('_', ' '))}</dt><dd>{_value(value)}</dd>" for key, value in values.items() if value is not None
    )
    return f'<dl class="pairs">{rows}</dl>'


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "<br>".join(map(_value, value)) or "none"
    if isinstance(value, dict):
        return "<br>".join(f"{safe(key)}: {_value(item)}" for key, item in value.items()) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else safe(value)
