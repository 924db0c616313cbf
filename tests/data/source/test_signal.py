"""Mel bands and cepstra against transformers' formulas; a resampled tone against the same tone drawn at the other rate."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.data.source._signal import deltas, kaldi_log_mel, log_mel, mel_filters, mfcc, resample

utils = pytest.importorskip("transformers.audio_utils")
SOUND = (np.random.default_rng(0).normal(size=8000) * 0.1 + 0.4 * np.sin(np.arange(8000) * 0.3)).astype(np.float32)


def test_whispers_bands() -> None:
    feature = pytest.importorskip("transformers").WhisperFeatureExtractor(chunk_length=1)
    long = np.tile(SOUND, 2)
    wanted = feature(long, sampling_rate=16000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(log_mel(long, 16000, 80).T, wanted, atol=1e-4)


def test_kaldis_bands_and_cepstra() -> None:
    filters = utils.mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=23,
        min_frequency=20,
        max_frequency=8000,
        sampling_rate=16000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    np.testing.assert_allclose(mel_filters(16000, 512, 23, "kaldi")[:-1], filters[:-1], atol=1e-5)
    window = utils.window_function(400, "povey", periodic=False)
    wanted = utils.spectrogram(
        SOUND,
        window,
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=float(np.finfo(np.float32).eps),
        remove_dc_offset=True,
    ).T
    found = kaldi_log_mel(SOUND, 16000)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    from scipy.fft import dct

    cepstra = dct(wanted, type=2, norm="ortho", axis=1)[:, :13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
    np.testing.assert_allclose(mfcc(SOUND, 16000)[:, :13], cepstra, atol=2e-2)


def test_slopes_of_a_line() -> None:
    line = 3.0 * np.arange(9)[:, None] + 1
    assert np.allclose(deltas(line)[2:-2], 3.0)


@pytest.mark.parametrize(("old", "new"), [(8000, 16000), (44100, 16000), (16000, 8000)])
def test_a_resampled_tone(old: int, new: int) -> None:
    def tone(rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * 700 * np.arange(rate // 4) / rate).astype(np.float32)

    found = resample(tone(old), old, new)
    assert len(found) == new // 4
    np.testing.assert_allclose(found[200:-200], tone(new)[200:-200], atol=6e-3)
    high = np.sin(2 * np.pi * 7000 * np.arange(4000) / 16000).astype(np.float32)
    assert abs(resample(high, 16000, 8000)[100:-100]).max() < 0.02  # what the lower rate cannot hold is left out
