"""A picture file as a model's input, by what the bundle says of it in `io.json`.

The steps are those of timm's evaluation (`transforms_imagenet_eval` in `timm/data/transforms_factory.py`), in
its order: resize to cover `size / crop_pct`, cut the middle out, scale, take the mean off, divide by std.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.bundle import InputsOutputs, read_arrays
from edgec.core.errors import MissingExtraError, RequestError
from edgec.core.graph import Arrays, TensorSpec

_BYTE = 1 / 255
_MODES = {1: "L", 3: "RGB"}
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Endings of files that are read as pictures."""


def read_feeds(path: Path, io: InputsOutputs) -> Arrays:
    """The feeds that a file holds: a picture's by its ending, else an npz file's.

    Raises:
        RequestError: there is no such file, or it is none of both; or the model takes no picture.
        MissingExtraError: Pillow is not installed.
    """
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return read_picture(path, io.inputs, io.preprocessing)
    return read_arrays(path)


def label_of(scores: np.ndarray, labels: Sequence[str]) -> str | None:
    """The name of the class with the largest score; None where there is not one score for each."""
    return labels[int(scores.argmax())] if labels and scores.size == len(labels) else None


def read_picture(
    path: Path, inputs: Sequence[TensorSpec], preprocessing: Mapping[str, Mapping[str, Any]]
) -> Arrays:
    """The feeds of a model that takes one picture and nothing else.

    Args:
        path: a picture in any format that Pillow reads; it is turned as its EXIF says.
        inputs: the model's inputs.
        preprocessing: of its bundle, by input name.

    Returns:
        the input's array, [N, C, H, W] in its dtype, with the picture in each place of the batch.

    Raises:
        RequestError: the model takes something else, or the file is no picture.
        MissingExtraError: Pillow is not installed.
    """
    spec = inputs[0]
    shape = tuple(1 if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(spec.shape))
    is_fixed = all(isinstance(size, int) for size in shape)
    if len(inputs) != 1 or len(shape) != 4 or not is_fixed or shape[1] not in _MODES:
        raise RequestError(
            f"the model takes {', '.join(f'{one.name} {list(one.shape)}' for one in inputs)}, "
            "and not one picture [N, C, H, W] of 1 or 3 channels",
            where=str(path),
            fix="feed its inputs as an .npz file",
        )
    batch, channels, height, width = map(int, shape)
    declared = preprocessing.get(spec.name, {})
    pixels = _pixels(path, _MODES[channels], height, width, declared)
    planes = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    if spec.dtype != "uint8":
        planes = planes.astype(np.float32) * np.float32(declared.get("scale", _BYTE))
        mean, std = (_of_channels(declared.get(key, default), channels) for key, default in _NEUTRAL)
        planes = (planes - mean) / std
    return {spec.name: np.repeat(planes[None].astype(spec.dtype), batch, axis=0)}


_NEUTRAL = (("mean", 0.0), ("std", 1.0))


def _of_channels(value: Any, channels: int) -> np.ndarray:
    """One number a channel, to be taken off or divided by."""
    numbers = np.asarray(value, np.float32).reshape(-1, 1, 1)
    if len(numbers) not in (1, channels):
        raise RequestError(f"its pre-processing has {len(numbers)} channels, its input {channels}")
    return numbers


def _pixels(path: Path, mode: str, height: int, width: int, declared: Mapping[str, Any]) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("pillow", "pictures") from error
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(
            "is no picture that Pillow reads", where=str(path), fix="feed a picture, or an .npz file"
        ) from error
    name = str(declared.get("interpolation", "bicubic"))
    method = getattr(Image.Resampling, (name if name in _INTERPOLATIONS else "bicubic").upper())
    share = float(declared.get("crop_pct", 1.0))
    tall, wide = math.floor(height / share), math.floor(width / share)
    # transformers squash a picture, and timm where it says so; else it keeps its proportions.
    if declared.get("crop_mode", "squash") != "squash":
        ratio = max(tall / picture.height, wide / picture.width)
        tall = max(tall, int(picture.height * ratio))
        wide = max(wide, int(picture.width * ratio))
    picture = picture.resize((wide, tall), method)
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    return np.asarray(picture.crop((left, top, left + width, top + height)))
