"""What is said when it cannot go on: what is wrong, and what to do."""

from __future__ import annotations


class DeviceError(Exception):
    """A failure that is told in one sentence.

    Args:
        what: what is wrong, one clause, no full stop.
        fix: what to do, an imperative clause.
        exit_status: 1 where the job failed, 2 where the request was wrong.
    """

    def __init__(self, what: str, fix: str, exit_status: int = 1) -> None:
        self.what = what
        self.fix = fix
        self.exit_status = exit_status
        super().__init__(f"{what}; {fix}")
