"""Samples of a torch module: near the user's own example, then as far as its exported graph says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.core.graph import Arrays, OpenSize, TensorSpec
from edgec.frontends.examples import Drawing, count, draw, tame, within
from edgec.frontends.ranges import by_name
from edgec.frontends.samples import Run, Samples, drawn_samples, run_far, with_ends


def near_own(
    specs: Sequence[TensorSpec],
    own: Mapping[str, np.ndarray],
    drawings: Mapping[str, Drawing],
    samples: int,
    seed: int,
    limits: Mapping[str, OpenSize],
) -> list[Arrays]:
    """Drawn feeds near the user's own; the first is that itself where it fits and tells something."""
    near = {name: tame(item) for name, item in drawings.items()}
    drawn = drawn_like(specs, own, near, samples, seed, limits)
    if not drawings and _tells(specs, own):
        drawn[0] = dict(own)
    return drawn


def drawn_like(
    specs: Sequence[TensorSpec],
    own: Mapping[str, np.ndarray],
    drawings: Mapping[str, Drawing],
    samples: int,
    seed: int,
    limits: Mapping[str, OpenSize],
) -> list[Arrays]:
    """Feeds drawn by the drawings, and like the user's own example what has none.

    Args:
        specs: the inputs.
        own: the user's example.
        drawings: how to draw inputs, by name.
        samples: how many feeds.
        seed: of the generator.
        limits: what open sizes may be, by the dimension's name.
    """
    ranges = {**_like(specs, own), **by_name(specs), **drawings}
    return [
        draw(specs, ranges, samples=sample + 1, seed=seed, sizes=_sizes(specs, own, sample, limits))[sample]
        for sample in range(samples)
    ]


def _like(specs: Sequence[TensorSpec], own: Mapping[str, np.ndarray]) -> dict[str, Drawing]:
    """Drawings from the values of the user's own example."""
    return {spec.name: Drawing(like=own[spec.name]) for spec in specs}


def _tells(specs: Sequence[TensorSpec], own: Mapping[str, np.ndarray]) -> bool:
    """Whether the user's own example fits and is more than a placeholder of one value."""
    return fits(specs, own) and all(np.unique(array).size > 1 for array in own.values())


def reaching_far(
    source: Run,
    near: Samples,
    own: Mapping[str, np.ndarray],
    specs: Sequence[TensorSpec],
    known: Mapping[str, Drawing],
    real: str | Path | None,
    samples: int,
    seed: int,
    limits: Mapping[str, OpenSize],
) -> Samples:
    """The samples near the user's own, and in the places behind the first such as reach to the ends.

    Real ones, from what `real` names, stay, and the ends come behind.
    """
    ranges = {**_like(specs, own), **known}
    far = drawn_like(specs, own, known, count(specs, known, samples), seed, limits)
    if real is not None:
        return with_ends(source, near, far, specs, known, real)
    if not known:
        return drawn_samples(near.feeds, near.references, specs, ranges)
    if _tells(specs, own):
        far[0] = near.feeds[0]
    return drawn_samples(*run_far(source, far, near.feeds), specs, ranges)


def _sizes(
    specs: Sequence[TensorSpec], own: Mapping[str, np.ndarray], sample: int, limits: Mapping[str, OpenSize]
) -> dict[str, int]:
    """Sizes of open dimensions: the example's own, then a half and three quarters of it."""
    sizes: dict[str, int] = {}
    for spec in specs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and size not in sizes:
                base = own[spec.name].shape[axis]
                choices = (base, base // 2, base * 3 // 4) if base >= 4 else (3, 2, 4)
                sizes[size] = within(choices[sample % len(choices)], limits.get(size), sample)
    return sizes


def fits(specs: Sequence[TensorSpec], own: Mapping[str, np.ndarray]) -> bool:
    """Whether an example has the inputs' shapes."""
    return all(spec.shape == own[spec.name].shape for spec in specs)
