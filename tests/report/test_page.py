"""The page: whole, safe, independent of the network, and drawn without errors by a real browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ingot.core.errors import UserError
from ingot.ledger.ledger import Ledger
from ingot.report.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHARTS = {"loss", "evaluations", "lr", "grad_norm", "tokens_per_second", "utilization", "time", "flops", "memory"}


def make_run(folder: Path, steps: int = 50, *, end: bool = True, evaluations: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text("name: demo\nstages:\n- budget: 20M tokens\n")
    (folder / "run.json").write_text(json.dumps({"parents": [{"run": "base"}]}))
    (folder / "checkpoints" / "step-00000010").mkdir(parents=True, exist_ok=True)
    with Ledger(folder) as ledger:
        ledger.write(
            "start",
            time=1.7e9,
            commit="0123456789abcdef",
            parameters=1_000_000,
            machine={"cpu": "a <cpu>", "memory": 2**34, "matmul_flops_per_second": 1e11},
        )
        for number in range(1, steps + 1):
            ledger.write(
                "step",
                stage=int(number > steps / 2),
                step=number,
                rows=number,
                tokens=number * 1e6,
                flops=number * 1e15,
                seconds=number * 30.0,
                loss=3 + 4 / number if number != 3 else math.nan,
                lr=1e-3,
                grad_norm=1.0,
                step_tokens=1e6,
                step_flops=1e15,
                step_seconds=30.0,
                phases={"data": 1.0, "forward_backward": 29.0},
                tokens_per_second=33333.0,
                utilization=0.5,
                flops_by_component={"encoder": 8e14, "objective": 2e14},
                memory={"process_peak": 2e9, "weights": 4e6, "gradients": 4e6, "optimizer_state": 8e6},
            )
            if evaluations and number % 10 == 0:
                ledger.write(
                    "evaluation",
                    step=number,
                    tokens=number * 1e6,
                    flops=number * 1e15,
                    seconds=number * 30.0,
                    took=2.0,
                    results={"web": {"loss": 3.0, "bits_per_byte": 1.0 + 1 / number}, "<code>": {"loss": 2.0, "bits_per_byte": 0.8}},
                )
                ledger.write("sample", step=number, prompt="Once", text=" </script><script>alert(1)</script>")
        ledger.write("event", step=min(5, steps), name="spike", message="loss <b>99</b>")
        if end:
            ledger.write("end", step=steps, reason="finished")
    return folder


def drawn(page: Path, tmp_path: Path, width: int = 1280) -> tuple[str, str]:
    """The document after its script ran, and what the browser logged."""
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
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def charts_of(document: str) -> dict[str, str]:
    parts = re.split(r'data-chart="(\w+)"', document.split('<script type="application/json"')[0])
    return dict(zip(parts[1::2], parts[2::2]))


def test_the_page_is_one_file_without_any_address(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "demo"))
    text = page.read_text()
    assert page == tmp_path / "demo" / "report.html"
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|src=|@import|url\((?!#)", without_namespace)
    for word in ("demo", "finished", "0123456789ab", "20M tokens", "step-00000010", "base", "100 GFLOP/s", "16 GiB"):
        assert word in text, word


def test_text_from_the_run_cannot_become_markup(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "demo")).read_text()
    assert "<script>alert" not in text
    assert "<b>99</b>" not in text
    assert text.count("<script") == 2


def test_all_charts_are_drawn_without_errors(tmp_path: Path) -> None:
    document, console = drawn(write_report(make_run(tmp_path / "demo")), tmp_path)
    assert console == ""
    assert 'data-drawn="yes"' in document
    charts = charts_of(document)
    assert set(charts) == CHARTS
    for name, content in charts.items():
        assert "<svg" in content, name
        assert re.search(r"<path d=\"M[\d.]+,|<rect x=", content), name
        assert "NaN" not in content and "Infinity" not in content, name
    assert charts["loss"].count("stroke-dasharray") == 2  # the spike and the second stage


PROBE = """f.onload = () => {
  const d = f.contentDocument, root = d.documentElement, ticks = () => d.querySelector("[data-chart=loss] svg").textContent;
  const before = ticks();
  d.querySelector("[data-axis=seconds]").click();
  const svg = d.querySelector("[data-chart=loss] svg"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new f.contentWindow.PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 50 }));
  document.title = [root.dataset.drawn, root.scrollWidth <= root.clientWidth, before.includes("tokens"), ticks().includes("min"), d.querySelector(".tip").textContent.includes("moving average")];
}"""


def test_a_narrow_page_does_not_scroll_sideways_and_answers_clicks_and_pointer(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "demo"))
    frame = tmp_path / "narrow.html"
    inside = page.read_text().replace("&", "&amp;").replace('"', "&quot;")
    frame.write_text(f'<iframe id="f" style="width:400px;height:3000px;border:0" srcdoc="{inside}"></iframe><script>{PROBE}</script>')
    document, _ = drawn(frame, tmp_path)
    assert re.search("<title>(.*?)</title>", document)[1] == "yes,true,true,true,true"


@pytest.mark.parametrize("kind", ["empty folder", "empty ledger", "one step", "killed midway", "start only"])
def test_runs_that_did_not_get_far(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    if kind == "empty ledger":
        (folder / "ledger.jsonl").touch()
    elif kind == "start only":
        with Ledger(folder) as ledger:
            ledger.write("start")
    elif kind != "empty folder":
        make_run(folder, 1 if kind == "one step" else 20, end=False, evaluations=kind != "one step")
    if kind == "killed midway":
        with open(folder / "ledger.jsonl", "a") as file:
            file.write('{"kind": "step", "ste')
    page = write_report(folder)
    text = page.read_text()
    assert ("no end recorded" if kind in ("one step", "killed midway") else "not started") in text
    assert ("nothing to draw" in text) == (kind in ("empty folder", "empty ledger", "start only"))
    document, console = drawn(page, tmp_path)
    assert console == ""
    assert 'data-drawn="yes"' in document
    assert "NaN" not in document.split('<script type="application/json"')[0]


def test_a_hundred_thousand_steps_make_a_small_page_quickly(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    with open(folder / "ledger.jsonl", "w") as file:
        file.writelines(
            f'{{"kind": "step", "step": {n}, "tokens": {n * 1000}, "flops": {n}e9, "seconds": {n}, "loss": {5 - n / 1e5 + n % 7 / 50}}}\n'
            for n in range(1, 100_001)
        )
    began = time.perf_counter()
    page = write_report(folder)
    assert time.perf_counter() - began < 30
    assert page.stat().st_size < 1_000_000


def test_a_report_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo", 2)
    write_report(folder)
    write_report(folder)
    assert [path.name for path in folder.glob("report*")] == ["report.html"]


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "nothing")


def test_a_rate_that_was_measured_on_a_busy_machine_gives_no_share(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "quiet")).read_text()
    assert "50% utilization" in page and "in doubt" not in page
    for name, change in (("above", ('utilization": 0.5', 'utilization": 1.35')), ("said", ('a <cpu>"', 'a", "matmul_doubt": "busy"'))):
        folder = make_run(tmp_path / name)
        text = (folder / "ledger.jsonl").read_text()
        assert change[0] in text
        (folder / "ledger.jsonl").write_text(text.replace(*change))
        page = write_report(folder).read_text()
        assert "utilization in doubt" in page and "% utilization" not in page


def test_the_best_validation_is_of_the_objective_in_force(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with Ledger(folder) as ledger:
        for step, (stage, loss) in enumerate([(0, 0.125), (1, 3.5), (1, 3.25)]):
            ledger.write("evaluation", stage=stage, step=step, results={"a": {"loss": loss}, "broken": {"loss": None}})
    (folder / "recipe.yaml").write_text("model: {objective: masked_lm}\nstages: [{objective: null}, {objective: causal_lm}]\n")
    text = write_report(folder).read_text()
    assert "<td>3.25</td><td>3.25</td><td>2</td>" in text and "None" not in text.split("<script")[0]
    (folder / "recipe.yaml").write_text("model: {objective: [")
    assert "<td>0.125</td><td>0</td>" in write_report(folder).read_text()


@pytest.mark.parametrize(("kind", "where"), [("process_peak", "process"), ("device_peak", "device")])
def test_the_peak_says_whose_memory_it_is(tmp_path: Path, kind: str, where: str) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.write("step", step=1, memory={"process_peak": 1e9, "weights": 4e6} | {kind: 2**31})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert re.search(rf"peak memory</dt><dd>2 GiB</dd><small>of the {where}</small>", page)


def test_runs_without_text_tell_their_best_loss(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "images", 5, evaluations=False)
    with Ledger(folder) as ledger:
        ledger.write(
            "evaluation", step=5, tokens=5e6, flops=5e15, seconds=150.0, took=1.0, results={"images": {"loss": 1.25, "accuracy": 0.5}}
        )
    assert "<dt>validation</dt><dd>1.25</dd><small>loss, best</small>" in write_report(folder).read_text(encoding="utf-8")
    silent = write_report(make_run(tmp_path / "silent", 5, evaluations=False)).read_text(encoding="utf-8")
    assert "<dt>validation</dt><dd>–</dd><small>not evaluated</small>" in silent
