"""Samples that take every side of every branch, as far as drawing finds them."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence

import numpy as np

from edgec.core.branches import Branches, Path
from edgec.core.graph import Arrays, Graph, TensorSpec
from edgec.frontends.conditions import Conditions, has_conditions
from edgec.frontends.samples import run_far

_logger = logging.getLogger("edgec.frontends")

_ORDINARY = 32
"""Ordinary inputs that tell how often each path is taken."""

_TRIES = 160
"""Changed inputs that are tried for a side that none has taken."""

_WAYS = 48
"""Changed inputs that are tried where every side is taken, for other paths: they differ in latency."""

_MOST = 8
"""Samples that are added at most, besides those that a side needs."""

Drawn = Callable[[int], list[Arrays]]
"""Ordinary inputs by a seed."""


def covering(graph: Graph, drawn: Drawn, seed: int) -> Graph:
    """The graph with samples added until every side of every `If` is taken, or tries run out.

    The search starts from the samples and keeps what takes a new path to change it further (as fuzzers do
    that are guided by coverage); half of its tries start from the input whose condition is nearest to
    being decided otherwise.

    Args:
        graph: a frontend's graph; its source must run.
        drawn: draws ordinary inputs.
        seed: of the search.
    """
    if graph.run_source is None or not has_conditions(graph.model):
        return graph
    try:
        conditions = Conditions(graph.model)
        search = _Search(conditions, graph, seed)
    except Exception as error:  # ONNX Runtime's own classes
        _logger.debug("the branches cannot be followed", exc_info=error)
        note = "Which branches the samples take could not be seen: ONNX Runtime cannot run them apart."
        notes = (*graph.source.notes, note)
        return dataclasses.replace(graph, source=dataclasses.replace(graph.source, notes=notes))
    ordinary = [feeds for number in range(_ORDINARY) for feeds in drawn(seed + 1 + number)[:1]]
    paths = [path for feeds in ordinary if (path := search.offer(feeds)) is not None]
    for _ in range(_TRIES):
        if search.tried >= _ORDINARY + _WAYS and not search.missed():
            break
        search.offer(search.changed(ordinary))
    taken = [search.paths[place] for place in range(len(graph.examples))]
    counts = collections.Counter(paths or taken)
    branches = Branches(conditions.sites, conditions.follow, {}, search.tried)
    shares = {branches.said(path): count / counts.total() for path, count in counts.items()}
    return dataclasses.replace(
        graph,
        examples=[*graph.examples, *search.feeds],
        references=[*graph.references, *search.references],
        branches=dataclasses.replace(branches, shares=shares),
    )


class _Search:
    """Inputs by the path that they take.

    Attributes:
        tried: how many inputs were followed besides the samples.
        paths: those of the samples, then those of the inputs kept.
        feeds: the inputs kept.
        references: the source's outputs on them.
    """

    def __init__(self, conditions: Conditions, graph: Graph, seed: int) -> None:
        self._conditions, self._specs = conditions, graph.inputs
        self._generator = np.random.default_rng([seed, 1])
        self.tried = 0
        self._pool: list[Arrays] = []
        self.paths: list[Path] = []
        self._sides: set[tuple[int, int]] = set()
        self._nearest: dict[int, tuple[float, Arrays]] = {}
        assert graph.run_source is not None
        self._run, self._typical = graph.run_source, graph.references[0]
        self.feeds: list[Arrays] = []
        self.references: list[Arrays] = []
        for feeds in graph.examples:
            path, margins = conditions.measured(feeds)
            self._take(feeds, path, margins)

    def _take(self, feeds: Arrays, path: Path, margins: Sequence[float]) -> None:
        self._pool.append(feeds)
        self.paths.append(path)
        self._sides |= _sides(path)
        self._note(feeds, margins)

    def _note(self, feeds: Arrays, margins: Sequence[float]) -> None:
        for place, margin in enumerate(margins):
            if margin < self._nearest.get(place, (np.inf, feeds))[0]:
                self._nearest[place] = margin, feeds

    def missed(self) -> list[int]:
        """Places of which a side is not taken."""
        return [
            place
            for place, site in enumerate(self._conditions.sites)
            if site.kind == "If" and not {(place, 0), (place, 1)} <= self._sides
        ]

    def offer(self, feeds: Arrays) -> Path | None:
        """Follow an input, and keep it where its path is new; None where the model refuses it."""
        self.tried += 1
        try:
            path, margins = self._conditions.measured(feeds)
        except Exception:  # what a graph refuses takes no path
            return None
        needed = not _sides(path) <= self._sides
        if needed or (path not in self.paths and len(self.feeds) < _MOST):
            answered, outputs = run_far(self._run, [feeds], [], self._typical)
            if answered:
                self._take(feeds, path, margins)
                self.feeds += answered
                self.references += outputs
        self._note(feeds, margins)
        return path

    def changed(self, ordinary: Sequence[Arrays]) -> Arrays:
        """An input changed in some of its arrays: far where any may do, a little near a condition's edge."""
        draw = self._generator
        near = [self._nearest[place] for place in self.missed() if place in self._nearest]
        directed = bool(near) and draw.random() < 0.5
        base = near[draw.integers(len(near))][1] if directed else self._pool[draw.integers(len(self._pool))]
        others = [*self._pool, *ordinary]
        other = others[draw.integers(len(others))]
        chosen = [spec for spec in self._specs if draw.random() < 0.7] or list(self._specs)
        return {
            **base,
            **{spec.name: _changed(spec, base[spec.name], other[spec.name], draw) for spec in chosen},
        }


def _sides(path: Path) -> set[tuple[int, int]]:
    return {(place, side) for place, decided in enumerate(path) for side in decided}


def _changed(spec: TensorSpec, array: np.ndarray, other: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        return _changed_integers(spec, array, other, draw)
    how = draw.integers(6)
    if how == 0:
        changed = array * (draw.choice([-1.0, 1.0]) * 2.0 ** draw.uniform(-4, 5))
    elif how == 1:
        # Means of their own along one axis: gates look at what is pooled over the others.
        kept = int(draw.integers(array.ndim)) if array.ndim else 0
        sizes = [size if axis == kept else 1 for axis, size in enumerate(array.shape)]
        changed = array + draw.normal(0, draw.choice([1.0, 3.0, 10.0]), sizes)
    elif how == 2:
        changed = array + draw.choice([-1.0, 1.0]) * 10.0 ** draw.uniform(-1, 2)
    elif how == 3 and other.shape == array.shape:
        share = draw.uniform(-1, 2)
        changed = share * array + (1 - share) * other
    elif how == 4:
        changed = np.where(draw.random(array.shape) < 0.05, 10.0 ** draw.uniform(0, 2), array)
    else:
        changed = other
    return np.asarray(changed).astype(array.dtype)


def _changed_integers(
    spec: TensorSpec, array: np.ndarray, other: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """Another input's values, one of them everywhere, its ends, or where both are mixed: all are possible."""
    values = np.concatenate([array.reshape(-1), other.reshape(-1)])
    if not values.size:
        return array
    if array.dtype == np.bool_ or spec.semantics == "mask":
        values = np.array([0, 1], array.dtype)
    how = draw.integers(4)
    if how == 0:
        return np.full_like(array, draw.choice(values))
    if how == 1:
        return np.full_like(array, draw.choice([values.min(), values.max()]))
    if how == 2 and other.shape == array.shape:
        return np.where(draw.random(array.shape) < 0.5, array, other)
    return draw.choice(values, array.shape).astype(array.dtype)
