"""ingot fit and ingot predict, from a csv to an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.cli import main


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scaling") / "points.csv"
    N, D = np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    loss = (1.8 + 480 * N**-0.35 + 2100 * D**-0.37) * np.exp(0.003 * np.random.default_rng(0).normal(size=N.shape))
    rows = [f"{n},{6 * n * d},{value},{'x' if n < 5e7 else 'y'}" for n, d, value in zip(N.ravel(), D.ravel(), loss.ravel())]
    path.write_text("\n".join(["size,flop,loss,family", *rows, "1e8,6e18,9.0,x"]) + "\n")
    return path


FIT = ["--columns", "params=size,tokens=flop/6/size", "--without-highest", "1", "--draws", "40"]


@pytest.fixture(scope="module")
def saved(points: Path) -> Path:
    path = points.parent / "fit.json"
    assert main(["fit", "chinchilla", str(points), *FIT, "--save", str(path)]) == 0
    return path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_fit_answers_in_json(points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "fit", "chinchilla", str(points), *FIT)
    low, high = found["intervals"]["alpha"]
    assert low < found["estimates"]["alpha"] < high
    assert found["error"]["n"] == 36 and found["backtest"] and "parametric" in found["frontier"]


def test_columns_are_computed_once(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes in millions, brought to units under their own name: the same fit, and the same held-out rows, as without."""
    rows = [line.split(",") for line in points.read_text().splitlines()[1:]]
    lines = [f"{float(size) / 1e6},{float(flop) / 6 / float(size)},{loss}" for size, flop, loss, _ in rows]
    (tmp_path / "millions.csv").write_text("\n".join(["params,tokens,val", *lines]) + "\n")
    words = ("--columns", "params=params*1e6,loss=val", *FIT[2:], "--interval", "none", "--no-backtest", "--hold-out", "params>5e8")
    scaled = answer(capsys, "fit", "chinchilla", str(tmp_path / "millions.csv"), *words)
    plain = answer(capsys, "fit", "chinchilla", str(points), *FIT, *words[-5:])
    assert scaled["estimates"] == pytest.approx(plain["estimates"], rel=1e-3)
    assert [row["x"] for row in scaled["held_out"]] == pytest.approx([row["x"] for row in plain["held_out"]]) and scaled["held_out"]


def test_what_a_fit_is_kept_in_is_there_before_it_begins(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("fit", "kaplan", str(points), *FIT[:-2], "--draws", "0", "--no-backtest", "--interval", "none")
    assert main([*quick, "--save", str(tmp_path / "new" / "fit.json")]) == 0 and (tmp_path / "new" / "fit.json").is_file()
    assert main([*quick, "--save", str(tmp_path / "new")]) == 2 and "is a folder" in capsys.readouterr().err
    assert (
        main([*quick, "--report", str(tmp_path / "new" / "fit.json" / "x.html")]) == 2
        and "--report: cannot make" in capsys.readouterr().err
    )


def test_an_ordinary_grid_of_sizes_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes times tokens: many runs share a budget."""
    grid = [(n, d) for n in (1e6, 3e6, 1e7, 3e7) for d in (2e7, 6e7, 2e8, 6e8)]
    (tmp_path / "grid.csv").write_text(
        "\n".join(["params,tokens,loss", *(f"{n},{d},{1.8 + 480 / n**0.35 + 2100 / d**0.37}" for n, d in grid)])
    )
    answer(capsys, "fit", "chinchilla", str(tmp_path / "grid.csv"), "--draws", "0", "--interval", "none", "--no-backtest")


def test_fit_prints_intervals_past_and_doubts(points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "chinchilla", str(points), *FIT]) == 0
    shown = capsys.readouterr().out
    assert "90% interval" in shown and "held-out predictions" in shown and "N_opt ~ C^" in shown


def test_fit_by_group(points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "fit", "kaplan", str(points), *FIT[:-2], "--draws", "0", "--no-backtest", "--by", "family", "--where", "loss<8")
    assert set(found["fits"]) == {"x", "y"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains: `steep` obeys a sum of exponentials that no product can say, `even` a product."""
    path, rng = tmp_path_factory.mktemp("mixed") / "mixed.csv", np.random.default_rng(0)
    shares = rng.dirichlet((1.0, 1.0, 1.0), 30)
    losses = {"steep": 1.5 + 0.4 * np.exp(shares * [-12.0, 0.3, -1.0]).sum(1), "even": 1.9 + np.exp(shares @ [-1.5, 0.6, 0.4])}
    rows = [
        f"{domain},{a},{b},{c},{loss * np.exp(0.001 * rng.normal())}"
        for domain, values in losses.items()
        for (a, b, c), loss in zip(shares, values)
    ]
    path.write_text("\n".join(["valid_domain,mix_a,mix_b,mix_c,loss", *rows]) + "\n")
    return path


def test_several_laws_are_compared_and_the_best_is_named(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each domain by the law that made it; in text, as JSON, and in what is saved."""
    words = ("fit", "data_mixing,data_mixing:combine=sum", str(mixed), "--by", "valid_domain", "--draws", "0", "--interval", "none")
    found = answer(capsys, *words, "--save", str(tmp_path / "best.json"))
    assert {name: one["best"] for name, one in found["groups"].items()} == {"steep": "data_mixing:combine=sum", "even": "data_mixing"}
    assert found["best"] == "data_mixing:combine=sum", "the product misses the steep domain by far more than the sum misses the even one"
    for one in found["groups"].values():
        errors = [row["held_out"] for row in one["laws"]]
        assert errors == sorted(errors) and set(one["fits"]) == {"data_mixing", "data_mixing:combine=sum"}
    kept = json.loads((tmp_path / "best.json").read_text())["fits"]
    assert kept["steep"]["knobs"] == {"combine": "sum"} and kept["even"]["knobs"] == {}
    assert main([*words]) == 0
    shown = capsys.readouterr().out
    assert "best over all: data_mixing:combine=sum" in shown and "held-out error" in shown and "best for so many of 2" in shown
    one = answer(capsys, "fit", words[1], str(mixed), "--where", "valid_domain=even", "--draws", "0", "--interval", "none")
    assert one["best"] == "data_mixing" and one["laws"][0]["law"] == "data_mixing"


def test_frontiers_are_found_once_a_fit(points: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from ingot.scaling import frontier

    calls: list[Any] = []
    whole = frontier.frontiers
    monkeypatch.setattr(frontier, "frontiers", lambda one: calls.append(one) or whole(one))
    assert main(["fit", "chinchilla", str(points), *FIT, "--no-backtest", "--interval", "none"]) == 0
    assert len(calls) == 1 and "N_opt ~ C^" in capsys.readouterr().out


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three schedules of a law that knows S_1 alone, warm-up ended at step 100."""
    path, step = tmp_path_factory.mktemp("curves") / "curves.csv", np.arange(100.0, 4000.0, 100.0)
    rows = []
    for name, lr in (
        ("flat", np.full(len(step), 1e-3)),
        ("falling", np.linspace(1e-3, 1e-4, len(step))),
        ("drop", np.where(step < 2000, 1e-3, 2e-4)),
    ):
        area = 0.05 + np.concatenate([[0.0], np.cumsum(50 * (lr[1:] + lr[:-1]))])
        rows += [f"{name},{s:.0f},{e!r},{2.5 + 0.8 * a**-0.5!r}" for s, e, a in zip(step, lr.tolist(), area.tolist())]
    path.write_text("\n".join(["schedule,step,lr,loss", *rows]) + "\n")
    return path


def test_fit_a_law_of_curves_as_its_paper_does_and_hold_out_a_schedule(curves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fit", "multi_power", str(curves), "--columns", "run=schedule", "--no-backtest", "--knob", "fit=paper")
    assert main([*words, "--hold-out", "schedule!=flat"]) == 0
    shown = capsys.readouterr().out
    assert "held out falling: 39 points" in shown and "no intervals" in shown
    assert {one["run"]: one["n"] for one in answer(capsys, *words, "--hold-out", "schedule!=flat")["held_out"]} == {
        "": 78,
        "falling": 39,
        "drop": 39,
    }
    # The rest of a run is told from all of its rates, also of the steps that were fitted; else its sum of rates would begin anew.
    assert answer(capsys, *words, "--hold-out", "step>2500")["held_out"][0]["mean"] < 0.005


def test_predict_a_budget(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "predict", str(saved), "--budget", "1e22flops")
    assert found["low"] < found["value"] < found["high"]
    assert found["reach"] > 1 and "off by" in found["past"]["note"]
    assert 6 * found["choice"]["params"] * found["choice"]["tokens"] == pytest.approx(1e22)
    assert main(["predict", str(saved), "--at", "params=1e8,tokens=2e9"]) == 0
    assert "within the range" in capsys.readouterr().out


def test_what_was_never_tested_is_refused_in_one_line(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "never.json"
    assert main(["fit", "chinchilla", str(points), *FIT, "--no-backtest", "--save", str(path)]) == 0
    capsys.readouterr()
    assert main(["predict", str(path), "--budget", "1e27flops"]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert "nothing tells how wrong" in first and "never back-tested" in first and "--untested" in first and rest == ["1 error."]
    found = answer(capsys, "predict", str(path), "--budget", "1e27flops", "--untested")
    assert found["past"]["tested"] is False and found["reach"] > 1e6
    assert main(["predict", str(path), "--at", "params=1e8,tokens=2e9"]) == 0, "inside the data nothing is extrapolated"


def test_accuracy_at_a_budget_goes_through_the_loss(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss, draw = np.linspace(1.9, 3.6, 30), np.random.default_rng(0)
    seen = 0.25 + 0.6 / (1 + np.exp(4 * (loss - 2.7))) + 0.004 * draw.normal(size=30)
    (tmp_path / "task.csv").write_text("\n".join(["loss,accuracy", *(f"{a},{b}" for a, b in zip(loss, seen))]))
    task = tmp_path / "task.json"
    assert main(["fit", "downstream", str(tmp_path / "task.csv"), "--draws", "60", "--save", str(task)]) == 0
    capsys.readouterr()
    assert main(["predict", str(task), "--budget", "1e21flops"]) == 2 and "--through" in capsys.readouterr().err
    found = answer(capsys, "predict", str(task), "--through", str(saved), "--budget", "1e21flops")
    first = answer(capsys, "predict", str(saved), "--budget", "1e21flops")
    assert found["through"]["value"] == first["value"] and found["choice"] == first["choice"]
    assert found["value"] == pytest.approx(0.25 + 0.6 / (1 + np.exp(4 * (first["value"] - 2.7))), abs=0.01)
    assert found["low"] < found["value"] < found["high"]
    assert main(["predict", str(task), "--through", str(saved), "--budget", "1e21flops"]) == 0
    assert "accuracy 0." in (shown := capsys.readouterr().out) and "through loss" in shown and "best params" in shown


def test_predict_a_crossing(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "predict", str(saved), "--against", str(saved))["crossing_draws"] is not None
    assert main(["predict", str(saved), "--against", str(saved)]) == 0 and "they are the same up to" in capsys.readouterr().out


def test_predict_the_rest_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a ledger; lines of other kinds and a restart's repeated steps are read past."""
    step = np.arange(100, 5001, 100)
    loss = 2.6 + 0.6 * (3e-4 * step) ** -0.45
    lines = [
        {"kind": "start"},
        *({"kind": "step", "step": int(s), "lr": 3e-4, "loss": float(value)} for s, value in zip(step, loss)),
        {"kind": "step", "step": 5000, "lr": 3e-4, "loss": float(loss[-1])},
    ]
    (tmp_path / "ledger.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = answer(capsys, "predict", "--job", str(tmp_path), "--until", "10000", "--law", "annealing")
    assert found["step"][-1] == 10000
    assert found["loss"][-1] == pytest.approx(2.6 + 0.6 * (3e-4 * 10000) ** -0.45, rel=0.01)
    annealed = answer(capsys, "predict", "--job", str(tmp_path), "--until", "10000", "--anneal-from", "8000")
    assert annealed["loss"][-1] < found["loss"][-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "chinchila", "{points}"], "Did you mean 'chinchilla'"),
        (["fit", "chinchilla", "{points}"], "needs the columns params, tokens"),
        (["fit", "chinchilla", "none.csv"], "cannot read none.csv"),
        (["fit", "chinchilla", "{points}", "--columns", "params"], "NAME=VALUE"),
        (["fit", "chinchilla", "{points}", "--where", "loss<0"], "no row meets"),
        (["fit", "chinchilla", "{points}", "--level", "2"], "between 0 and 1"),
        (["fit", "chinchilla", "{points}", "--delta", "-1"], "--delta wants a number above 0"),
        (["fit", "chinchilla", "{points}", "--interval", "bootstrap", "--draws", "0"], "--interval bootstrap wants --draws"),
        (["fit", "chinchilla", "{points}", *FIT, "--fixed", "alpha=3"], "alpha cannot be fixed at 3"),
        (["predict", "{saved}", "--budget", "1e20flops", "--most", "a=0.2"], "--most says nothing of a fit alone; it goes with --mixture"),
        (["predict", "{saved}", "--budget", "1e20flops", "--until", "9"], "--until says nothing of a fit alone; it goes with --job"),
        (["predict", "{saved}", "--budget", "1e20flops", "--past", "x"], "--past says nothing of a fit alone; it goes with --run"),
        (["predict", "{saved}", "--run", "x"], "FIT.json says nothing with --run"),
        (["predict", "--job", "x", "--anneal-from", "9"], "--anneal-from wants --until too"),
        (["predict", "{saved}", "--at", "params=1e8,tokens=1e9", "--sizes", "{saved}"], "--sizes wants --budget too"),
        (["predict", "{saved}", "--budget", "1e20flops", "--sizes", "{saved}"], "--sizes is for a fit of batch_lr"),
        (["predict", "--run", "x", "--job", "y"], "different questions"),
        (["predict", "{saved}", "--budget", "1e20flops", "--at", "foo=3"], "reads no 'foo'"),
        (["predict", "{points}"], "cannot read"),
        (["predict", "{saved}"], "wants --budget or --at"),
        (["predict", "{saved}", "--budget", "3h"], "FLOPs"),
        (["predict"], "wants a FIT.json"),
        (["fit", "kaplan,chinchilla", "{points}", "--no-backtest", "--columns", "params=size,tokens=flop/6/size"], "held-out errors"),
        (["predict", "{saved}", "--through", "{saved}", "--budget", "1e20flops"], "reads no loss"),
        (["predict", "--job", "nowhere"], "cannot read"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    words: list[str], message: str, points: Path, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([word.format(points=points, saved=saved) for word in words]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_weights_that_name_no_domain_are_refused(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, weights = tmp_path / "mixed.json", tmp_path / "weights.csv"
    assert main(["fit", "data_mixing", str(mixed), "--by", "valid_domain", "--draws", "0", "--interval", "none", "--save", str(saved)]) == 0
    for text, message in (("steep,1\nevem,2", "Did you mean 'even'"), ("steep,0\neven,0", "a weight of at least 0")):
        weights.write_text(f"valid_domain,weight\n{text}\n")
        capsys.readouterr()
        assert main(["predict", str(saved), "--mixture", "--weights", str(weights)]) == 2 and message in capsys.readouterr().err
