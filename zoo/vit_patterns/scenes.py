"""Pictures of one patterned silhouette among patterned clutter, drawn from (seed, index).

A scene is vit_shapes' kind made hard: the object is one of its 24 silhouettes and wears one of four
fills (plain, stripes, checks, dots); the class is both. Clutter and occluders wear fills as well.
Every scene has a hardness of its own, which makes the object smaller, paler and more hidden and the
grain stronger, up to where nobody can tell: that is why no model names all of them, and why a small
loss shows in the share it does name.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from edgec.zoo.vit_shapes.scenes import COARSE, NOISE, Parameters, background, developed, grain, silhouette
from edgec.zoo.vit_shapes.silhouettes import CLUTTER, SILHOUETTES, templates

SIDE = 160
CLUTTERS = 5
OCCLUDERS = 3
FILLS = ("plain", "striped", "checked", "dotted")
LABELS: tuple[str, ...] = tuple(f"{fill} {shape}" for shape in SILHOUETTES for fill in FILLS)
"""The classes, in the order of their labels."""

MEAN = 0.5
STD = 0.25

# Seeds of the parts. The parameters are continuous and drawn apart, so no picture comes twice.
TRAINING, HELD_OUT, CALIBRATION = 0, 1, 2


def draw(
    rng: np.random.Generator, count: int, hardness: tuple[float, float] = (0.0, 1.0)
) -> tuple[Parameters, np.ndarray]:
    """Draw the parameters of scenes.

    Args:
        rng: where the draws come from.
        count: number of scenes.
        hardness: the range that each scene's hardness is drawn from evenly.

    Returns:
        float32 and int64 arrays with the batch first (layers run from the farthest to the nearest:
        clutter, object, occluders), and the labels int64 [count].
    """
    labels = rng.integers(len(LABELS), size=count)
    hard = rng.uniform(*hardness, count)
    base = rng.uniform(0.2, 0.8, (count, 3))
    base += 0.6 * (base.mean(axis=1, keepdims=True) - base)
    layers = CLUTTERS + 1 + OCCLUDERS
    shape = (count, layers)

    template = rng.integers(len(SILHOUETTES) + len(CLUTTER), size=shape)
    fill = rng.integers(len(FILLS), size=shape)
    radius = rng.uniform(10.0, 22.0, shape)
    centre = rng.uniform(0.0, SIDE, (*shape, 2))
    turn = rng.uniform(-np.pi, np.pi, shape)
    stretch = rng.uniform(0.8, 1.25, shape)
    # Clutter and occluders are cut by a line through or near their middle: fragments, not wholes.
    cut_angle = rng.uniform(-np.pi, np.pi, shape)
    cut = rng.uniform(-0.1, 0.3, shape)

    middle = CLUTTERS
    size = 52.0 - 22.0 * hard + rng.uniform(-6.0, 6.0, count)
    template[:, middle], fill[:, middle] = np.divmod(labels, len(FILLS))
    radius[:, middle] = size
    centre[:, middle] = 0.8 * size[:, None] + rng.random((count, 2)) * (SIDE - 1.6 * size[:, None])
    turn[:, middle] = rng.uniform(-0.6, 0.6, count)
    cut[:, middle] = 10.0
    # Occluders lie over the outline: bars and blobs.
    over = slice(middle + 1, layers)
    template[:, over] = len(SILHOUETTES) + rng.integers(len(CLUTTER), size=(count, OCCLUDERS))
    reach = size[:, None] * (0.2 + 0.35 * hard[:, None] * rng.random((count, OCCLUDERS)))
    radius[:, over] = reach
    around = rng.uniform(-np.pi, np.pi, (count, OCCLUDERS))
    away = size[:, None] * rng.uniform(0.4, 1.0, (count, OCCLUDERS))
    offset = np.stack([away * np.cos(around), away * np.sin(around)], axis=-1)
    centre[:, over] = centre[:, middle : middle + 1] + offset

    # A layer's colour stands out by `distance`, its fill by `depth`; both pale with hardness.
    distance = rng.uniform(0.3, 0.5, shape) * (1.0 - 0.75 * hard[:, None])
    luminance = base.mean(axis=1)[:, None]
    lighter = np.where(luminance < 0.4, True, np.where(luminance > 0.6, False, rng.random(shape) < 0.5))
    target = luminance + np.where(lighter, distance, -distance)
    tint = rng.uniform(-0.1, 0.1, (*shape, 3)) * (1.0 - 0.7 * hard[:, None, None])
    depth = rng.uniform(0.12, 0.25, shape) * (1.0 - 0.6 * hard[:, None])
    fill_turn = rng.uniform(-np.pi, np.pi, shape)
    waves = rng.uniform(7.0, 11.0, shape) * np.clip(radius / 40.0, 0.3, 1.2)

    cos, sin = np.cos(turn) / radius, np.sin(turn) / radius
    drawn: dict[str, np.ndarray] = {
        "base": base,
        "slope": rng.uniform(-0.15, 0.15, (count, 2)),
        "coarse": rng.uniform(-1.0, 1.0, (count, 3, COARSE, COARSE))
        * rng.uniform(0.02, 0.12, (count, 1, 1, 1)),
        "grain": rng.uniform(0.02, 0.06, count) + 0.26 * hard,
        "centre": centre,
        # Rows of the map from pixels to the template's plane.
        "to_u": np.stack([cos * stretch, sin * stretch], axis=-1),
        "to_v": np.stack([-sin / stretch, cos / stretch], axis=-1),
        "cut": np.stack([np.cos(cut_angle), np.sin(cut_angle), cut], axis=-1),
        "radius": radius,
        "colour": target[..., None] + tint,
        "depth": depth,
        "along": np.stack([np.cos(fill_turn), np.sin(fill_turn)], axis=-1) * waves[..., None],
        "phase": rng.uniform(-np.pi, np.pi, (*shape, 2)),
    }
    parameters: Parameters = {name: array.astype(np.float32) for name, array in drawn.items()}
    parameters["template"] = template
    parameters["fill"] = fill
    parameters["grain_at"] = rng.integers(NOISE, size=(count, 2))
    return parameters, labels


def render(parameters: Parameters, tables: tuple[Any, Any], pixels: Any, xp: ModuleType = np) -> Any:
    """Draw scenes; arguments and result as in `edgec.zoo.vit_shapes.scenes.render`, at this `SIDE`."""
    distances, noise = tables
    canvas = background(parameters, pixels, xp)

    def scalar(values: Any) -> Any:
        return values[:, None, None]

    for layer in range(CLUTTERS + 1 + OCCLUDERS):
        cover, u, v = silhouette(parameters, layer, distances, pixels, xp)
        along = parameters["along"][:, layer]
        phase = parameters["phase"][:, layer]
        one = xp.sin(scalar(along[:, 0]) * u + scalar(along[:, 1]) * v + scalar(phase[:, 0]))
        other = xp.sin(scalar(along[:, 1]) * u - scalar(along[:, 0]) * v + scalar(phase[:, 1]))
        fill = scalar(parameters["fill"][:, layer])
        # Edges a few pixels wide; dots are where both waves are high.
        striped, checked = (4.0 * one).clip(-1, 1), (6.0 * one * other).clip(-1, 1)
        dotted = (4.0 * (one + other - 0.7)).clip(-1, 1)
        wave = (fill == 1) * striped + (fill == 2) * checked + (fill == 3) * dotted
        shade = scalar(parameters["depth"][:, layer]) * wave
        for channel in range(3):
            paint = scalar(parameters["colour"][:, layer, channel]) + shade
            canvas[channel] = canvas[channel] + cover * (paint - canvas[channel])
    return developed(parameters, canvas, noise, pixels, xp)


def scene(seed: int, index: int, hardness: tuple[float, float] = (0.0, 1.0)) -> tuple[np.ndarray, int]:
    """One picture, the same bytes for the same (seed, index).

    Returns:
        uint8 [3, SIDE, SIDE], RGB, and its label.
    """
    parameters, labels = draw(np.random.default_rng([seed, index]), 1, hardness)
    tables = (templates().reshape(-1), grain())
    picture = render(parameters, tables, np.arange(SIDE, dtype=np.float32))
    return picture[0].astype(np.uint8), int(labels[0])


def scenes(
    seed: int, start: int, count: int, hardness: tuple[float, float] = (0.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `start` to `start + count` of a seed, as the model takes them.

    Returns:
        float32 [count, 3, SIDE, SIDE], normalised by `MEAN` and `STD`, and labels int64 [count].
    """
    pictures = np.empty((count, 3, SIDE, SIDE), dtype=np.float32)
    labels = np.empty(count, dtype=np.int64)
    for offset in range(count):
        picture, labels[offset] = scene(seed, start + offset, hardness)
        pictures[offset] = (picture / np.float32(255.0) - np.float32(MEAN)) / np.float32(STD)
    return pictures, labels
