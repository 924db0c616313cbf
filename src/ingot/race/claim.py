"""Claim cards: what a paper says of its method, and what a race saw of it at our scale, whatever the outcome.

A card is a small YAML file: the claim in the paper's sense, the pair of recipes (as their differences), the effect with its interval,
each part of the claim judged, the verdict, date, commit and machine. The verdict:

    holds                     every part is seen, as large as claimed
    holds in part             some part is, or in the right direction but smaller; or all are, but the best learning rate of the pair lay at
                              the edge of those tried, so that one side may have been tuned worse than the other
    not seen at this scale    none is; the effect beside it tells an opposite result from one that was not resolved

A part that claims equality and finds an advantage is *better than claimed*, and counts as one that holds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..core.amounts import count, duration, size
from ..core.errors import UserError
from ..core.recipe import digest, dump
from ..report.text import safe
from .page import digits, page, section
from .spec import BASELINE, CONTROL
from .trials import read_json
from .words import budget_words, metric_words, percent, span

SEEN, PART, NOT = "holds", "holds in part", "not seen at this scale"
BETTER = "better than claimed"  # of a part that claims to be equal
TO_TARGET = {"flops to target": "flops", "tokens to target": "tokens", "reference seconds to target": "reference_seconds"}
VARYING = {"wall-clock": "seconds", "peak memory": "peak_memory"}  # from run to run: judged over pairs of seeds


def card(verdict: dict[str, Any]) -> dict[str, Any]:
    """The card of a race's verdict. Raises UserError when its file makes no claim."""
    claim = verdict.get("claim")
    if not claim:
        raise UserError(f"the race {verdict['race']} has no claim to judge: add a `claim` section to its file")
    arm, base = verdict["arms"][claim["contender"]], verdict["arms"][BASELINE]
    parts = [part | judge_part(part, arm, base, verdict) for part in claim["parts"]]
    outcomes = [part["verdict"] for part in parts]
    overall = SEEN if all(outcome in (SEEN, BETTER) for outcome in outcomes) else NOT if set(outcomes) <= {NOT} else PART
    edges = [name for name, side in ((BASELINE, base), (claim["contender"], arm)) if side.get("edge")]
    capped = overall == SEEN and bool(edges)
    effect, control = arm.get("effect"), verdict["arms"].get(CONTROL)
    machine = verdict.get("machine") or {}
    return {
        "method": claim["method"],
        "verdict": PART if capped else overall,
        **({"capped": capped_words(edges)} if capped else {}),
        "paper": claim["paper"],
        "says": claim["says"],
        "parts": parts,
        "effect": {
            "metric": verdict["metric"],
            "verdict": arm.get("verdict"),
            **({key: effect[key] for key in ("mean", "low", "high", "n")} if effect else {}),
            "level": verdict.get("level", 0.05),
        },
        **({"control": {"verdict": control.get("verdict"), "runs": first_run(control)}} if control else {}),
        "sentence": verdict["sentence"],
        "pair": verdict["pairs"].get(claim["contender"], []),
        "scale": {
            "budget": verdict["budget"],
            "parameters": base.get("parameters"),
            "seeds": verdict["seeds"],
            "tuning trials": verdict["tuning"]["trials"],
            "tokens": base["spent"]["tokens"],
            "flops": base["spent"]["flops"],
            "wall-clock seconds of a run": base["spent"]["seconds"],
            "processor seconds of a run": base["spent"].get("cpu_seconds"),
        },
        "notes": verdict["notes"],
        "tiny": verdict["tiny"],
        "race": verdict["race"],
        "date": (verdict.get("time") or "")[:10],
        "commit": verdict.get("commit"),
        "machine": {key: machine.get(key) for key in ("cpu", "cores", "memory", "device", "torch")},
    }


def first_run(control: dict[str, Any]) -> str:
    """What tells a control from others, however many seeds each has: its first run."""
    return digest(list(control["finals"].items())[:1])[:12]


def capped_words(edges: list[str]) -> str:
    """Why a card says less than its parts."""
    return (
        f"all parts hold, but the best learning rate of {' and of '.join(edges)} lay at the edge of those tried: with more tuning trials the "
        "pair could compare otherwise"
    )


def judge_part(part: dict[str, Any], arm: dict[str, Any], base: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """One part: its verdict and what was found, in words."""
    if arm.get("verdict") in ("failed", "off budget", None):
        return {"verdict": NOT, "found": arm.get("verdict") or "not measured"}
    if part["what"] == "loss":
        return _loss(part, arm, verdict)
    if part["what"] in TO_TARGET:
        found = arm["to_target"][TO_TARGET[part["what"]]]
        if found["ratio"] is None:
            return {"verdict": NOT, "found": f"{found['reached']} of {found['runs']} runs got there"}
        return _ratio(part, found["ratio"], found["low"], found["high"])
    if part["what"] == "wall-clock" and not arm.get("side_by_side"):
        return {"verdict": NOT, "found": "not comparable: the trials did not run beside the baseline's, under the same load"}
    if part["what"] in VARYING:
        found = arm.get("paired", {}).get(VARYING[part["what"]], {})
        if found.get("ratio") is None:
            return {"verdict": NOT, "found": "not known of two pairs of runs or more"}
        return _ratio(part, found["ratio"], found["low"], found["high"])
    ours, theirs = (side["memory"].get("optimizer_state") for side in (base, arm))
    if not ours or theirs is None:
        return {"verdict": NOT, "found": "not measured"}
    return _ratio(part, theirs / ours, theirs / ours, theirs / ours)


def _loss(part: dict[str, Any], arm: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    effect, by = arm["effect"], part["by"]
    found = f"{percent(effect['mean'], True)} ({span(effect)})"
    if part["wants"] == "equal":
        within = by or verdict["margin"]
        inside = (
            effect["inner_low"] is not None
            and effect["inner_high"] is not None
            and -within <= effect["inner_low"]
            and effect["inner_high"] <= within
        )
        if arm["verdict"] == "better" and not inside:
            return {"verdict": BETTER, "found": found}
        return {"verdict": SEEN if inside else NOT, "found": found}
    sign = -1 if part["wants"] == "lower" else 1
    seen = arm["verdict"] == ("better" if sign < 0 else "worse")
    return {"verdict": NOT if not seen else SEEN if sign * effect["mean"] >= by else PART, "found": found}


def _ratio(part: dict[str, Any], ratio: float, low: float, high: float) -> dict[str, Any]:
    """A cost next to the baseline's; equal, as of the loss, means that the whole interval lies within. An interval that is a point is a
    measure that does not vary between seeds."""
    by, wants = part["by"], part["wants"]
    found = f"{ratio:.3g} times the baseline's" + (f" ({low:.3g} to {high:.3g})" if low != high else "")
    if wants == "equal":
        inside = 1 - (by or 0.05) <= low and high <= 1 + (by or 0.05)
        return {"verdict": SEEN if inside else BETTER if high < 1 and ratio < 1 else NOT, "found": found}
    seen = high < 1 if wants == "lower" else low > 1
    enough = ratio <= 1 - by if wants == "lower" else ratio >= 1 + by
    return {"verdict": NOT if not seen else SEEN if enough else PART, "found": found}


def file_name(method: str) -> str:
    """``squared ReLU`` -> squared_relu.yaml."""
    return (re.sub(r"[^a-z0-9]+", "_", method.lower()).strip("_") or "method") + ".yaml"


def write_card(race_folder: str | Path, cards: str | Path) -> tuple[Path, dict[str, Any]]:
    """The card of a finished race, written beside the others. Raises UserError when the race has no verdict or no claim, or another method
    has a card of that name."""
    verdict = read_json(Path(race_folder) / "verdict.json")
    if verdict is None:
        raise UserError(f"no finished race at {race_folder}: it has no verdict.json")
    found = card(verdict)
    path = Path(cards) / file_name(found["method"])
    if path.exists() and (other := _read(path)["method"]) != found["method"]:
        raise UserError(f"{path} is the card of {other!r}, not of {found['method']!r}: name one of them otherwise, or remove that card")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(found), encoding="utf-8")
    return path, found


def read_cards(cards: str | Path) -> list[dict[str, Any]]:
    """Every card of a folder, by method. Raises UserError for a file that is none."""
    return [renewed(_read(path)) for path in sorted(Path(cards).glob("*.yaml"))]


def _read(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no claim card: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict) or not {"method", "verdict", "says", "parts"} <= value.keys():
        raise UserError(f"{path} is no claim card")
    return value


def renewed(one: dict[str, Any]) -> dict[str, Any]:
    """A card of an earlier version as it would be written today: `effect.on`, which YAML 1.1 reads as a truth value, is now `effect.metric`."""
    effect = dict(one.get("effect") or {})
    for old in ("on", True):
        if old in effect:
            effect = {"metric": effect.pop(old)} | effect
    return one | {"effect": {"metric": "auto"} | effect}


def write_cards_page(cards: str | Path) -> Path:
    """``index.html``: all cards on one page."""
    path = Path(cards) / "index.html"
    path.write_text(cards_page(read_cards(cards)), encoding="utf-8")
    return path


def cards_page(cards: list[dict[str, Any]]) -> str:
    """All cards, those that hold first."""
    order = [SEEN, PART, NOT]
    cards = sorted(cards, key=lambda one: (order.index(one["verdict"]) if one["verdict"] in order else 3, one["method"]))
    tally = " · ".join(f"{sum(one['verdict'] == word for one in cards)} {word}" for word in order)
    header = (
        '<header><p class="brand">Ingot · claims</p><h1>What papers say, and what was seen</h1>'
        f'<p class="facts">{len(cards)} methods: {tally}</p>'
        "<p>Each method was raced against its baseline under one budget, at a scale that two processor cores reach. A claim about large models "
        "that is not seen here is not refuted.</p>"
        f"<p>{controls_words(cards)}</p></header>"
    )
    return page("Claims", header + "".join(map(_card, cards)) or header)


def controls_words(cards: list[dict[str, Any]]) -> str:
    """How many controls stand behind the cards: races of one baseline share the runs, and one control on five cards is one control."""
    known = {one["control"]["runs"]: one["control"]["verdict"] for one in cards if (one.get("control") or {}).get("runs")}
    with_one = sum(bool((one.get("control") or {}).get("runs")) for one in cards)
    words = (
        "Each race also runs its baseline against itself, with other seeds, as a control. Trials are shared: races of the same baseline "
        "under the same budget have the same control, which counts once however many cards lean on it."
    )
    if not known:
        return words
    off = sum(verdict in ("better", "worse") for verdict in known.values())
    return (
        f"{words} {with_one} card{'s' * (with_one != 1)} here lean{'s' * (with_one == 1)} on {len(known)} control{'s' * (len(known) != 1)}, "
        f"of which {off} came out as a difference."
    )


def _card(one: dict[str, Any]) -> str:
    kind = {SEEN: "better", PART: "", NOT: "none"}.get(one["verdict"], "")
    rows = "".join(f"<dt>{safe(_said(part))}</dt><dd>{safe(part['verdict'])}: {safe(part['found'])}</dd>" for part in one["parts"])
    scale, machine = one.get("scale", {}), one.get("machine", {})
    facts = [
        f"{budget_words(scale['budget'])} a run" if scale.get("budget") else "",
        f"{count(scale['parameters'])} parameters" if scale.get("parameters") else "",
        f"{scale.get('seeds')} seeds",
        f"{duration(scale['processor seconds of a run'])} of processor time a run"
        if scale.get("processor seconds of a run")
        else f"{duration(scale['wall-clock seconds of a run'])} a run"
        if scale.get("wall-clock seconds of a run")
        else "",
    ]
    origin = [
        one.get("date"),
        f"commit {one.get('commit')}",
        f"{machine.get('cores')} cores, {size(machine.get('memory'))}, {machine.get('cpu')}",
        f"race {one.get('race')}",
        "tiny twin" if one.get("tiny") else "",
    ]
    effect = one["effect"]
    covers = f"{100 * (1 - effect.get('level', 0.05)):.3g} %"
    measured = (
        f"{metric_words(effect['metric'])}: {percent(effect['mean'], True)}, {covers} interval {span(effect)}, {effect['n']} pairs: {effect['verdict']}"
        if effect.get("mean") is not None
        else f"{metric_words(effect['metric'])}: {effect.get('verdict') or digits(None)}"
    )
    body = (
        f"<p>{safe(one['says'])} <small>{safe(one['paper'])}</small></p><dl class='pairs'><dt><b>effect here</b></dt><dd>{safe(measured)}</dd>{rows}</dl>"
        f"<p class='facts'>{safe(' · '.join(filter(None, facts)))}</p><p class='facts'>{safe(' · '.join(filter(None, map(str, filter(None, origin)))))}</p>"
        + (
            f"<details><summary>the pair of recipes differs in {len(one['pair'])} place{'s' * (len(one['pair']) != 1)}</summary><pre>{safe(chr(10).join(one['pair']))}</pre></details>"
            if one.get("pair")
            else ""
        )
        + "".join(f"<p class='note'>{safe(note)}</p>" for note in filter(None, [one.get("capped"), *one.get("notes", [])]))
    )
    return section(
        f'{safe(one["method"])} <span class="badge word {kind}">{safe(one["verdict"])}</span>',
        f'<div class="grid boxes card" data-card="{safe(one["method"])}"><div>{body}</div></div>',
    )


def _said(part: dict[str, Any]) -> str:
    by = (
        f" by at least {percent(part['by'])}"
        if part.get("by") and part["wants"] != "equal"
        else f" within {percent(part['by'])}"
        if part.get("by")
        else ""
    )
    return f"{part['what']} {part['wants']}{by}"
