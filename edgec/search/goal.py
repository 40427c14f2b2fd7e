"""What a search is to reach, and what to say where nothing does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edgec.core.errors import JobError
from edgec.search.trials import Trial


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is wanted; one of the two at least.

    Attributes:
        max_drop: the largest drop of the score, as a fraction; the fastest such point is wanted where no
            latency is.
        milliseconds: the largest latency; the most accurate such point is wanted.
    """

    max_drop: float | None = None
    milliseconds: float | None = None

    def keeps_drop(self, point: Trial) -> bool:
        """Whether a point's drop is allowed, a standard error on top: it will be judged on other data."""
        if self.max_drop is None or point.scores is None or not point.plan:
            return True
        return point.scores.drop + point.scores.error <= self.max_drop

    def keeps_latency(self, point: Trial) -> bool:
        """Whether a point is fast enough."""
        return self.milliseconds is None or point.milliseconds <= self.milliseconds

    def best_first(self, points: Sequence[Trial], what: str, *, must_gain: bool) -> list[Trial]:
        """Those of a frontier that reach the goal.

        Args:
            points: fastest first, the unreduced one among them.
            what: what the points are, for messages: `token schedule`.
            must_gain: whether a drop that no faster point keeps is an error; else the unreduced one ships.

        Raises:
            JobError: none reaches it; says how near the nearest came.
        """
        fast = [point for point in points if self.keeps_latency(point)]
        if not fast:
            nearest = points[0]
            raise JobError(
                f"no {what} reaches {self.milliseconds:g} ms; the fastest, {nearest.plan.name}, takes "
                f"{nearest.milliseconds:.2f} ms",
                fix=f"allow {nearest.milliseconds * 1.05:.2f}ms, or choose another precision",
            )
        reaching = [point for point in fast if self.keeps_drop(point)]
        if self.milliseconds is None:
            faster = [point for point in points if point.ratio < 1.0 and point.plan]
            if must_gain and faster and not any(point in reaching for point in faster):
                raise self._drop_out_of_reach(faster, what)
            return sorted(reaching, key=lambda point: point.milliseconds)
        if not reaching:
            raise self._both_out_of_reach(fast, points)
        return sorted(reaching, key=lambda point: (-point.score, point.degradation))

    def _drop_out_of_reach(self, faster: Sequence[Trial], what: str) -> JobError:
        assert self.max_drop is not None
        nearest = min(faster, key=lambda point: (point.drop, point.degradation))
        assert nearest.scores is not None
        needed = nearest.drop + nearest.scores.error
        return JobError(
            f"no {what} that is faster keeps a drop of {self.max_drop:.2%}: the nearest, "
            f"{nearest.plan.name}, drops {nearest.drop:.2%} (± {nearest.scores.error:.2%}) at "
            f"{nearest.ratio:.2f} of the latency",
            fix=f"allow --max-drop {needed * 100 + 0.005:.2f}%, or leave {options_of(nearest)} off",
        )

    def _both_out_of_reach(self, fast: Sequence[Trial], points: Sequence[Trial]) -> JobError:
        assert self.max_drop is not None
        best = min(fast, key=lambda point: point.drop)
        kept = min(filter(self.keeps_drop, points), key=lambda point: point.milliseconds)
        return JobError(
            f"{self.milliseconds:g} ms costs a drop of {best.drop:.2%} at least ({best.plan.name}), more "
            f"than {self.max_drop:.2%}",
            fix=f"allow that drop, or --latency {kept.milliseconds * 1.05:.2f}ms, "
            f"which {kept.plan.name} keeps",
        )


def options_of(point: Trial) -> str:
    """The options that a point is a setting of: `--slim and --tokens`."""
    return " and ".join(f"--{axis}" for axis, _ in point.plan.settings)
