r"""Sound as numbers: another rate, mel bands, cepstra. numpy alone; float32 in, float32 out.

S samples   F frames   M bands
"""

from __future__ import annotations

from functools import cache
from math import ceil, gcd
from typing import Literal

import numpy as np

ZEROS, ROLLOFF = 6, 0.99  # zero crossings of the sinc on each side; share of the lower Nyquist frequency that is passed


def resample(x_S: np.ndarray, old: int, new: int) -> np.ndarray:
    r"""The same sound at another rate, band-limited: a sinc under a squared cosine.   J. O. Smith, "Digital Audio Resampling", 2002.

    y[n] = sum_k x[k] h(n / new - k / old)        h(t) = c sinc(c t) cos(pi c t / 12)^2 where |c t| < 6        c = 0.99 min(old, new)
    """
    if old == new:
        return x_S
    old, new = old // gcd(old, new), new // gcd(old, new)
    kernel, width = _kernel(old, new)
    padded = np.pad(x_S, (width, width + old))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + old)[::old]
    return np.ascontiguousarray((windows @ kernel.T).reshape(-1)[: ceil(new * len(x_S) / old)])


@cache
def _kernel(old: int, new: int) -> tuple[np.ndarray, int]:
    cut = min(old, new) * ROLLOFF
    width = ceil(ZEROS * old / cut)
    t = (-np.arange(new)[:, None] / new + np.arange(-width, width + old)[None] / old) * cut
    inside = t.clip(-ZEROS, ZEROS)
    return (np.sinc(inside) * np.cos(inside * np.pi / ZEROS / 2) ** 2 * cut / old).astype(np.float32), width


@cache
def mel_filters(rate: int, size: int, bands: int, kind: Literal["slaney", "kaldi"]) -> np.ndarray:
    """(size / 2 + 1, M) triangles over the bins of a transform of ``size``. slaney: equal areas, from 0 Hz (librosa, Whisper);
    kaldi: peaks of 1, straight in mel, from 20 Hz. Both up to rate / 2."""
    bins = np.arange(size // 2 + 1) * rate / size
    if kind == "kaldi":
        place, edges = _htk(bins), np.linspace(_htk(np.array(20.0)), _htk(np.array(rate / 2)), bands + 2)
    else:
        place, edges = bins, _from_slaney(np.linspace(0.0, float(_slaney(np.array(rate / 2))), bands + 2))
    rising = (place[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - place[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.minimum(rising, falling).clip(min=0)
    if kind == "slaney":
        return (filters * 2 / (edges[2:] - edges[:-2])).astype(np.float32)
    filters[-1] = 0  # Kaldi leaves out the last bin
    return filters.astype(np.float32)


def _htk(f: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(f / 700.0)


def _slaney(f: np.ndarray) -> np.ndarray:
    return np.where(f < 1000, 3 * f / 200, 15 + 27 * np.log(np.maximum(f, 1000) / 1000) / np.log(6.4))


def _from_slaney(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))


def log_mel(x_S: np.ndarray, rate: int, bands: int) -> np.ndarray:
    """(S / hop, M), a frame every 10 ms over 25 ms, as Whisper's (arXiv:2212.04356, section 2.2): log10 of the energy, at most 8 below
    the clip's largest, then (value + 4) / 4."""
    size, hop = rate // 40, rate // 100
    padded = np.pad(x_S, size // 2, mode="reflect" if len(x_S) > size // 2 else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][: len(x_S) // hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    values = np.log10(np.maximum(power @ mel_filters(rate, size, bands, "slaney"), 1e-10))
    return ((np.maximum(values, values.max(initial=-10.0) - 8.0) + 4.0) / 4.0).astype(np.float32)


def kaldi_log_mel(x_S: np.ndarray, rate: int, bands: int = 23) -> np.ndarray:
    """(F, M) log energies as Kaldi takes them: a frame every 10 ms over 25 ms, only whole ones, mean removed, emphasis 0.97, Povey's window."""
    length, hop = rate // 40, rate // 100
    size = 1 << (length - 1).bit_length()
    x_S = np.pad(x_S, (0, max(0, length - len(x_S)))).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(x_S, length)[::hop]
    windows = windows - windows.mean(axis=1, keepdims=True)
    windows = windows - 0.97 * np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85
    power = np.abs(np.fft.rfft(windows * povey, n=size, axis=1)) ** 2
    return np.log(np.maximum(power @ mel_filters(rate, size, bands, "kaldi"), np.finfo(np.float32).eps)).astype(np.float32)


def mfcc(x_S: np.ndarray, rate: int, coefficients: int = 13) -> np.ndarray:
    """(F, 3 x coefficients): Kaldi's cepstra (orthonormal cosines of 23 log energies, lifter 22), their slopes, and the slopes' slopes."""
    energies = kaldi_log_mel(x_S, rate)
    M, n = energies.shape[1], np.arange(coefficients)
    cosines = np.cos(np.pi / M * (np.arange(M)[:, None] + 0.5) * n) * np.where(n, np.sqrt(2 / M), np.sqrt(1 / M))
    cepstra = energies @ cosines * (1 + 11 * np.sin(np.pi * n / 22))
    slopes = deltas(cepstra)
    return np.concatenate([cepstra, slopes, deltas(slopes)], axis=1).astype(np.float32)


def deltas(x_FM: np.ndarray) -> np.ndarray:
    """Slope of a line through five frames; the ends are repeated."""
    padded = np.pad(x_FM, ((2, 2), (0, 0)), mode="edge")
    F = len(x_FM)
    return (2 * (padded[4 : 4 + F] - padded[:F]) + padded[3 : 3 + F] - padded[1 : 1 + F]) / 10
