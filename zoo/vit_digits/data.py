"""scikit-learn's handwritten digits in three fixed parts.

`load_digits` is the test part of UCI's Optical Recognition of Handwritten Digits (E. Alpaydin and
C. Kaynak, 1998): 1797 images of 8x8, 0 to 16, from 13 writers, one writer's form after the other's.
Each digit's images are shuffled once and dealt out, so every part has every digit and every writer
in the same shares. No held-out image is seen in training; their writers are, as in the usual use of
this set.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgec.core.errors import MissingExtraError

Part = Literal["train", "calibration", "held_out"]

SHARES: dict[Part, tuple[float, float]] = {
    "train": (0.0, 0.7),
    "calibration": (0.7, 0.8),
    "held_out": (0.8, 1.0),
}
"""Where each part begins and ends in a digit's shuffled images."""

SPLIT_SEED = 1998

MEAN = 0.5
STD = 0.5


def members(part: Part, target: np.ndarray) -> np.ndarray:
    """Which images make up a part, in the set's order.

    Args:
        part: the part.
        target: the digit of each image of the whole set.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    first, last = SHARES[part]
    chosen = []
    for digit in range(10):
        images = rng.permutation(np.flatnonzero(target == digit))
        chosen.append(images[round(first * len(images)) : round(last * len(images))])
    return np.sort(np.concatenate(chosen))


def digits(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """One part of the digits.

    Returns:
        images float32 [count, 1, 8, 8], ink scaled to 0..1 and normalised by `MEAN` and `STD`, and
        labels int64 [count], the digit.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "zoo") from error
    stored = load_digits()
    chosen = members(part, stored.target)
    ink = stored.images[chosen].astype(np.float32) / np.float32(16.0)
    images = ((ink - np.float32(MEAN)) / np.float32(STD))[:, None]
    return images, stored.target[chosen].astype(np.int64)
