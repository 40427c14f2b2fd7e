"""Shape profiles: one a bucket of sizes, since one wide range makes TensorRT choose for its largest size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from edgec.core.errors import RequestError
from edgec.core.graph import Graph, OpenSize
from edgec.targets.jetson.plan import ShapeProfile, ShapeRange

MOST = 8
"""Profiles of one engine: each is tuned and kept by itself."""

Bucket = tuple[int, int]
"""Smallest and largest size."""


def shape_profiles(graph: Graph) -> tuple[ShapeProfile, ...]:
    """The profiles of a graph; none where every size is fixed.

    Sizes that are listed get a profile each; a range is cut where it doubles. TensorRT tunes a profile for
    its largest size. Where the product over several open sizes passes `MOST`, each has fewer buckets.

    Raises:
        RequestError: an open dimension has no bounds.
    """
    names = sorted({size for spec in graph.inputs for size in spec.shape if isinstance(size, str)})
    if not names:
        return ()
    missing = [name for name in names if name not in graph.open_sizes]
    if missing:
        raise RequestError(
            f"the sizes of {', '.join(missing)} are open, and an engine needs their bounds",
            fix=f"give them with --input, as {missing[0]}=1..128 in its shape, or fix the sizes",
        )
    each = len(names)
    most = MOST
    while most > 1 and most**each > MOST:
        most -= 1
    buckets = {name: _buckets(graph.open_sizes[name], most) for name in names}
    found = []
    for chosen in itertools.product(*(buckets[name] for name in names)):
        sizes = dict(zip(names, chosen, strict=True))
        found.append(ShapeProfile({spec.name: _range(spec.shape, sizes) for spec in graph.inputs}))
    return tuple(found)


def _buckets(size: OpenSize, most: int) -> list[Bucket]:
    if size.choices and len(size.choices) <= most:
        return [(choice, choice) for choice in size.choices]
    edges = [size.high]
    while len(edges) < most and edges[-1] // 2 > size.low:
        edges.append(edges[-1] // 2)
    edges.reverse()
    lows = [size.low, *(edge + 1 for edge in edges[:-1])]
    return list(zip(lows, edges, strict=True))


def _range(shape: tuple[int | str, ...], sizes: Mapping[str, Bucket]) -> ShapeRange:
    low = tuple(size if isinstance(size, int) else sizes[size][0] for size in shape)
    high = tuple(size if isinstance(size, int) else sizes[size][1] for size in shape)
    return ShapeRange(low, high, high)
