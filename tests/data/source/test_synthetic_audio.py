"""Tones drawn from a seed: words and classes agree, rows repeat, other seeds are other rows of the same words."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec


def test_a_word_is_its_tones() -> None:
    one, other = (
        spec("data.source", "synthetic_audio", count=8, transcripts=True, noise=0.0, speakers=1, seed=seed).build() for seed in (0, 1)
    )
    assert one.words == other.words and one.captions()[5] == one.words[1]
    ids = np.arange(8)
    found, again = one.rows(ids, ids), other.rows(ids, ids)
    assert found["label"].tolist() == [0, 1, 2, 3] * 2 and not np.array_equal(found["waveform"], again["waveform"])
    assert (found["lengths"] > 1000).all() and (found["lengths"] <= 2000).all() and abs(found["waveform"]).max() <= 1
    peaks = [int(np.abs(np.fft.rfft(wave[:300])).argmax()) for wave in found["waveform"]]
    assert all(abs(peaks[at] - peaks[at + 4]) <= 3 for at in range(4)) and len(set(peaks)) > 2
