"""Tables: numbers scaled and categories numbered by training rows, blanks, bad cells, and missing columns by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.open import HeldOutRows, open_data
from ingot.data.source.table_csv import TableCSV

LINES = ["1,red,yes,10", "2,blue,no,20", "?,red,yes,30", "4,?,no,40", "9,green,?,50"]


def written(folder: Path, lines: list[str] = LINES, name: str = "t.csv") -> Path:
    (folder / name).write_text("size,color,good,price\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def source(folder: Path, **knobs: Any) -> Any:
    return spec(
        "data.source", "table_csv", **{"paths": ["t.csv"], "numeric": ["size"], "categorical": ["color"], "label": "good"} | knobs
    ).build(folder=folder)


def rows(found: Any) -> dict[str, np.ndarray]:
    return found.rows(np.arange(len(found)), np.arange(len(found)))


def test_columns_become_numbers(tmp_path: Path) -> None:
    given = rows(source(written(tmp_path), values=["price"]))
    sizes = np.array([1, 2, 4, 9])
    np.testing.assert_allclose(given["numbers"][[0, 1, 3, 4], 0], (sizes - sizes.mean()) / sizes.std(), rtol=1e-6)
    assert given["numbers"][2, 0] == 0 and given["numbers_missing"][:, 0].tolist() == [False, False, True, False, False]
    assert given["categories"][:, 0].tolist() == [3, 1, 3, 0, 2] and given["label"].tolist() == [1, 0, 1, 0, -100]
    assert given["values"][:, 0].tolist() == [10, 20, 30, 40, 50]


def test_a_held_out_part_is_read_as_training_rows_are(tmp_path: Path) -> None:
    written(tmp_path)
    held = source(tmp_path, part=[3, 5], fit=[0, 3])
    given = rows(held)
    np.testing.assert_allclose(given["numbers"][:, 0], (np.array([4, 9]) - 1.5) / 0.5)
    assert given["categories"][:, 0].tolist() == [0, 0]  # blank, and a color that no training row has
    written(tmp_path, ["1.5,red,yes,1"], "u.csv")
    other = rows(source(tmp_path, paths=["u.csv"], like=["t.csv"], fit=[0, 3]))
    assert other["numbers"].tolist() == [[0]] and other["categories"].tolist() == [[2]] and other["label"].tolist() == [1]


def test_bad_cells_are_passed_over_within_the_allowance(tmp_path: Path) -> None:
    written(tmp_path, [*LINES, "six,red,no,60"])
    found = source(tmp_path, skip=0.2)
    assert rows(found)["rows"].tolist() == [0, 1, 2, 3, 4, -1]
    assert "t.csv:7: column 'size' holds 'six', which is no number" in found.notices()[0]["message"]
    with pytest.raises(UserError, match=r"t\.csv:7: column 'size' holds 'six'"):
        rows(source(tmp_path))


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"numeric": ["sise"]}, "t.csv: has no column 'sise'; it has size, color, good, price. Did you mean 'size'"),
        ({"categorical": ["colour"]}, "has no column 'colour'.*Did you mean 'color'"),
        ({"label": "god"}, "has no column 'god'"),
        ({"widest": 3}, "a categorical column has 4 values, the recipe says 3"),
        ({"classes": 1}, "label good has 2 values, the recipe says 1"),
    ],
)
def test_bad_recipes_are_named(tmp_path: Path, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        source(written(tmp_path), **knobs)


def test_adult_reads_whole(shared_data: Path) -> None:
    found = source(shared_data, paths=["tabular/adult.csv"], numeric=["age"], categorical=["workclass", "native_country"], label="income")
    given = rows(found)
    assert len(found) == 32561 and found.classes == 2 and found.widest == 42 and (given["categories"] == 0).any()


def test_a_constant_column_has_no_deviation_though_sums_round() -> None:
    from ingot.data.source._csv import standard

    mean, deviation = standard(np.full((1000, 1), 0.1))
    assert deviation.tolist() == [1.0] and abs(float(mean[0]) - 0.1) < 1e-12


def test_nothing_is_learned_from_rows_that_are_held_out(tmp_path: Path) -> None:
    """Neither scale nor categories; how many categories there may be stays, for models are planned with it."""
    written(tmp_path, [f"{number},c{number},yes,1" for number in range(40)])
    whole = source(tmp_path)
    train, held = (HeldOutRows(source(tmp_path), 0.3, split) for split in ("train", "validation"))
    for side in (train, held):
        assert side.mean[0] == pytest.approx(train.ids.mean()) and side.mean[0] != whole.mean[0]
        assert side.fields() == whole.fields()
    every = [side.rows(np.arange(len(side)), np.arange(len(side))) for side in (train, held)]
    assert (every[0]["categories"] > 0).all() and not every[1]["categories"].any()
    assert float(every[0]["numbers"].mean()) == pytest.approx(0, abs=1e-6)


def opened(folder: Path, *train: dict[str, Any], validation: dict[str, Any] | None = None) -> Any:
    knobs = {"name": "table_csv", "paths": ["t.csv"], "numeric": ["size"], "categorical": ["color"], "label": "good"}
    sources = {name: knobs | changes for name, changes in zip("ab", train)}
    return open_data(
        train=spec("data.source", "mixture", sources=sources),
        validation=None if validation is None else spec("data.source", **(knobs | validation)),
        sequence=8,
        pack=spec("data.pack", "stream"),
        cache=Path("cache"),
        folder=folder,
        seed=0,
    )


def test_tables_that_are_scaled_each_by_its_own_rows_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    written(tmp_path, ["100,green,yes,1", "300,red,no,2"], "u.csv")
    with pytest.raises(UserError, match=r"data\.validation: the columns of 'table_csv' are not scaled and numbered as those trained on"):
        opened(tmp_path, {}, validation={"paths": ["u.csv"]})
    with pytest.raises(UserError, match=r"data\.train: the columns of 'b' .* as those of 'a' are; name the same files in like"):
        opened(tmp_path, {}, {"paths": ["u.csv"]})
    data = opened(tmp_path, {}, {"paths": ["u.csv"], "like": ["t.csv"]}, validation={"paths": ["u.csv"], "like": ["t.csv"]})
    assert data.validation["table_csv"].batch(0, 2)["categories"].ravel().tolist() in ([2, 3], [3, 2])


def test_which_files_rows_come_from_is_part_of_the_identity(tmp_path: Path) -> None:
    written(tmp_path)
    written(tmp_path, ["3,red,no,2"], "u.csv")
    one, other = (source(tmp_path, paths=[name], like=["t.csv", "u.csv"]) for name in ("t.csv", "u.csv"))
    assert one.identity != other.identity


@pytest.mark.parametrize("knob", ["part", "fit"])
def test_rows_that_are_not_there_are_refused(tmp_path: Path, knob: str) -> None:
    """Numbers scaled and categories numbered by no row stayed as they were, without a word."""
    with pytest.raises(UserError, match=rf"t\.csv: no row is in {knob} \[7\.?0?, 9\.?0?\]; it has 5 rows"):
        source(written(tmp_path), **{knob: [7, 9]})


def test_parts_that_end_before_they_begin_are_refused(tmp_path: Path) -> None:
    table = spec("data.source", "table_csv", paths=[], numeric=["size"], part=[0.8, 0.2], fit=[0.5, 0.5])
    assert list(TableCSV.check(table.knobs, {"folder": None})) == [
        "part wants a start below its end, got [0.8, 0.2]",
        "fit wants a start below its end, got [0.5, 0.5]",
    ]
