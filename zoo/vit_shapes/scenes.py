"""Pictures of one silhouette among clutter, drawn from (seed, index).

A scene is a shaded, mottled background; six pieces of clutter, most of them small fragments of the
same silhouettes; the object, 80 to 150 pixels across, anywhere, turned, stretched and of any colour;
and two occluders over its outline. The class is the whole outline's alone: position, colour,
contrast's sign and single fragments say nothing of it. Neighbouring patches of background look
alike, as they do in photographs.

`draw` makes the parameters with numpy; `render` turns parameters into pixels with numpy or torch
arrays alike, so that training on a GPU sees the very pictures that numpy draws.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np

from edgec.zoo.vit_shapes.silhouettes import CLUTTER, EXTENT, LABELS, TEXELS, templates

SIDE = 224
CLUTTERS = 6
OCCLUDERS = 2
COARSE = 8
NOISE = 256

MEAN = 0.5
STD = 0.25

# Seeds of the parts. The parameters are continuous and drawn apart, so no picture comes twice.
TRAINING, HELD_OUT, CALIBRATION, PROBE = 0, 1, 2, 3

Parameters = dict[str, Any]
"""Arrays of numpy or torch, each with the batch first; see `draw`."""


def _recolour(rng: np.random.Generator, luminance: np.ndarray, layers: int) -> np.ndarray:
    """Colours [count, layers, 3] that stand out from backgrounds of the given luminance [count]."""
    shape = (len(luminance), layers)
    distance = rng.uniform(0.3, 0.55, shape)
    below = rng.random(shape) < 0.5
    base = luminance[:, None]
    below = np.where(base - distance < 0.03, False, np.where(base + distance > 0.97, True, below))
    target = np.where(below, base - distance, base + distance)
    return np.clip(target[..., None] + rng.uniform(-0.12, 0.12, (*shape, 3)), 0.0, 1.0)


def draw(rng: np.random.Generator, count: int) -> tuple[Parameters, np.ndarray]:
    """Draw the parameters of scenes.

    Args:
        rng: where the draws come from.
        count: number of scenes.

    Returns:
        float32 and int64 arrays with the batch first (layers run from the farthest to the nearest:
        clutter, object, occluders), and the labels int64 [count].
    """
    labels = rng.integers(len(LABELS), size=count)
    base = rng.uniform(0.15, 0.85, (count, 3))
    base += 0.6 * (base.mean(axis=1, keepdims=True) - base)
    layers = CLUTTERS + 1 + OCCLUDERS
    shape = (count, layers)

    template = rng.integers(len(LABELS) + len(CLUTTER), size=shape)
    radius = rng.uniform(14.0, 30.0, shape)
    centre = rng.uniform(0.0, SIDE, (*shape, 2))
    turn = rng.uniform(-np.pi, np.pi, shape)
    stretch = rng.uniform(0.85, 1.18, shape)
    # Clutter and occluders are cut by a line through or near their middle: fragments, not wholes.
    cut_angle = rng.uniform(-np.pi, np.pi, shape)
    cut = rng.uniform(-0.1, 0.3, shape)
    colour = _recolour(rng, base.mean(axis=1), layers)

    middle = CLUTTERS
    size = rng.uniform(42.0, 76.0, count)
    template[:, middle] = labels
    radius[:, middle] = size
    centre[:, middle] = 0.8 * size[:, None] + rng.random((count, 2)) * (SIDE - 1.6 * size[:, None])
    turn[:, middle] = rng.uniform(-0.45, 0.45, count)
    cut[:, middle] = 10.0
    # Some clutter wears the object's colour, so colour does not single the object out.
    twin = rng.random((count, CLUTTERS)) < 0.35
    colour[:, :middle] = np.where(twin[..., None], colour[:, middle : middle + 1], colour[:, :middle])
    # Occluders lie over the outline: bars and blobs, a quarter to a half of the object's size.
    over = slice(middle + 1, layers)
    template[:, over] = len(LABELS) + rng.integers(len(CLUTTER), size=(count, OCCLUDERS))
    radius[:, over] = size[:, None] * rng.uniform(0.22, 0.45, (count, OCCLUDERS))
    around = rng.uniform(-np.pi, np.pi, (count, OCCLUDERS))
    reach = size[:, None] * rng.uniform(0.5, 1.0, (count, OCCLUDERS))
    offset = np.stack([reach * np.cos(around), reach * np.sin(around)], axis=-1)
    centre[:, over] = centre[:, middle : middle + 1] + offset

    cos, sin = np.cos(turn) / radius, np.sin(turn) / radius
    drawn: dict[str, np.ndarray] = {
        "base": base,
        "slope": rng.uniform(-0.15, 0.15, (count, 2)),
        "coarse": rng.uniform(-1.0, 1.0, (count, 3, COARSE, COARSE))
        * rng.uniform(0.02, 0.12, (count, 1, 1, 1)),
        "grain": rng.uniform(0.0, 0.06, count),
        "centre": centre,
        # Rows of the map from pixels to the template's plane.
        "to_u": np.stack([cos * stretch, sin * stretch], axis=-1),
        "to_v": np.stack([-sin / stretch, cos / stretch], axis=-1),
        "cut": np.stack([np.cos(cut_angle), np.sin(cut_angle), cut], axis=-1),
        "radius": radius,
        "colour": colour,
        "shade": rng.uniform(-0.08, 0.08, shape),
    }
    parameters: Parameters = {name: array.astype(np.float32) for name, array in drawn.items()}
    parameters["template"] = template
    parameters["grain_at"] = rng.integers(NOISE, size=(count, 2))
    return parameters, labels


@functools.cache
def grain() -> np.ndarray:
    """The noise tile that every scene takes its grain from: float32 [NOISE, NOISE], about -1 to 1."""
    return np.random.default_rng(20).normal(0.0, 0.5, (NOISE, NOISE)).astype(np.float32)


def _index(values: Any) -> Any:
    return values.astype(np.int64) if isinstance(values, np.ndarray) else values.long()


def render(parameters: Parameters, tables: tuple[Any, Any], pixels: Any, xp: ModuleType = np) -> Any:
    """Draw scenes.

    Args:
        parameters: what `draw` returned, as arrays of `xp`.
        tables: `templates()` flattened, and `grain()`, as arrays of `xp`.
        pixels: 0 to SIDE - 1 in float32, an array of `xp`.
        xp: `numpy` or `torch`.

    Returns:
        float32 [count, 3, SIDE, SIDE], whole numbers 0 to 255.
    """
    distances, noise = tables
    canvas = background(parameters, pixels, xp)
    for layer in range(CLUTTERS + 1 + OCCLUDERS):
        cover, u, _ = silhouette(parameters, layer, distances, pixels, xp)
        shade = _scalar(parameters["shade"][:, layer]) * u.clip(-1, 1)
        for channel in range(3):
            paint = _scalar(parameters["colour"][:, layer, channel]) + shade
            canvas[channel] = canvas[channel] + cover * (paint - canvas[channel])
    return developed(parameters, canvas, noise, pixels, xp)


def _scalar(values: Any) -> Any:
    return values[:, None, None]


def background(parameters: Parameters, pixels: Any, xp: ModuleType = np) -> list[Any]:
    """A colour, a slope of light and a coarse grid blown up bilinearly.

    Args:
        parameters: `base`, `slope` and `coarse` of `draw`.
        pixels: 0 to the side less 1 in float32, an array of `xp`.
        xp: `numpy` or `torch`.

    Returns:
        a plane [count, side, side] a channel, about 0 to 1.
    """
    side = len(pixels)
    at = pixels * ((COARSE - 1) / (side - 1)) * 0.9999
    low = _index(at)
    share = at - xp.floor(at)
    grid = parameters["coarse"]
    rows = grid[:, :, low] * (1 - share)[:, None] + grid[:, :, low + 1] * share[:, None]
    mottle = rows[:, :, :, low] * (1 - share) + rows[:, :, :, low + 1] * share
    slope = parameters["slope"]
    unit = 2.0 / side
    across, down = pixels[None, None, :], pixels[None, :, None]
    light = _scalar(slope[:, 0]) * (across * unit - 1) + _scalar(slope[:, 1]) * (down * unit - 1)
    return [_scalar(parameters["base"][:, channel]) + mottle[:, channel] + light for channel in range(3)]


def silhouette(
    parameters: Parameters, layer: int, distances: Any, pixels: Any, xp: ModuleType = np
) -> tuple[Any, Any, Any]:
    """Where one layer's shape lies.

    Args:
        parameters: `centre`, `to_u`, `to_v`, `template`, `cut` and `radius` of `draw`.
        layer: which of the layers.
        distances: `templates()` flattened, an array of `xp`.
        pixels: 0 to the side less 1 in float32, an array of `xp`.
        xp: `numpy` or `torch`.

    Returns:
        how much of each pixel it covers, 0 to 1, and the pixel's coordinates u and v in the shape's own
        plane, which it fills from -1 to 1; each [count, side, side].
    """
    texel = TEXELS / (2 * EXTENT)
    x = pixels[None, None, :] - _scalar(parameters["centre"][:, layer, 0])
    y = pixels[None, :, None] - _scalar(parameters["centre"][:, layer, 1])
    u = _scalar(parameters["to_u"][:, layer, 0]) * x + _scalar(parameters["to_u"][:, layer, 1]) * y
    v = _scalar(parameters["to_v"][:, layer, 0]) * x + _scalar(parameters["to_v"][:, layer, 1]) * y
    column = _index(((u + EXTENT) * texel).clip(0, TEXELS - 1))
    row = _index(((v + EXTENT) * texel).clip(0, TEXELS - 1))
    first = _scalar(parameters["template"][:, layer]) * (TEXELS * TEXELS)
    distance = distances[first + row * TEXELS + column]
    cut = parameters["cut"][:, layer]
    beyond = _scalar(cut[:, 0]) * u + _scalar(cut[:, 1]) * v - _scalar(cut[:, 2])
    distance = xp.maximum(distance, beyond)
    return (0.5 - distance * _scalar(parameters["radius"][:, layer])).clip(0, 1), u, v


def developed(parameters: Parameters, canvas: list[Any], noise: Any, pixels: Any, xp: ModuleType = np) -> Any:
    """The planes with grain over them, as whole numbers 0 to 255: float32 [count, channels, side, side].

    Args:
        parameters: `grain` and `grain_at` of `draw`.
        canvas: a plane a channel.
        noise: `grain()`, an array of `xp`.
        pixels: 0 to the side less 1 in float32, an array of `xp`.
        xp: `numpy` or `torch`.
    """
    place = parameters["grain_at"]
    steps = _index(pixels)
    noise_row = (steps[None, :] + place[:, :1]) % NOISE
    noise_column = (steps[None, :] + place[:, 1:]) % NOISE
    rough = noise[noise_row[:, :, None], noise_column[:, None, :]] * _scalar(parameters["grain"])
    picture = xp.stack([plane + rough for plane in canvas], 1)
    return xp.floor((picture * 255.0 + 0.5).clip(0, 255))


def scene(seed: int, index: int) -> tuple[np.ndarray, int]:
    """One picture, the same bytes for the same (seed, index).

    Returns:
        uint8 [3, SIDE, SIDE], RGB, and its label.
    """
    parameters, labels = draw(np.random.default_rng([seed, index]), 1)
    tables = (templates().reshape(-1), grain())
    picture = render(parameters, tables, np.arange(SIDE, dtype=np.float32))
    return picture[0].astype(np.uint8), int(labels[0])


def scenes(seed: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `start` to `start + count` of a seed, as the model takes them.

    Returns:
        float32 [count, 3, SIDE, SIDE], normalised by `MEAN` and `STD`, and labels int64 [count].
    """
    pictures = np.empty((count, 3, SIDE, SIDE), dtype=np.float32)
    labels = np.empty(count, dtype=np.int64)
    for offset in range(count):
        picture, labels[offset] = scene(seed, start + offset)
        pictures[offset] = (picture / np.float32(255.0) - np.float32(MEAN)) / np.float32(STD)
    return pictures, labels
