"""How long a search may take: one clock for all of its parts."""

from __future__ import annotations

import time

SECONDS = 150.0
"""What a search may take; what is being tried then is still finished."""


class Deadline:
    """Counts from when it was made.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 once it is over."""
        return self.seconds - self.spent

    @property
    def over(self) -> float:
        """The share that is over; 1 of no time at all."""
        return self.spent / self.seconds if self.seconds > 0 else 1.0

    def past(self, share: float = 1.0) -> bool:
        """Whether so much of it is over."""
        return self.spent >= share * self.seconds

    def until(self, share: float) -> Deadline:
        """The deadline of what begins now and may take until so much of this one is over."""
        return Deadline(max(0.0, share * self.seconds - self.spent))

    def __str__(self) -> str:
        return f"the search's {self.seconds:.0f} s were over"
