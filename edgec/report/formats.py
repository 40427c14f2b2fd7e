"""Numbers as readers of the report see them."""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = "–"


def milliseconds(value: float | None) -> str:
    """A latency in milliseconds with three significant digits, without its unit."""
    return NONE if value is None else _digits(value)


def microseconds(value: float) -> str:
    """A layer time in microseconds, without its unit."""
    return f"{value:,.0f}" if value >= 100 else _digits(value)


def ratio(value: float | None) -> str:
    """A ratio of latencies: `0.69`."""
    return NONE if value is None else f"{value:.2f}"


def between(interval: Sequence[float] | None) -> str:
    """Where a median lies: `12.1 to 12.4`, without its unit."""
    return NONE if interval is None else " to ".join(_digits(end) for end in interval)


def share(value: float | None) -> str:
    """A fraction of 1 as per cent: `12 %`, `1.3 %`."""
    if value is None:
        return NONE
    percent = value * 100
    return f"{percent:.0f} %" if abs(percent) >= 10 else f"{percent:.1f} %"


def score(value: float, metric: str) -> str:
    """A score: an accuracy as `97.78 %`, a mean cosine as `0.99998`."""
    return cosine(value) if "cosine" in metric else f"{value * 100:.2f} %"


def drop(value: float, metric: str) -> str:
    """A drop of a score, negative where it is a gain: `0.28 points`, `−0.28 points`; `2e-5` of a cosine."""
    if "cosine" in metric:
        return small(value)
    text = f"{value * 100:.2f}"
    return f"{'0.00' if text == '-0.00' else text.replace('-', '−')} points"


def small(value: float) -> str:
    """A difference: `3.1e-6`."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def cosine(value: float) -> str:
    """A cosine with as many nines as it has, nine at most: `0.9999997`; 1 only where nothing is missing."""
    gap = 1 - value
    if gap <= 0:
        return "1"
    decimals = min(max(4, math.ceil(-math.log10(gap)) + 1), 9)
    # Cut, not rounded: a rounded 0.99999997 would claim nines that are not there.
    return f"{math.floor(value * 10**decimals) / 10**decimals:.{decimals}f}".rstrip("0")


def count(value: int | None) -> str:
    """A large count: `5.72 M`."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{_digits(value / size)} {unit}"
    return str(value)


def shape(sizes: list[int | str]) -> str:
    """A tensor's shape: `1 × 3 × 224 × 224`; `scalar` where it has no dimension."""
    return " × ".join(str(size) for size in sizes) or "scalar"


def plural(number: int, noun: str) -> str:
    """`1 layer`, `12 layers`, `2 near misses`."""
    many = f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = min(max(2 - math.floor(math.log10(abs(value))), 0), 4)
    return f"{value:,.{decimals}f}"
