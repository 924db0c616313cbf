"""Rows of similar length stand together: a bijection, found at any place, alike for every rank and micro-batch, with less padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.lengths import known_lengths
from ingot.data.loader import Loader
from ingot.data.open import open_data
from ingot.data.order import POOL, Grouped, Permutation

LENGTHS = np.random.default_rng(0).integers(1, 1000, size=10_000)


def grouped(n: int, group: int = 8) -> Grouped:
    return Grouped(Permutation(n, 3), LENGTHS, group, 5)


@pytest.mark.parametrize("n", [1, 7, 8, 9, POOL * 8, POOL * 8 + 1, 9_000])
def test_every_row_comes_once(n: int) -> None:
    assert np.array_equal(np.sort(grouped(n)(np.arange(n))), np.arange(n))


def test_any_place_is_found_at_once() -> None:
    whole = grouped(9_000)(np.arange(9_000))
    for start in (8_000, 17, 4_000, 0):
        assert np.array_equal(grouped(9_000)(np.arange(start, start + 100)), whole[start : start + 100])


def test_groups_are_alike_and_their_lengths_do_not_rise_with_time() -> None:
    found = LENGTHS[grouped(POOL * 8 * 4)(np.arange(POOL * 8 * 4))].reshape(-1, 8)
    assert (found.max(axis=1) - found.min(axis=1)).mean() < 40  # of 1000; eight at random lie some 780 apart
    mean = found.mean(axis=1)
    assert abs(np.corrcoef(np.arange(len(mean)), mean)[0, 1]) < 0.2


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    def make(bucket: int, **more: Any) -> Any:
        return open_data(
            train=spec("data.source", "synthetic_audio", count=96, seconds=0.4, longest=1.2, vary=0.8),
            sequence=8,
            pack=spec("data.pack", "stream"),
            cache=tmp_path,
            folder=tmp_path,
            seed=1,
            bucket=bucket,
            **more,
        )

    return make


def test_the_same_rows_cut_alike_on_every_rank(opened: Any) -> None:
    data = opened(12).train

    def rows(rank: int, ranks: int, micro: int) -> list[dict[str, torch.Tensor]]:
        loader = Loader(data, start=24, rows_per_step=12, micro_rows=micro, rank=rank, ranks=ranks, prefetch=0)
        return next(loader)

    (whole,) = rows(0, 1, 12)
    parts = [micro for rank in range(2) for micro in rows(rank, 2, 4)]
    assert {part["waveform"].shape[1] for part in parts} == {whole["waveform"].shape[1]}
    real = torch.cat([part["rows"] for part in parts]) >= 0
    for key in ("rows", "waveform", "lengths", "label"):
        assert torch.equal(torch.cat([part[key] for part in parts])[real], whole[key])


def test_nothing_but_padding_is_cut(opened: Any) -> None:
    data, plain = opened(12).train, opened(0).train
    source, sizes = plain.sources["synthetic_audio"], set()
    for start in range(0, 96, 12):
        (batch,) = next(Loader(data, start=start, rows_per_step=12, micro_rows=12, prefetch=0))
        _, _, ids = data.locate(np.arange(start, start + 12))
        wanted = source.rows(ids, np.arange(start, start + 12))
        size = batch["waveform"].shape[1]
        sizes.add(size)
        assert np.array_equal(batch["waveform"].numpy(), wanted["waveform"][:, :size]) and not wanted["waveform"][:, size:].any()
        assert np.array_equal(batch["lengths"].numpy(), wanted["lengths"])
    assert len(sizes) > 1


def test_padding_is_told_and_less(opened: Any) -> None:
    data = opened(12).train
    (line,) = [notice["message"] for notice in data.notices()]
    share, without = (float(word.rstrip("%")) for word in (line.split()[1], line.split()[-2]))
    assert 0 < share < without and data.notices() == []
    assert data.seconds_per_row == pytest.approx(0.4 * (1 - without / 100), rel=1e-2)


def test_lengths_come_from_headers_and_are_kept(tmp_path: Path, sound_folder: Any) -> None:
    source = sound_folder([800, 1600, 8000, 400])
    assert source.lengths().tolist() == [800, 1600, 4000, 400]  # a row holds 4000
    assert known_lengths(source, tmp_path).tolist() == [800, 1600, 4000, 400]
    source.lengths = None  # kept: not asked again
    assert known_lengths(source, tmp_path).tolist() == [800, 1600, 4000, 400]


@pytest.fixture
def sound_folder(tmp_path: Path) -> Any:
    soundfile = pytest.importorskip("soundfile")

    def make(sizes: list[int]) -> Any:
        for number, size in enumerate(sizes):
            soundfile.write(tmp_path / f"{number}.wav", np.full(size, 0.1, dtype=np.float32), 8000)
        (tmp_path / "list.jsonl").write_text("".join(f'{{"audio": "{number}.wav"}}\n' for number in range(len(sizes))))
        return spec("data.source", "audio_manifest", paths=["list.jsonl"], seconds=0.5, rate=8000).build(folder=tmp_path)

    return make


def test_held_out_rows_are_not_among_them(opened: Any) -> None:
    data = opened(8, holdout=0.3).train
    assert len(data.lengths["synthetic_audio"]) == data.rows_per_epoch < 96
    assert np.array_equal(np.sort(data.locate(np.arange(data.rows_per_epoch))[2]), np.arange(data.rows_per_epoch))


def test_refused_where_no_row_knows_its_length(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="how long"):
        open_data(
            train=spec("data.source", "synthetic_images", count=8),
            sequence=8,
            pack=spec("data.pack", "stream"),
            cache=tmp_path,
            folder=tmp_path,
            seed=1,
            bucket=4,
        )
