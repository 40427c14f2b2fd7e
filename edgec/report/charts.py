"""Charts as inline SVG, drawn by hand: no script, no font, no picture from elsewhere.

Every chart stretches to the width it is given and carries no text of its own (a scaled label cannot be
read on a phone): names and figures stand beside it as HTML, so each chart is hidden from screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

_WIDTH = 1000


def _svg(height: int, body: str, css: str) -> Markup:
    # Every text in `body` went through `escape`.
    return Markup(
        f'<svg class="{css}" viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{body}</svg>'
    )


def _rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    place = f'x="{x:.2f}" y="{y:g}" width="{max(width, 0):.2f}" height="{height:g}"'
    return f'<rect {place} class="{css}">{inside}</rect>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.2f}" y1="{y1:g}" x2="{x2:.2f}" y2="{y2:g}" class="{css}"/>'


def bar(value: float, largest: float, css: str = "") -> Markup:
    """A horizontal bar: `value` of `largest`."""
    width = _WIDTH * value / largest if largest > 0 else 0
    return _svg(10, _rect(0, 0, width, 10, f"fill {css}".strip()), "bar")


def spread_bar(
    p50: float, p90: float | None, blocks: Sequence[float], largest: float, css: str = ""
) -> Markup:
    """A bar up to the median, a whisker over the range of the blocks' medians, a tick at the 90th percentile.

    Args:
        p50: where the bar ends.
        p90: where the tick stands.
        blocks: medians of the blocks; the whisker goes from the least to the greatest.
        largest: the value at the right edge; a tick beyond it is left out.
        css: class of the bar.
    """
    scale = _WIDTH / largest if largest > 0 else 0
    parts = [_rect(0, 3, p50 * scale, 14, f"fill {css}".strip())]
    if blocks:
        low, high = min(blocks) * scale, max(blocks) * scale
        parts.append(_line(low, 10, high, 10, "whisker"))
        parts += [_line(x, 6, x, 14, "whisker") for x in (low, high)]
    if p90 is not None and p90 <= largest:
        parts.append(_line(p90 * scale, 1, p90 * scale, 19, "tick"))
    return _svg(20, "".join(parts), "spread")


def strip(parts: Sequence[tuple[float, str, str]]) -> Markup:
    """One strip cut in proportion, in order.

    Args:
        parts: size, class and title of each part.
    """
    whole = sum(size for size, _, _ in parts)
    position, drawn = 0.0, []
    for size, css, title in parts:
        width = _WIDTH * size / whole if whole > 0 else 0
        # The gap keeps neighbours of one colour apart; a part too thin for it goes without.
        drawn.append(_rect(position, 0, width - (0.8 if width > 2.4 else 0), 36, f"fill {css}", title))
        position += width
    return _svg(36, "".join(drawn), "strip")


def headroom(value: float, bound: float) -> Markup:
    """A difference against its bound: eight decades, logarithmic, up to ten times the bound."""
    decades = 8
    right = math.log10(bound) + 1

    def position(figure: float) -> float:
        if figure <= 0:
            return 0.0
        if not math.isfinite(figure):
            return float(_WIDTH)
        return min(max((math.log10(figure) - right + decades) / decades, 0.0), 1.0) * _WIDTH

    limit = position(bound)
    parts = [
        _rect(0, 4, limit, 6, "room"),
        _rect(limit, 4, _WIDTH - limit, 6, "over"),
        _rect(0, 4, position(value), 6, "fill good" if value <= bound else "fill bad"),
        _line(limit, 0, limit, 14, "tick"),
    ]
    return _svg(14, "".join(parts), "headroom")


def histogram(counts: Sequence[int]) -> Markup:
    """Bars side by side, as high as their counts."""
    height, most = 90, max(counts, default=0)
    width = _WIDTH / max(1, len(counts))
    bars = []
    for place, count in enumerate(counts):
        tall = round(height * count / most, 2) if most else 0
        bars.append(_rect(place * width, height - tall, width - 2, tall, "fill", f"{count}"))
    return _svg(height, "".join(bars), "histogram")


def frontier(points: Sequence[tuple[float, float, str, str]]) -> Markup:
    """Latency to the right from 0, score upwards: a dot a point, and the steps that nothing measured beats.

    Args:
        points: latency, score, class and title of each, fastest first.
    """
    height, margin = 220, 14
    longest = max((latency for latency, _, _, _ in points), default=1.0)
    scores = [score for _, score, _, _ in points] or [0.0]
    low, high = min(scores), max(scores)

    def place(latency: float, score: float) -> tuple[float, float]:
        up = (score - low) / (high - low) if high > low else 0.5
        return (
            margin + latency / longest * (_WIDTH - 2 * margin),
            height - margin - up * (height - 2 * margin),
        )

    steps: list[str] = []
    best = None
    for latency, score, _, _ in points:
        if best is None or score > best:
            x, y = place(latency, score)
            if best is not None:
                steps.append(f"{x:.2f},{place(latency, best)[1]:.2f}")
            steps.append(f"{x:.2f},{y:.2f}")
            best = score
    drawn = [_line(margin, height - 1, _WIDTH - margin, height - 1, "axis")]
    drawn.append(f'<polyline points="{" ".join(steps)}" class="steps"/>')
    for latency, score, css, title in points:
        x, y = place(latency, score)
        # A line of no length with a round end stays round however the chart is stretched.
        drawn.append(
            f'<line x1="{x:.2f}" y1="{y:.2f}" x2="{x:.2f}" y2="{y:.2f}" class="{f"dot {css}".strip()}">'
            f"<title>{escape(title)}</title></line>"
        )
    return _svg(height, "".join(drawn), "frontier")
