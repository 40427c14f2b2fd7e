"""Requests as rows of one run: which models take them so, and how many rows a run is best given."""

from __future__ import annotations

import dataclasses
import time
from typing import Callable, Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]

MOST = 32
"""Rows that a run is given at most where the model leaves it open."""

_GAIN = 0.95
"""A larger run is taken where a row costs at most this share of what it costs in the smaller one."""

_LONGEST_TRIAL = 0.5
"""Seconds of a run after which no larger one is tried."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """How requests share a run: along the first axis of every input and output.

    Attributes:
        most: rows of a run at most.
        is_fixed: whether a run always has `most` rows; what is missing is filled up.
    """

    most: int
    is_fixed: bool

    def together(self, requests: Sequence[Arrays]) -> Arrays:
        """The requests' arrays under each other, filled up with the last row where the size is fixed."""
        joined = {}
        for name in requests[0]:
            arrays = [request[name] for request in requests]
            missing = self.most - sum(map(len, arrays)) if self.is_fixed else 0
            if missing:
                arrays.append(np.repeat(arrays[-1][-1:], missing, axis=0))
            joined[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return joined


def rows_of(feeds: Arrays) -> int:
    """Rows of a request."""
    return len(next(iter(feeds.values())))


def taken_apart(outputs: Arrays, counts: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Each request's own rows, as views."""
    parts, start = [], 0
    for count in counts:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return parts


def common_axis(shapes: Sequence[Sequence[int | str]]) -> int | str | None:
    """What the first axis of all inputs and outputs is: one open size, or one size of at least 2, or None."""
    firsts = {shape[0] if len(shape) else 1 for shape in shapes}
    if len(firsts) != 1:
        return None
    [first] = firsts
    return first if isinstance(first, str) or first > 1 else None


def independent(
    run: Run, samples: Sequence[Arrays], is_fixed: bool, agree: Callable[[Arrays, Arrays], bool]
) -> bool:
    """Whether a row's outputs are the same in any company, as tried on samples.

    An axis of one size need not be a batch: rows may be the tokens of one text, or be scaled by one maximum.
    So the samples are run in other company and in other places, and must give what they gave before.

    Args:
        run: the model.
        samples: inputs by name, each of at least one row.
        is_fixed: whether every run must have the samples' own number of rows.
        agree: whether outputs are the same, as far as the model's own tolerance tells.
    """
    alone = [run(sample) for sample in samples]
    if is_fixed:
        for sample, outputs in zip(samples, alone):
            turned = {name: array[::-1].copy() for name, array in sample.items()}
            if not agree(run(turned), {name: array[::-1] for name, array in outputs.items()}):
                return False
            half = (rows_of(sample) + 1) // 2
            kept = {name: array.copy() for name, array in sample.items()}
            for array in kept.values():
                array[half:] = array[:1]
            first = {name: array[:half] for name, array in run(kept).items()}
            if not agree(first, {name: array[:half] for name, array in outputs.items()}):
                return False
        return True
    one, last = samples[0], samples[-1]
    if any(one[name].shape[1:] != last[name].shape[1:] for name in one):
        last = one
    counts = [rows_of(last), rows_of(one)]
    both = Rows(sum(counts), is_fixed=False).together([last, one])
    in_company = taken_apart(run(both), counts)
    return agree(in_company[1], alone[0]) and agree(in_company[0], run(last))


def best_size(run: Run, sample: Arrays, most: int = MOST) -> int:
    """The rows of a run that make a row cheapest: the smallest size that no larger one beats by much.

    Sizes double from 1; each is run until three runs or half a second are over, and the shortest counts.

    Args:
        run: the model.
        sample: inputs by name; its first row is repeated.
        most: the largest size that is tried.
    """
    best, best_cost, size = 1, float("inf"), 1
    while size <= most:
        feeds = {name: np.repeat(array[:1], size, axis=0) for name, array in sample.items()}
        try:
            shortest = _shortest(run, feeds)
        except Exception:  # an engine says in classes of its own that it does not take so many
            break
        if shortest / size < _GAIN * best_cost:
            best, best_cost = size, shortest / size
        if shortest > _LONGEST_TRIAL:
            break
        size *= 2
    return best


def _shortest(run: Run, feeds: Arrays) -> float:
    run(feeds)
    times: list[float] = []
    while len(times) < 3 and sum(times) < _LONGEST_TRIAL:
        started = time.perf_counter()
        run(feeds)
        times.append(time.perf_counter() - started)
    return min(times)


def planned(
    shapes: Sequence[Sequence[int | str]],
    run: Run,
    samples: Sequence[Arrays],
    agree: Callable[[Arrays, Arrays], bool],
) -> Rows | None:
    """How requests share runs of a model; None where they must not, or gain nothing by it.

    Args:
        shapes: of all inputs and outputs; a text is an open size.
        run: the model.
        samples: inputs by name.
        agree: as for `independent`.
    """
    axis = common_axis(shapes)
    if axis is None or not samples or not all(rows_of(sample) for sample in samples):
        return None
    is_fixed = isinstance(axis, int)
    try:
        if not independent(run, samples, is_fixed, agree):
            return None
    except Exception:  # an engine says in classes of its own that it takes no other size
        return None
    size = axis if isinstance(axis, int) else best_size(run, samples[0])
    return Rows(size, is_fixed) if size > 1 else None
