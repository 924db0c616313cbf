"""What every source of rows gets from its base: purity, views, mixing, threads, holding out, mixtures of other keys."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ingot.build.rows import fields_of
from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.open import HeldOutRows, open_data
from ingot.data.order import seed_of
from ingot.data.rows import Skips
from ingot.data.stream import Stream


def source(**knobs: Any) -> Any:
    return spec("data.source", "synthetic_images", **({"count": 40, "size": 12} | knobs)).build()


def augments(*names: Any) -> list[Any]:
    return [spec("data.augment", name).build() for name in names]


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_augmentation_is_a_function_of_seed_and_row_number() -> None:
    built = source().augmented(augments("pad_crop", "flip", "rand_augment"), 1, seed=3)
    ids, numbers = np.array([5, 6, 5]), np.array([105, 106, 207])
    found = built.rows(ids, numbers)
    assert same(found, built.rows(ids, numbers)) and same({k: v[1:2] for k, v in found.items()}, built.rows(ids[1:2], numbers[1:2]))
    assert not np.array_equal(found["image"][0], found["image"][2])  # another epoch, another look
    assert not np.array_equal(source().augmented(augments("pad_crop", "flip"), 1, seed=4).rows(ids, numbers)["image"], found["image"])


def test_views_differ_and_the_first_is_that_of_one_view() -> None:
    ids = np.arange(8)
    one = source().augmented(augments("pad_crop"), 1, 0).rows(ids, ids)
    two = source().augmented(augments("pad_crop"), 2, 0)
    found = two.rows(ids, ids)
    assert np.array_equal(found["image"], one["image"]) and not np.array_equal(found["image"], found["image_1"])
    assert two.fields()["image_1"] == two.fields()["image"] and set(found) == {*two.fields(), "rows"}


def test_threads_change_nothing() -> None:
    built = source()
    ids = np.arange(40)
    plain = built.rows(ids, ids)
    built.threads = True
    assert same(plain, built.rows(ids, ids))


def test_another_sources_augmentation_is_refused() -> None:
    class Sound:
        reads = "waveform"

    with pytest.raises(UserError, match="changes 'waveform', which this source does not give; it gives image, label"):
        source().augmented([Sound()], 1, 0)


def test_holding_out_splits_rows_and_keeps_what_the_source_says() -> None:
    train, held = (HeldOutRows(source(), 0.3, split) for split in ("train", "validation"))
    assert set(train.ids) | set(held.ids) == set(range(40)) and not set(train.ids) & set(held.ids) and len(held)
    assert held.fields() == source().fields() and held.notices() == []


def test_rows_are_mixed_with_rows_of_their_own_side(tmp_path: Path) -> None:
    data = open_data(
        train=spec("data.source", "synthetic_images", count=40, size=12),
        holdout=0.3,
        sequence=8,
        pack=spec("data.pack", "stream"),
        cache=Path("cache"),
        folder=tmp_path,
        seed=0,
        augment=[spec("data.augment", "mixup")],
    )
    held = next(iter(data.validation.values())).sources["synthetic_images"]
    rows = next(iter(data.train.sources.values()))
    partners: list[int] = []
    read = rows.source.row
    rows.source.row = lambda index: (partners.append(index), read(index))[1]  # the row itself, and the one it is mixed with
    data.train.batch(0, 200)
    assert len(partners) > 200 and not set(partners) & set(held.ids.tolist())


def test_other_keys_say_nothing_in_rows_that_lack_them() -> None:
    class Numbers:
        def __len__(self) -> int:
            return 20

        def fields(self) -> dict[str, Any]:
            from ingot.core.seams import Field

            return {"numbers": Field((2,))}

        def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
            return {"numbers": np.stack([ids + 1, ids + 1], axis=1).astype(np.float32)}

    stream = Stream({"images": source(), "table": Numbers()}, seed=0)
    found = stream.batch(0, 30)
    table = found["source"] == 1
    assert (found["label"][table] == -100).all() and (found["label"][~table] >= 0).all()
    assert table.any() and not table.all() and set(stream.fields()) == {"image", "label", "numbers"}
    assert (
        not found["image"][table].any()
        and not found["numbers"][~table].any()
        and found["numbers"][table].all()
        and found["image"][~table].any()
    )


def test_validation_rows_are_not_augmented(tmp_path: Path) -> None:
    data = open_data(
        train=spec("data.source", "synthetic_images", count=40),
        holdout=0.3,
        sequence=8,
        pack=spec("data.pack", "stream"),
        cache=tmp_path,
        folder=tmp_path,
        seed=0,
        augment=[spec("data.augment", "flip", probability=1.0)],
    )
    plain = spec("data.source", "synthetic_images", count=40).build()
    held = data.validation["synthetic_images"].sources["synthetic_images"]
    ids = np.arange(4)
    assert np.array_equal(held.rows(ids, ids)["image"], plain.rows(held.ids[ids], ids)["image"])
    trained = data.train.sources["synthetic_images"]
    assert np.array_equal(trained.rows(ids, ids)["image"], plain.rows(trained.ids[ids], ids)["image"][..., ::-1])
    unchanged = data.plain["synthetic_images"].sources["synthetic_images"]
    assert np.array_equal(unchanged.rows(ids, ids)["image"], plain.rows(unchanged.ids[ids], ids)["image"])
    assert data.tokenizer is None


def test_sources_that_are_mixed_have_as_many_classes_as_the_one_with_most() -> None:
    """In whatever order they stand, opened or planned."""
    for counts in ((2, 5), (5, 2)):
        specs = {f"of {count}": {"name": "synthetic_images", "count": 20, "classes": count} for count in counts}
        train = spec("data.source", "mixture", sources=specs)
        stream = Stream(train.build(folder=Path()).sources, seed=0)
        planned = fields_of(SimpleNamespace(train=train, sequence=8, augment=[], views=1), Path())  # type: ignore[arg-type]
        assert stream.fields()["label"].values == planned["label"].values == 5


def test_the_allowance_is_said_to_be_of_one_process() -> None:
    """Of what it has met since it started: neither other ranks' rows nor those before a stop are counted."""
    skips = Skips(0.1, 10)
    skips.note(3, "row 3", "broken")
    with pytest.raises(UserError, match=r"row 4: broken; this process has met 2 of 10 rows .* since it started, more than skip allows"):
        skips.note(4, "row 4", "broken")


@pytest.mark.parametrize("allowance", [0.0, 0.1])
def test_a_row_beyond_the_allowance_is_refused_as_often_as_it_is_met(allowance: float) -> None:
    """A loader that reads ahead and is then set elsewhere takes its error along."""
    skips = Skips(allowance, 10)
    for row in range(int(allowance * 10)):
        skips.note(row, f"row {row}", "broken")
    for _ in range(3):
        with pytest.raises(UserError, match="row 4: broken"):
            skips.note(4, "row 4", "broken")
    assert 4 not in skips.found and len(skips.drain()) == int(allowance * 10)


def test_a_look_is_drawn_from_philox_of_seed_and_row() -> None:
    rows = source().augmented([], 1, 5)
    for number, view in ((0, 0), (7, 1), (2**40, 0), (0, 0)):
        key = np.array([seed_of(5, "augment"), number], dtype=np.uint64)
        fresh = np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, view], dtype=np.uint64)))
        draw = rows._draws(number, view)
        assert [draw.integers(9, dtype=np.int32), draw.random(), draw.normal(), *draw.permutation(9)] == [
            fresh.integers(9, dtype=np.int32),
            fresh.random(),
            fresh.normal(),
            *fresh.permutation(9),
        ]


def test_how_many_rows_are_read_before_they_are_augmented_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = source().augmented(augments("rand_augment"), 2, 5)
    numbers = np.arange(20)
    wanted = rows.rows(numbers, numbers)
    monkeypatch.setattr("ingot.data.rows.TOGETHER", 0)
    assert same(rows.rows(numbers, numbers), wanted)
