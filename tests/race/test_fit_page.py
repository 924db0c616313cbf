"""The pages of fits and ladders, opened by a real browser: no errors, every plot drawn, nothing fetched, readable when narrow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.cli.ladder import _page as ladder_page
from ingot.race.fit_page import write_fit_page
from ingot.race.ladder import write_points
from ingot.scaling import fit

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
// From outside, because the pages allow no script: what each frame shows once it is laid out.
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const plots = [...page.querySelectorAll(".plot > svg")];
    const drawn = plots.filter(svg => {
      const box = svg.getBoundingClientRect();
      const boxes = [...svg.querySelectorAll("path, circle")].map(mark => mark.getBoundingClientRect());
      const marks = boxes.filter(one => one.width > 0 || one.height > 0), beside = one => one.right < box.left - 2 || one.left > box.right + 2;
      const inside = one => !beside(one) && one.bottom >= box.top - 2 && one.top <= box.bottom + 2;
      return box.width > 100 && box.height > 100 && marks.length > 1 && marks.every(inside);
    });
    const fetched = frame.contentWindow.performance.getEntriesByType("resource").length;
    const wide = root.scrollWidth <= root.clientWidth, text = page.body.innerText.length;
    return { plots: plots.length, drawn: drawn.length, wide, fetched, text };
  });
  document.title = JSON.stringify(seen);
});
</script>"""
WIDTHS = (1280, 420)


def opened(pages: list[str], folder: Path) -> tuple[list[dict[str, Any]], str]:
    """What a browser shows of every page at every width, page by page, and what its console said."""
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    frames = [
        f'<iframe style="width:{width}px;height:2400px;border:0" srcdoc="{page.replace("&", "&amp;").replace(chr(34), "&quot;")}"></iframe>'
        for page in pages
        for width in WIDTHS
    ]
    probe = folder / "probe.html"
    probe.write_text(f"<title></title>{PROBE}{''.join(frames)}")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1400,2000", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None and title[1], done.stdout[:500]
    return json.loads(title[1]), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def tables() -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """For each way in which a law is drawn: form, rows, knobs."""
    draw = np.random.default_rng(0)
    N, D = (column.ravel() for column in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    noise = np.exp(0.003 * draw.normal(size=25))
    flop, step = np.geomspace(1e15, 1e18, 12), np.arange(100.0, 4001.0, 100.0)
    share = draw.dirichlet((1.0, 1.0), 25)
    rates = {"flat": np.full(40, 1e-3), "falling": np.linspace(1e-3, 1e-4, 40)}
    area = [0.05 + np.concatenate([[0.0], np.cumsum(50 * (lr[1:] + lr[:-1]))]) for lr in rates.values()]
    return {
        "sizes": ("chinchilla", {"params": N, "tokens": D, "loss": (1.8 + 480 * N**-0.35 + 2100 * D**-0.37) * noise}, {}),
        "band": ("power", {"flop": flop, "loss": (2 + 300 * flop**-0.15) * noise[:12]}, {"over": "flop"}),
        "agreement": ("data_mixing", {"mix_a": share[:, 0], "mix_b": share[:, 1], "loss": (2 + np.exp(-1.5 * share[:, 0])) * noise}, {}),
        "curves": (
            "annealing",
            {
                "run": np.repeat(list(rates), 40),
                "step": np.tile(step, 2),
                "lr": np.concatenate(list(rates.values())),
                "loss": np.concatenate([2.5 + 0.8 * one**-0.5 for one in area]) * np.exp(0.002 * draw.normal(size=80)),
            },
            {},
        ),
    }


def ladder(folder: Path) -> Path:
    """ladder.html from the files that a ladder leaves: its points, and the fit to all but the largest."""
    flop = np.geomspace(1e12, 1e15, 7)
    loss = (2 + 300 * flop**-0.15) * np.exp(0.003 * np.random.default_rng(0).normal(size=7))
    table = {"flop": flop, "params": np.sqrt(flop / 120), "tokens": 20 * np.sqrt(flop / 120), "loss": loss}
    rows = [{name: float(column[row]) for name, column in table.items()} | {"held_out": int(row == 6)} for row in range(7)]
    write_points(rows, folder / "points.csv")
    smaller = {name: column[:6] for name, column in table.items()}
    fit("power", smaller, knobs={"over": "flop"}, draws=40).save(folder / "fit_without_largest.json")
    return ladder_page(folder, "steps")


def test_fits_and_a_ladder_are_drawn_without_errors(tmp_path: Path) -> None:
    pages = {}
    for kind, (form, rows, knobs) in tables().items():
        top = np.arange(len(rows["loss"])) >= len(rows["loss"]) - 3
        seen, held = ({name: column[part] for name, column in rows.items()} for part in (~top, top))
        one = fit(form, seen, knobs=knobs, draws=40)
        pages[kind] = write_fit_page({"": one}, tmp_path / f"{kind}.html", title="a <fit>", held={"": held}).read_text()
    pages["ladder"] = ladder(tmp_path).read_text()
    assert (tmp_path / "ladder.html").is_file() and "Held out" in pages["ladder"]
    found, console = opened(list(pages.values()), tmp_path)
    assert console == ""
    assert len(found) == len(pages) * len(WIDTHS)
    for index, one in enumerate(found):
        where = list(pages)[index // len(WIDTHS)], WIDTHS[index % len(WIDTHS)]
        assert one["plots"] == 2 and one["drawn"] == 2, (where, one)
        assert one["wide"] and one["fetched"] == 0 and one["text"] > 300, (where, one)
    for kind, text in pages.items():
        assert "NaN" not in text.split('<script type="application/json"')[0] and "https:" not in text, kind


def test_the_probe_sees_what_is_not_drawn(tmp_path: Path) -> None:
    """Without its marks a plot does not count, and what goes wrong in a page reaches the console."""
    form, rows, knobs = tables()["band"]
    one = fit(form, rows, knobs=knobs, draws=0, interval="none", backtest=False)
    text = write_fit_page({"": one}, tmp_path / "fit.html", title="fit").read_text()
    found, console = opened(
        [re.sub(r"<(path|circle) [^>]*>", "", text).replace("<body>", "<body><script>nothing.here()</script>")], tmp_path
    )
    assert [one["drawn"] for one in found] == [0, 0] and [one["plots"] for one in found] == [2, 2]
    assert console != ""


def test_held_out_points_of_a_law_that_reads_a_loss_stand_at_their_loss(tmp_path: Path) -> None:
    """Fitted from 2.1 on, held out below: left of all others, inside the plane, in their order."""
    loss = np.linspace(1.9, 3.6, 30)
    table = {"loss": loss, "accuracy": 0.25 + 0.6 / (1 + np.exp(4 * (loss - 2.7)))}
    seen, held = ({name: column[part] for name, column in table.items()} for part in (loss >= 2.1, loss < 2.1))
    one = fit("downstream", seen, draws=20, backtest=False)
    page = write_fit_page({"": one}, tmp_path / "task.html", title="task", held={"": held}).read_text()
    marks = re.findall(r'<circle cx="([-0-9.]+)" cy="[-0-9.]+" r="4" fill="([^"]+)"', page.split("What the law leaves")[0])
    open_, filled = ([float(x) for x, fill in marks if (fill == "var(--card)") is is_open] for is_open in (True, False))
    assert open_ == sorted(open_) and len(open_) == len(held["loss"]) and 70 <= open_[0] < open_[-1] < min(filled)
