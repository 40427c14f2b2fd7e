"""The silhouettes that vit_shapes tells apart, as signed distances.

A silhouette is a function of the plane: negative inside, positive outside, about the distance to the
outline. It fits the unit disc roughly; x points right and y down. The distances of box and polygon
follow I. Quilez, "2D distance functions".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]

TEXELS = 256
EXTENT = 1.15
"""Templates span -EXTENT to EXTENT on both axes, over TEXELS samples."""


def disc(radius: float, x: float = 0.0, y: float = 0.0) -> Shape:
    """A disc around (x, y)."""
    return lambda u, v: np.sqrt((u - x) ** 2 + (v - y) ** 2) - radius


def box(half_width: float, half_height: float, x: float = 0.0, y: float = 0.0, turn: float = 0.0) -> Shape:
    """A rectangle around (x, y), turned about the origin by `turn` radians afterwards."""
    cos, sin = math.cos(turn), math.sin(turn)

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        across = np.abs(cos * u + sin * v - x) - half_width
        along = np.abs(cos * v - sin * u - y) - half_height
        outside = np.sqrt(np.maximum(across, 0.0) ** 2 + np.maximum(along, 0.0) ** 2)
        return outside + np.minimum(np.maximum(across, along), 0.0)

    return distance


def polygon(*corners: tuple[float, float]) -> Shape:
    """A simple polygon."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        nearest = np.full(u.shape, np.inf)
        inside = np.zeros(u.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
            edge_x, edge_y = bx - ax, by - ay
            from_x, from_y = u - ax, v - ay
            share = (from_x * edge_x + from_y * edge_y) / (edge_x**2 + edge_y**2)
            share = np.clip(share, 0.0, 1.0)
            gap = (from_x - share * edge_x) ** 2 + (from_y - share * edge_y) ** 2
            nearest = np.minimum(nearest, gap)
            if edge_y != 0.0:
                crosses = (ay > v) != (by > v)
                inside ^= crosses & (u < ax + (v - ay) * edge_x / edge_y)
        return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)

    return distance


def union(*shapes: Shape) -> Shape:
    """What lies in any of the shapes."""
    return lambda u, v: functools.reduce(np.minimum, [shape(u, v) for shape in shapes])


def both(one: Shape, other: Shape) -> Shape:
    """What lies in both."""
    return lambda u, v: np.maximum(one(u, v), other(u, v))


def minus(whole: Shape, *holes: Shape) -> Shape:
    """A shape without others."""
    return lambda u, v: functools.reduce(np.maximum, [whole(u, v)] + [-hole(u, v) for hole in holes])


def star(points: int, inner: float) -> Shape:
    """A star with its first point up."""
    corners = []
    for corner in range(2 * points):
        radius = 1.0 if corner % 2 == 0 else inner
        angle = math.pi * corner / points
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return polygon(*corners)


def _heart() -> Shape:
    corners = []
    for step in range(40):
        angle = 2 * math.pi * step / 40
        x = 16 * math.sin(angle) ** 3
        y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        corners.append((x / 17, -(y + 2.5) / 17))
    return polygon(*corners)


def _gear() -> Shape:
    teeth = [box(0.14, 0.16, 0.0, 0.85, turn=math.pi * tooth / 4) for tooth in range(8)]
    return minus(union(disc(0.75), *teeth), disc(0.32))


def _clover() -> Shape:
    leaves = [
        disc(0.45, 0.52 * math.sin(angle), -0.52 * math.cos(angle) - 0.08)
        for angle in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
    ]
    return union(*leaves, box(0.1, 0.4, 0.0, 0.6))


SILHOUETTES: dict[str, Shape] = {
    "disc": disc(0.9),
    "ring": minus(disc(0.95), disc(0.55)),
    "half disc": both(disc(1.0, 0.0, 0.4), box(1.1, 0.6, 0.0, -0.2)),
    "crescent": minus(disc(0.95), disc(0.8, 0.45, 0.0)),
    "square": box(0.75, 0.75),
    "frame": minus(box(0.8, 0.8), box(0.45, 0.45)),
    "triangle": polygon((0.0, -0.95), (0.9, 0.65), (-0.9, 0.65)),
    "star": star(5, 0.42),
    "burst": star(11, 0.68),
    "cross": union(box(0.27, 0.95), box(0.95, 0.27)),
    "heart": _heart(),
    "arrow": polygon(
        (1.0, 0.0), (0.25, -0.75), (0.25, -0.28), (-1.0, -0.28), (-1.0, 0.28), (0.25, 0.28), (0.25, 0.75)
    ),
    "ell": union(box(0.27, 0.9, -0.4, 0.0), box(0.67, 0.27, 0.0, 0.63)),
    "tee": union(box(0.8, 0.27, 0.0, -0.6), box(0.27, 0.87)),
    "cup": minus(box(0.75, 0.85), box(0.3, 0.75, 0.0, -0.4)),
    "aitch": union(box(0.24, 0.88, -0.55, 0.0), box(0.24, 0.88, 0.55, 0.0), box(0.55, 0.22)),
    "zed": polygon(
        (-0.8, -0.85), (0.8, -0.85), (0.8, -0.4), (-0.15, 0.42),
        (0.8, 0.42), (0.8, 0.85), (-0.8, 0.85), (-0.8, 0.4), (0.15, -0.42), (-0.8, -0.42),
    ),
    "bow": polygon((-0.95, -0.65), (0.0, -0.12), (0.95, -0.65), (0.95, 0.65), (0.0, 0.12), (-0.95, 0.65)),
    "gear": _gear(),
    "drop": union(disc(0.6, 0.0, 0.35), polygon((0.0, -1.0), (0.52, 0.06), (-0.52, 0.06))),
    "clover": _clover(),
    "house": minus(
        union(box(0.68, 0.5, 0.0, 0.4), polygon((0.0, -0.95), (0.95, 0.0), (-0.95, 0.0))),
        box(0.2, 0.35, 0.0, 0.6),
    ),
    "fish": union(
        both(disc(0.9, 0.2, 0.5), disc(0.9, 0.2, -0.5)), polygon((-0.35, 0.0), (-1.0, -0.55), (-1.0, 0.55))
    ),
    "key": union(
        minus(disc(0.48, -0.5, 0.0), disc(0.2, -0.5, 0.0)),
        box(0.5, 0.14, 0.45, 0.0), box(0.1, 0.22, 0.8, 0.25), box(0.1, 0.18, 0.45, 0.22),
    ),
}  # fmt: skip
"""The classes, in the order of their labels."""

CLUTTER: dict[str, Shape] = {"bar": box(0.2, 1.0), "blob": disc(0.9), "slab": box(0.45, 0.9)}
"""Shapes of clutter and occluders beside pieces of the silhouettes."""

LABELS: tuple[str, ...] = tuple(SILHOUETTES)


@functools.cache
def templates() -> np.ndarray:
    """Signed distances of the classes, then of the clutter: float32 [count, TEXELS, TEXELS]."""
    steps = (np.arange(TEXELS) + 0.5) * (2 * EXTENT / TEXELS) - EXTENT
    v, u = np.meshgrid(steps, steps, indexing="ij")
    shapes: Sequence[Shape] = [*SILHOUETTES.values(), *CLUTTER.values()]
    return np.stack([shape(u, v) for shape in shapes]).astype(np.float32)
