"""Operations on the pixels of one image, (H, W, C) uint8 -> the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GRAY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


LEVELS = np.arange(256, dtype=np.float32)
STARTS = np.arange(3)[:, None] * 256  # of the tables of three channels


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values + np.float32(0.5), np.float32(0)), np.float32(255)).astype(np.uint8)


def luminance(image: np.ndarray) -> np.ndarray:
    """(H, W, 1)."""
    return image if image.shape[2] == 1 else _bytes(image.astype(np.float32) @ GRAY)[..., None]


def gray(image: np.ndarray) -> np.ndarray:
    """The luminance, in every channel."""
    return np.repeat(luminance(image), image.shape[2], axis=2)


def blend(image: np.ndarray, other: np.ndarray | float, factor: float) -> np.ndarray:
    """factor of the image and 1 - factor of the other; above 1 it goes away from the other. One gray level goes through a table, and what
    is the same in all channels has one."""
    if isinstance(other, float):
        return _bytes(LEVELS * np.float32(factor) + np.float32(other * (1 - factor))).take(image)
    return _bytes(image * np.float32(factor) + other * np.float32(1 - factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return blend(image, 0.0, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return blend(image, float(luminance(image).mean()), factor)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return blend(image, luminance(image), factor)


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
        size = image.shape[axis]
        padded = result.take(np.arange(-reach, size + reach).clip(0, size - 1), axis=axis)
        pieces = (padded[at : at + size] if axis == 0 else padded[:, at : at + size] for at in range(len(weights)))
        result = sum(weight * piece for weight, piece in zip(weights, pieces, strict=True))
    return _bytes(result)


def smooth(image: np.ndarray) -> np.ndarray:
    """Every pixel five times beside its eight neighbors, over 13; the edge stays: Pillow's SMOOTH, which its sharpness starts from."""
    wide = image.astype(np.uint16)
    columns = wide[:-2] + wide[1:-1] + wide[2:]
    sums = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + wide[1:-1, 1:-1] * np.uint16(4)
    result = image.copy()
    result[1:-1, 1:-1] = (sums + np.uint16(6)) // np.uint16(13)
    return result


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(threshold <= LEVELS, 255 - LEVELS, LEVELS).astype(np.uint8).take(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    return image & np.uint8(256 - (1 << (8 - max(0, min(8, bits)))))


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Every channel's darkest level becomes 0 and its lightest 255."""
    planes = _planes(image)
    low, high = planes.min(axis=1) % 256, planes.max(axis=1) % 256
    tables = [_bytes((LEVELS - a) * (255 / (b - a)) if b > a else LEVELS) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    return _by_channel(image, planes, np.concatenate(tables))


def equalize(image: np.ndarray) -> np.ndarray:
    """Every channel's levels spread evenly."""
    planes = _planes(image)
    counts = np.bincount(planes.ravel(), minlength=256 * len(planes)).reshape(-1, 256)
    upto = counts.cumsum(axis=1)
    before = upto - counts
    totals = np.where(upto < upto[:, -1:], upto, 0).max(axis=1, keepdims=True)  # of pixels below the lightest level that is there
    tables = np.where(totals > 0, before * 255 / np.maximum(totals, 1), LEVELS)
    return _by_channel(image, planes, _bytes(tables).ravel())


def _planes(image: np.ndarray) -> np.ndarray:
    """(C, H W): levels as places in the tables of all channels, which stand one after another."""
    C = image.shape[2]
    planes = image.reshape(-1, C).T.astype(np.intp, order="C")
    planes += STARTS[:C]
    return planes


def _by_channel(image: np.ndarray, planes: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """The image's planes through their tables of 256 levels."""
    H, W, C = image.shape
    return tables.take(planes).reshape(C, H, W).transpose(1, 2, 0)


def affine(image: np.ndarray, matrix: np.ndarray, fill: int = 128) -> np.ndarray:
    """The image through a 2 x 2 matrix and a shift (2, 3), acting on (x, y) around the middle; nearest pixel."""
    H, W, C = image.shape
    framed = np.full((H + 2, W + 2, C), fill, dtype=np.uint8)  # whatever lies outside is read from the frame
    framed[1:-1, 1:-1] = image
    x, y = np.arange(W, dtype=np.float32) - (W - 1) / 2, np.arange(H, dtype=np.float32) - (H - 1) / 2
    (a, b, right), (c, d, down) = matrix.astype(np.float32).tolist()
    column, row = _along(a, x, b, y, right + (W + 1) / 2), _along(c, x, d, y, down + (H + 1) / 2)
    places = _nearest(row, H + 1) * (W + 2) + _nearest(column, W + 1)
    return framed.reshape(-1, C).take(places, axis=0)


def _along(a: float, x: np.ndarray, b: float, y: np.ndarray, start: float) -> np.ndarray:
    """a x + b y + start, (H, W), or of one column or row where all of them are equal."""
    down = (b * y + start)[:, None] if b else np.float32(start)
    return a * x[None] + down if a else down + np.zeros((1, 1), np.float32)


def _nearest(places: np.ndarray, last: int) -> np.ndarray:
    return np.minimum(np.maximum(np.rint(places), 0), last).astype(np.intp)


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
    "sharpness": lambda image, strength, sign: blend(image, smooth(image), 1 + sign * 0.9 * strength),
    "shear_x": lambda image, strength, sign: shear(image, sign * 0.3 * strength, 0),
    "shear_y": lambda image, strength, sign: shear(image, sign * 0.3 * strength, 1),
    "shift_x": lambda image, strength, sign: shift(image, sign * 0.45 * strength, 0),
    "shift_y": lambda image, strength, sign: shift(image, sign * 0.45 * strength, 1),
}
