"""What edgec says when it cannot go on: one sentence each, what is wrong, where, and what to do.

The exit status follows the command line contract: 1 when the job failed (an op no target takes, a
numerics gate, a budget out of reach), 2 when the request was wrong (no such file, a bad option).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class EdgecError(Exception):
    """A failure that is told to the user without a traceback.

    Args:
        what: what is wrong, one clause, no full stop.
        where: the file, node or source layer it concerns.
        fix: what the user can do, an imperative clause.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        message = what if where is None else f"{where}: {what}"
        super().__init__(message if fix is None else f"{message}; {fix}")


class Terminated(BaseException):
    """A polite kill (SIGTERM): the process unwinds as after Ctrl-C, and finishes nothing first."""


class RequestError(EdgecError):
    """The request itself was wrong: a missing file, a malformed model, a bad option."""

    exit_status = 2


class JobError(EdgecError):
    """The request was fine and the job could not be done."""


class UnforeseenError(JobError):
    """A part of edgec met what nobody foresaw: a bug of edgec, though a way around it may be known.

    Raised from the exception that it met, whose traceback a report of it needs.
    """


class UnsupportedError(JobError):
    """A target cannot take the graph. Lists every reason at once, with the source layers.

    Args:
        target: the target's name.
        reasons: one line an obstacle, each naming op, node and source layer.
    """

    def __init__(self, target: str, reasons: Sequence[str], *, fix: str | None = None) -> None:
        self.target = target
        self.reasons = tuple(reasons)
        listed = "; ".join(self.reasons)
        super().__init__(f"target {target} cannot take this graph: {listed}", fix=fix)


class NumericsError(JobError):
    """A verification gate failed: the engine and the source disagree by more than allowed.

    Args:
        what: as for every error.
        fix: likewise.
        details: the gates and what is to blame, as the report has them; `--json` prints them.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        fix: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.details = tuple(details)
        super().__init__(what, where=where, fix=fix)


class MissingExtraError(JobError):
    """A package of one of edgec's extras is not installed."""

    exit_status = 2

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        # `edgec` or, in the runtime's own wheel, `edgec-runtime`.
        distribution = __name__.partition(".")[0].replace("_", "-")
        super().__init__(
            f"this needs the package {package}, which is not installed",
            fix=f"run: pip install '{distribution}[{extra}]'",
        )


class IntegrityError(JobError):
    """A bundle's file is missing, was added, or does not have the recorded sha256."""
