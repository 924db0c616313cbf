"""Windows of series: where they begin and end, whose mean and deviation, what is missing, and words for bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _runs import lines

import ingot
from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.open import open_data


def written(folder: Path, rows: int = 20, cells: dict[tuple[int, int], str] | None = None, name: str = "s.csv") -> Path:
    """Columns time (words), a = t, b = 10 t, kind."""
    lines = []
    for t in range(rows):
        row = [f"day {t}", str(t), str(10 * t), "calm" if t < rows // 2 else "wild"]
        for column in range(4):
            row[column] = (cells or {}).get((t, column), row[column])
        lines.append(",".join(row))
    (folder / name).write_text("time,a,b,kind\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def source(folder: Path, **knobs: Any) -> Any:
    return spec("data.source", "series_csv", **{"paths": ["s.csv"], "look_back": 4, "horizon": 2} | knobs).build(folder=folder)


def rows(found: Any) -> dict[str, np.ndarray]:
    return found.rows(np.arange(len(found)), np.arange(len(found)))


def test_windows_follow_one_another(tmp_path: Path) -> None:
    found = source(written(tmp_path), stride=3)
    assert found.columns == ["a", "b"] and len(found) == 5  # the words of time and kind are no channels
    given = rows(found)
    assert given["series"][:, 0, 0].tolist() == [0, 3, 6, 9, 12] and given["future"][:, :, 1].tolist()[-1] == [160, 170]
    assert found.where(1).endswith("s.csv:5 to 8")


def test_parts_share_no_value_to_forecast_and_may_look_back(tmp_path: Path) -> None:
    train, held = (source(written(tmp_path), part=part) for part in ([0, 12], [12, 20]))
    targets = [set(rows(item)["future"][:, :, 0].ravel().tolist()) for item in (train, held)]
    assert targets == [set(range(4, 12)), set(range(12, 20))]
    assert rows(held)["series"][0, :, 0].tolist() == [8, 9, 10, 11]
    shares = source(tmp_path, part=[0.6, 1.0])
    assert np.array_equal(rows(shares)["series"], rows(held)["series"])


def test_scaled_by_the_rows_that_are_named(tmp_path: Path) -> None:
    held = source(written(tmp_path), part=[12, 20], standardize=[0, 12])
    wanted = (np.arange(12, 14) - np.arange(12).mean()) / np.arange(12).std()
    np.testing.assert_allclose(rows(held)["future"][0], np.stack([wanted, wanted], axis=1), rtol=1e-6)


def test_the_standard_split_of_etth1(shared_data: Path) -> None:
    knobs = {"paths": ["timeseries/ETTh1.csv"], "look_back": 512, "horizon": 96, "standardize": [0, 8640]}
    sizes = [len(source(shared_data, part=part, **knobs)) for part in ([0, 8640], [8640, 11520], [11520, 14400])]
    assert sizes == [8640 - 512 - 96 + 1, 2880 - 96 + 1, 2880 - 96 + 1]


def test_missing_values_are_marked_within_the_allowance(tmp_path: Path) -> None:
    written(tmp_path, cells={(5, 1): "", (7, 2): "?"})
    given = rows(source(tmp_path, missing=0.1))
    assert not given["observed"][2, 3, 0] and given["series"][2, 3, 0] == 0
    assert given["observed"].sum() + given["future_observed"].sum() < given["observed"].size + given["future_observed"].size
    with pytest.raises(UserError, match=r"s.csv:7: column 'a' is empty; 2 of 40 values are missing, more than missing allows \(0\)"):
        source(tmp_path)
    with pytest.raises(UserError, match="more than missing allows"):
        source(tmp_path, missing=0.04)


def test_missing_values_within_the_allowance_are_told_once(tmp_path: Path) -> None:
    """With their number and the first one's place, file by file; copies of a source say it once between them."""
    written(tmp_path, cells={(5, 1): "", (7, 2): "?"})
    written(tmp_path, cells={(0, 2): "NA"}, name="t.csv")
    written(tmp_path, name="whole.csv")
    found = source(tmp_path, paths=["s.csv", "t.csv", "whole.csv"], missing=0.1)
    one, other = found.augmented([], 1, 0).notices()
    assert one["name"] == "missing" and [one["missing"], other["missing"]] == [2, 1]
    assert "s.csv: 2 of 40 values are missing" in one["message"] and "column 'a' of line 7" in one["message"]
    assert "t.csv: 1 of 40" in other["message"] and "column 'b' of line 2" in other["message"]
    assert found.notices() == [] and source(tmp_path, paths=["whole.csv"], missing=0.1).notices() == []


def test_missing_values_stand_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, any_speed: None) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, 60, cells={(5, 1): "", (7, 2): "?"})
    data = "{name: series_csv, paths: [s.csv], columns: [a, b], look_back: 16, horizon: 8, standardize: [0, 60], missing: 0.05}"
    settings = [f"data.train={data}", "data.validation=null", "evaluate.also=[]", "name=gaps", "stages.0.budget=2 steps", "compile=false"]
    run = ingot.build(ingot.load_recipe(repository / "recipes/series/patchtst_etth1.yaml", settings, tiny=True))
    run.train()
    (event,) = [line for line in lines(run, "event") if line["name"] == "missing"]
    assert event["missing"] == 2 and "s.csv: 2 of 120 values are missing" in event["message"]


def test_windows_do_not_cross_files(tmp_path: Path) -> None:
    written(tmp_path, 7, name="s.csv")
    written(tmp_path, 6, name="t.csv")
    found = source(tmp_path, paths=["s.csv", "t.csv"])
    assert len(found) == 2 + 1 and rows(found)["series"][:, 0, 0].tolist() == [0, 1, 0]


def test_the_class_is_that_of_the_last_row_read(tmp_path: Path) -> None:
    given = rows(source(written(tmp_path, cells={(4, 3): ""}), label="kind", horizon=0))
    assert given["label"].tolist() == [0, -100, 0, 0, 0, 0, 0, *[1] * 10] and "future" not in given


@pytest.mark.parametrize(
    ("cells", "knobs", "said"),
    [
        ({(3, 1): "x1"}, {}, "s.csv:5: column 'a' holds 'x1', which is no number"),
        ({(3, 1): "inf"}, {}, "s.csv:5: column 'a' holds 'inf', which is not finite"),
        ({(3, 1): "1,2"}, {}, "s.csv:5: has 5 cells, the header names 4 columns"),
        ({}, {"columns": ["a", "bb"]}, "s.csv: has no column 'bb'; it has time, a, b, kind. Did you mean 'b'"),
        ({}, {"look_back": 30}, "no window of 30 and 2 rows fits"),
        ({}, {"label": "kind", "classes": 1}, "s.csv:12: column 'kind' is class 1, wanted are 0 to 0"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, cells: Any, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        source(written(tmp_path, cells=cells), **knobs)


def test_words_that_are_numbered_differently_on_both_sides_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    written(tmp_path, cells={(t, 3): "wild" for t in range(20)}, name="held.csv")
    train, held = (spec("data.source", "series_csv", paths=[name], look_back=4, label="kind") for name in ("s.csv", "held.csv"))
    knobs: dict[str, Any] = {"sequence": 8, "pack": spec("data.pack", "stream"), "cache": Path("cache"), "folder": tmp_path, "seed": 0}
    with pytest.raises(UserError, match=r"the classes of 'series_csv' are not those trained on \('calm' on one side alone\)"):
        open_data(train=train, validation=held, **knobs)
    written(tmp_path, cells={(t, 3): str(t % 2) for t in range(20)}, name="held.csv")
    with pytest.raises(UserError, match=r"\('calm', 'wild' on one side alone\)"):
        open_data(train=train, validation=held, **knobs)
    assert open_data(train=train, validation=train, **knobs).train.sources["series_csv"].names == ["calm", "wild"]


def test_the_same_files_are_scaled_alike_on_both_sides(tmp_path: Path) -> None:
    written(tmp_path)
    written(tmp_path, name="other.csv", rows=12)
    knobs: dict[str, Any] = {"sequence": 8, "pack": spec("data.pack", "stream"), "cache": Path("cache"), "folder": tmp_path, "seed": 0}

    def read(name: str, **further: Any) -> Any:
        return spec("data.source", "series_csv", paths=[name], look_back=4, **further)

    train = read("s.csv", part=[0, 12], standardize=[0, 12])
    for further in ({}, {"standardize": [0, 20]}, {"standardize": [0, 20], "columns": ["b"]}):
        with pytest.raises(
            UserError, match=r"data\.validation: 'series_csv' scales column '[ab]' otherwise than those trained on; set the same"
        ):
            open_data(train=train, validation=read("s.csv", **further), **knobs)
    for held in (read("s.csv", standardize=[0, 12]), read("other.csv", standardize=[0, 6])):
        assert open_data(train=train, validation=held, **knobs).train


def test_rows_that_scale_and_are_not_there_are_refused(tmp_path: Path) -> None:
    """Nothing was scaled by them, without a word."""
    with pytest.raises(UserError, match=r"s\.csv: no row is in standardize \[30\.?0?, 40\.?0?\]; it has 20 rows"):
        source(written(tmp_path), standardize=[30, 40])


def test_numbers_are_classes_as_they_are_however_they_are_written(tmp_path: Path) -> None:
    written(tmp_path, cells={(t, 3): ("10.0", "2.0", "2", "")[t % 4] for t in range(20)})
    found = source(tmp_path, label="kind", horizon=0)
    assert rows(found)["label"].tolist()[:4] == [-100, 10, 2, 2] and found.classes == 11 and found.names == []
    written(tmp_path, cells={(t, 3): "0.5" if t == 7 else "1" for t in range(20)})
    with pytest.raises(UserError, match=r"s\.csv:9: column 'kind' is 0\.5; classes are whole numbers or words"):
        source(tmp_path, label="kind")


def test_what_is_blank_is_part_of_the_identity(tmp_path: Path) -> None:
    written(tmp_path)
    found = source(tmp_path, missing=0.5)
    assert found.identity == source(tmp_path, missing=0.5, blank=["", "?", "NA", "NaN", "nan", "null"]).identity
    assert found.identity != source(tmp_path, missing=0.5, blank=["3"]).identity
