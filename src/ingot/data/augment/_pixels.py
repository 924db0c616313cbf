"""Operations on the pixels of one image, (H, W, C) uint8 -> the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GRAY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def gray(image: np.ndarray) -> np.ndarray:
    """The luminance, in every channel."""
    if image.shape[2] == 1:
        return image
    return np.repeat(_bytes(image.astype(np.float32) @ GRAY)[..., None], 3, axis=2)


def blend(image: np.ndarray, other: np.ndarray | float, factor: float) -> np.ndarray:
    """factor of the image and 1 - factor of the other; above 1 it goes away from the other."""
    return _bytes(image.astype(np.float32) * factor + np.asarray(other, dtype=np.float32) * (1 - factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return blend(image, 0.0, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return blend(image, float(gray(image)[..., 0].mean()), factor)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return blend(image, gray(image), factor)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """The colors turned around the gray axis by ``turn`` of a circle (in YIQ space, which keeps the luminance)."""
    if image.shape[2] == 1:
        return image
    angle = 2 * np.pi * turn
    to = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=np.float32)
    spin = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]], dtype=np.float32)
    return _bytes(image.astype(np.float32) @ (np.linalg.inv(to) @ spin @ to).T)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian, cut at three standard deviations, edges repeated."""
    reach = max(1, int(3 * sigma + 0.5))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights.sum()
    result = image.astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(result, [(reach, reach) if axis == at else (0, 0) for at in range(3)], mode="edge")
        result = sum(weight * np.take(padded, range(at, at + image.shape[axis]), axis=axis) for at, weight in enumerate(weights))
    return _bytes(result)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(image >= threshold, 255 - image, image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    return image & np.uint8(256 - (1 << (8 - max(0, min(8, bits)))))


def autocontrast(image: np.ndarray) -> np.ndarray:
    low, high = image.min(axis=(0, 1)).astype(np.float32), image.max(axis=(0, 1)).astype(np.float32)
    return _bytes(np.where(high > low, (image - low) * 255 / np.maximum(high - low, 1), image))


def equalize(image: np.ndarray) -> np.ndarray:
    """Every channel's levels spread evenly."""
    result = np.empty_like(image)
    for channel in range(image.shape[2]):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        before = np.cumsum(counts) - counts
        total = image[..., channel].size - counts[counts.nonzero()[0][-1]]
        table = np.clip(before * 255 / total + 0.5, 0, 255).astype(np.uint8) if total else np.arange(256, dtype=np.uint8)
        result[..., channel] = table[image[..., channel]]
    return result


def affine(image: np.ndarray, matrix: np.ndarray, fill: int = 128) -> np.ndarray:
    """The image through a 2 x 2 matrix and a shift (2, 3), acting on (x, y) around the middle; nearest pixel."""
    H, W, _ = image.shape
    y, x = np.mgrid[:H, :W].astype(np.float32)
    middle = np.array([(W - 1) / 2, (H - 1) / 2], dtype=np.float32)
    places = (
        np.stack([x - middle[0], y - middle[1]], axis=-1) @ matrix[:, :2].T.astype(np.float32) + matrix[:, 2].astype(np.float32) + middle
    )
    column, row = np.rint(places[..., 0]).astype(int), np.rint(places[..., 1]).astype(int)
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
    return np.where(inside[..., None], image[row.clip(0, H - 1), column.clip(0, W - 1)], np.uint8(fill))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return affine(image, np.array([[c, s, 0], [-s, c, 0]]))


def shear(image: np.ndarray, amount: float, axis: int) -> np.ndarray:
    matrix = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    matrix[axis, 1 - axis] = amount
    return affine(image, matrix)


def shift(image: np.ndarray, share: float, axis: int) -> np.ndarray:
    matrix = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    matrix[axis, 2] = share * image.shape[1 - axis]
    return affine(image, matrix)


Operation = Callable[[np.ndarray, float, float], np.ndarray]

# RandAugment's operations: (image, strength from 0 to 1, sign) -> image. Those with "more or less" move by up to 0.9 either way.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, strength, sign: image,
    "autocontrast": lambda image, strength, sign: autocontrast(image),
    "equalize": lambda image, strength, sign: equalize(image),
    "rotate": lambda image, strength, sign: rotate(image, sign * 30 * strength),
    "solarize": lambda image, strength, sign: solarize(image, 256 * (1 - strength)),
    "posterize": lambda image, strength, sign: posterize(image, 8 - round(4 * strength)),
    "color": lambda image, strength, sign: saturation(image, 1 + sign * 0.9 * strength),
    "contrast": lambda image, strength, sign: contrast(image, 1 + sign * 0.9 * strength),
    "brightness": lambda image, strength, sign: brightness(image, 1 + sign * 0.9 * strength),
    "sharpness": lambda image, strength, sign: blend(image, blur(image, 1.0), 1 + sign * 0.9 * strength),
    "shear_x": lambda image, strength, sign: shear(image, sign * 0.3 * strength, 0),
    "shear_y": lambda image, strength, sign: shear(image, sign * 0.3 * strength, 1),
    "shift_x": lambda image, strength, sign: shift(image, sign * 0.45 * strength, 0),
    "shift_y": lambda image, strength, sign: shift(image, sign * 0.45 * strength, 1),
}
