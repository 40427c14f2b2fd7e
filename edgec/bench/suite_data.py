"""Inputs for the suite's models: their own data where they bring some, else drawn scenes."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from edgec import zoo
from edgec.core.errors import RequestError
from edgec.core.graph import Graph
from edgec.judging.accuracy import EvaluationData

DESCRIPTION = (
    "vit_shapes and minilm calibrate on their own data and are judged on their own held-out data; the timm "
    "models have random weights here, their pictures are drawn scenes (zoo/vit_shapes/scenes.py) brought to "
    "the model's size and normalisation, calibration and held-out ones from seeds of their own, and the "
    "score is the mean cosine to the source"
)

Part = Literal["calibration", "held out"]

SAMPLES = {"calibration": 64, "held out": 48}
"""Scenes drawn for a model without data."""

OWN_SAMPLES = 256
"""Most samples taken of a model's own data."""


def data_of(graph: Graph, name: str, part: Part) -> EvaluationData:
    """Data of a zoo model; the parts share no sample.

    Raises:
        RequestError: the model has no data and takes no pictures.
    """
    draw = zoo.calibration if part == "calibration" else zoo.evaluation
    own = draw(name, count=OWN_SAMPLES)
    if own is not None:
        return EvaluationData(f"zoo:{name}, {part}", own.inputs, own.labels)
    return drawn_scenes(graph, part)


def drawn_scenes(graph: Graph, part: Part) -> EvaluationData:
    """Drawn scenes, brought to the size and the normalisation of a model that takes one picture.

    Raises:
        RequestError: the model takes no pictures of three channels.
    """
    [spec, *others] = graph.inputs
    if others or len(spec.shape) != 4 or spec.shape[1] != 3:
        raise RequestError(f"{graph.source.spec} has no data and takes no pictures")
    from edgec.zoo.vit_shapes import scenes

    seed = scenes.CALIBRATION if part == "calibration" else scenes.HELD_OUT
    pictures, _ = scenes.scenes(seed, 0, SAMPLES[part])
    wanted = graph.preprocessing.get(spec.name, {})
    mean, std = (
        np.reshape(np.asarray(wanted.get(key, default), np.float32), (1, -1, 1, 1))
        for key, default in (("mean", scenes.MEAN), ("std", scenes.STD))
    )
    plain = pictures * np.float32(scenes.STD) + np.float32(scenes.MEAN)
    height, width = (size if isinstance(size, int) else scenes.SIDE for size in spec.shape[2:])
    resized = (_resized(plain, height, width) - mean) / std
    return EvaluationData(f"drawn scenes, {part}", {spec.name: resized.astype(np.float32)}, None)


def _resized(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, corners of pixels aligned; [count, 3, H, W] to [count, 3, height, width]."""
    rows = _places(pictures.shape[2], height)
    columns = _places(pictures.shape[3], width)
    tall = (
        pictures[:, :, rows.low] * (1 - rows.share)[:, None] + pictures[:, :, rows.high] * rows.share[:, None]
    )
    return tall[..., columns.low] * (1 - columns.share) + tall[..., columns.high] * columns.share


@dataclasses.dataclass(frozen=True)
class _Places:
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray


def _places(have: int, want: int) -> _Places:
    at = np.clip((np.arange(want) + 0.5) * have / want - 0.5, 0, have - 1)
    low = np.floor(at).astype(np.int64)
    return _Places(low, np.minimum(low + 1, have - 1), (at - low).astype(np.float32))
