"""The race's page: whole without a network, safe, every plot drawn by a real browser, readable narrow and in print."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.race import plots
from ingot.race.claim import cards_page, read_cards
from ingot.race.course import survey_course
from ingot.race.page import write_page
from ingot.race.spec import Race
from ingot.race.trials import Store, note, write_whole
from ingot.race.verdict import judge

Make = Callable[..., Race]
# Debian's package `chromium` puts it at /usr/bin/chromium, which need not be on the path of who runs the tests.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "/usr/bin/chromium", "chromium-browser", "google-chrome"))), None)
COSTS = ("tokens", "flops", "reference_seconds", "seconds")
PLOTS = {
    "forest",
    "tuning",
    *(f"curve_{cost}" for cost in COSTS),
    *(f"target_{cost}" for cost in COSTS),
    "where_time",
    "where_memory",
    "where_state",
    "where_flops",
    "front_peak_memory",
    "front_reference_seconds",
    "front_seconds",
    "front_flops",
}
MORE = """
question: "Which <b>one</b>?"
contenders: {third: {about: "<script>alert(1)</script>", set: {stages: {0: {optimizer: {lr: 0.003}}}}}}
seeds: 4
tuning: {trials: 3}
"""


@pytest.fixture
def verdict(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    race, store = make_race(MORE), Store(tmp_path)
    while (course := survey_course(race, store, {})).waiting:
        for trial in course.waiting:
            slow, value = (
                (trial.arm == "third"),
                4.0
                + 0.01 * (trial.seed % 5)
                + (0.05 if trial.arm == "third" else -0.03 if trial.arm == "other" else 0.0)
                + 0.1 * abs(trial.factor - 1),
            )
            place = store.write(trial, {"cwd": ".", "metric": "auto"})
            note(place, event="start", time=1.0, conduct="one")
            note(place, event="end", time=2.0)
            write_whole(
                place / "result.json",
                invented(value + 0.002 * (trial.seed % 3), seconds=2.0 + slow, memory=1e6 * (1 + slow), processor=1.9 + slow),
            )
    return judge(race, store, course, notes=["other: a note"])


def browse(page: Path, tmp_path: Path, *more: str, width: int = 1280) -> tuple[str, str]:
    """The document as the browser made it, and what it logged."""
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},2000",
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
        *more,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_one_file_without_any_address_or_markup_from_the_race(verdict: dict[str, Any], tmp_path: Path) -> None:
    text = write_page(verdict, tmp_path / "race.html").read_text()
    assert not re.search(r"https?://|src=|@import|url\((?!#)", text)
    assert "<script>alert" not in text and "<b>one</b>" not in text
    assert text.count("<script") == 1 and 'type="application/json"' in text  # data; nothing runs
    for word in ("better", "worse", "control", "a note", "a &lt;cpu&gt;", "tuning, apart", verdict["sentence"][:40]):
        assert word in text, word
    assert set(re.findall(r'data-plot="(\w+)"', text)) == PLOTS
    assert "nan" not in re.sub(r"<script.*</script>", "", text, flags=re.S).lower().replace("resonance", "")


def test_wall_clock_is_left_out_where_the_trials_did_not_run_side_by_side(verdict: dict[str, Any], tmp_path: Path) -> None:
    for name in ("third", "control"):
        verdict["arms"][name]["side_by_side"] = False
    text = write_page(verdict, tmp_path / "race.html").read_text()
    assert "Wall-clock is not compared for third" in text and set(re.findall(r'data-plot="(\w+)"', text)) == PLOTS
    for arm in verdict["arms"].values():
        arm["side_by_side"] = False
    text = write_page(verdict, tmp_path / "race.html").read_text()
    assert "Wall-clock is not compared for other, third" in text
    assert PLOTS - set(re.findall(r'data-plot="(\w+)"', text)) == {"curve_seconds", "target_seconds", "front_seconds"}


PROBE = """f.onload = () => {
  const d = f.contentDocument, plots = [...d.querySelectorAll("[data-plot]")];
  const drawn = plots.filter((one) => { const svg = one.querySelector("svg"); const box = svg && svg.getBBox(); return box && box.width > 100 && box.height > 20 && svg.querySelectorAll("path,rect,circle,line").length > 1; });
  const outside = plots.filter((one) => { const svg = one.querySelector("svg"); if (!svg) return true; const box = svg.getBBox(), view = svg.viewBox.baseVal; return box.x < -2 || box.x + box.width > view.width + 2 || box.y + box.height > view.height + 2; });
  document.title = [plots.length, drawn.length, outside.map((one) => one.dataset.plot).join("+") || "inside", d.documentElement.scrollWidth <= d.documentElement.clientWidth];
}"""


@pytest.mark.parametrize("width", [400, 1200])
def test_every_plot_is_drawn_inside_its_frame_and_nothing_is_logged(verdict: dict[str, Any], tmp_path: Path, width: int) -> None:
    page = write_page(verdict, tmp_path / "race.html")
    _, console = browse(page, tmp_path, "--dump-dom", width=width)
    assert console == ""
    inside = page.read_text().replace("&", "&amp;").replace('"', "&quot;")
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe id="f" style="width:{width}px;height:5000px;border:0" srcdoc="{inside}"></iframe><script>{PROBE}</script>')
    document, _ = browse(frame, tmp_path, "--dump-dom", width=width + 50)
    assert re.search("<title>(.*?)</title>", document)[1] == f"{len(PLOTS)},{len(PLOTS)},inside,true"


def test_the_page_of_all_claims_in_a_browser(tmp_path: Path, repository: Path) -> None:
    """The committed page and one written now from the committed cards: nothing logged, nothing fetched, every card there, no overflow."""
    cards = read_cards(repository / "claims")
    fresh = tmp_path / "index.html"
    fresh.write_text(cards_page(cards), encoding="utf-8")
    for page in (repository / "claims" / "index.html", fresh):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"https?://|src=|@import|url\((?!#)", text)
        document, console = browse(page, tmp_path, "--dump-dom", width=500)
        assert console == "" and document.count("data-card=") == len(cards)
        for card in cards:
            assert card["method"] in document
        frame = tmp_path / "frame.html"
        inside = text.replace("&", "&amp;").replace('"', "&quot;")
        probe = "f.onload = () => { const d = f.contentDocument.documentElement; document.title = d.scrollWidth <= d.clientWidth; }"
        frame.write_text(f'<iframe id="f" style="width:500px;height:5000px;border:0" srcdoc="{inside}"></iframe><script>{probe}</script>')
        document, _ = browse(frame, tmp_path, "--dump-dom", width=550)
        assert re.search("<title>(.*?)</title>", document)[1] == "true"
    browse(fresh, tmp_path, f"--print-to-pdf={tmp_path / 'claims.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "claims.pdf").read_bytes().startswith(b"%PDF")


def test_it_prints(verdict: dict[str, Any], tmp_path: Path) -> None:
    page = write_page(verdict, tmp_path / "race.html")
    browse(page, tmp_path, f"--print-to-pdf={tmp_path / 'race.pdf'}", "--no-pdf-header-footer")
    data = (tmp_path / "race.pdf").read_bytes()
    assert data.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 9


def test_plots_without_anything_to_draw_say_so() -> None:
    assert plots.forest([], margin=0.01, words=str, name_x="") == plots.EMPTY
    assert (
        plots.curves([{"name": "a", "color": "c", "x": [None], "y": [None]}], name_x="", name_y="", words_x=str, words_y=str) == plots.EMPTY
    )
    assert plots.EMPTY == plots.censored([], name_x="", words=str) == plots.scatter([], name_x="", name_y="", words_x=str, words_y=str)
    assert plots.stacked([("a", {})], words=str, title="") == (plots.EMPTY, {})


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.41, 3.46), (0, 1e15), (-0.02, 0.02), (5.0, 5.0)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    places = plots.ticks(low, high)
    assert len(places) <= 8 and all(low - 1e-9 * abs(low) <= place <= high + 1e-9 * abs(high) for place in places)
    assert len(places) >= 2 or low == high
