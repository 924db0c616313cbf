"""What every augmentation keeps: drawn from its generator alone, the row itself untouched, values of the kind that was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.core.resolve import spec

SLOTS = ["data.augment"]

# What a row holds under the keys that augmentations change, as a source reads it.
VALUES: dict[str, Any] = {
    "waveform": np.random.default_rng(1).normal(size=400).astype(np.float32),
    "frames": np.random.default_rng(2).normal(size=(40, 30)).astype(np.float32),
    "latent_image": np.random.default_rng(3).normal(size=8).astype(np.float32),
    "image": np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8),
}

# What gives such rows; the sounds are longer than a row.
SOURCES: dict[str, Any] = {
    "image": ("synthetic_images", {"size": 12}),
    "waveform": ("synthetic_audio", {"longest": 2.0}),
    "frames": ("synthetic_audio", {"mels": 8}),
}


def key_of(case: Any) -> str:
    """What it changes; one that does not say so changes latents, which only an annotator gives."""
    return case.target.reads or "latent_image"


def value_of(case: Any) -> Any:
    if key_of(case) not in VALUES:
        pytest.fail(f"data.augment {case.name!r} changes {key_of(case)!r}: add such a value to VALUES of {__file__}")
    return VALUES[key_of(case)]


def applied(case: Any, seed: int) -> Any:
    part, draw = case.build(), np.random.default_rng(seed)
    value = value_of(case)
    if getattr(part, "mixes", False):
        key = key_of(case)
        row = {key: np.ascontiguousarray(value.transpose(2, 0, 1)) if value.ndim == 3 else value, "label": 1}
        other = {key: (255 if value.ndim == 3 else 1) - row[key], "label": 2}
        return part.mix(row, other, draw)[key]
    return part(value, draw)


def test_is_a_function_of_the_value_and_the_generator(case: Any) -> None:
    kept, state = value_of(case).copy(), np.random.get_state()[1].copy()
    looks = [applied(case, seed) for seed in range(30)]
    assert all(np.array_equal(look, applied(case, seed)) for seed, look in enumerate(looks))
    assert np.array_equal(kept, value_of(case)) and np.array_equal(state, np.random.get_state()[1])
    assert all(look.dtype == kept.dtype for look in looks) and len({look.tobytes() for look in looks}) > 1


def test_a_whole_source_goes_through_it(case: Any) -> None:
    reads = case.target.reads
    if reads not in SOURCES:
        pytest.skip(f"its source gives {reads}")
    name, knobs = SOURCES[reads]
    source = spec("data.source", name, count=16, **knobs).build()
    part = case.build()
    augmented = source.augmented([part], 1, seed=1)
    ids = np.arange(16)
    found = augmented.rows(ids, ids)
    assert found[reads].shape == source.rows(ids, ids)[reads].shape and set(found) - {"rows"} == set(augmented.fields())
    assert not np.array_equal(found[reads], source.rows(ids, ids)[reads])
