"""One thing that `edgec doctor` looked at."""

from __future__ import annotations

import dataclasses
from typing import Literal

Status = Literal["ok", "missing", "broken", "unknown"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what; a package of an extra carries the extra in brackets, `timm [timm]`.
        status: `ok`; `missing` where it is not there and nothing else depends on it; `broken` where it
            is there and does not work, or is not there and edgec cannot do without; `unknown` where
            the time did not suffice to tell.
        found: what was found: versions, paths, the error.
        fix: what to do, an imperative clause; None where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    fix: str | None = None
