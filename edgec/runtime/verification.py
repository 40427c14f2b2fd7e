"""A bundle proves itself: its engine against what the source computed, within the bounds it shipped under."""

from __future__ import annotations

import dataclasses

from edgec.core.bundle import Bundle
from edgec.core.errors import IntegrityError
from edgec.core.numerics import Difference, Gate
from edgec.runtime.session import Session


@dataclasses.dataclass(frozen=True)
class Verification:
    """How an engine did on its bundle's samples.

    Attributes:
        samples: how many there are.
        difference: how far it is from the source, at worst.
        gate: the bounds.
        broken: which bound it breaks, in words; empty where it keeps all.
    """

    samples: int
    difference: Difference
    gate: Gate
    broken: str


def gate_of(bundle: Bundle) -> Gate:
    """The bounds that the bundle's engine was shipped under; a quantised one has its own.

    Raises:
        IntegrityError: the manifest has none.
    """
    try:
        return Gate(**bundle.manifest["numerics"]["gates"][-1]["gate"])
    except (TypeError, LookupError) as error:
        raise _misfit(bundle) from error


def verify(session: Session) -> Verification:
    """Run the bundle's samples and compare.

    Raises:
        IntegrityError: its gate or its samples do not fit its engine.
    """
    bundle = session.bundle
    feeds, expected = bundle.samples()
    results = [session.run(feed) for feed in feeds]
    gate = gate_of(bundle)
    try:
        difference = expected.difference(results, gate)
        return Verification(len(feeds), difference, gate, gate.broken(difference))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise _misfit(bundle) from error


def _misfit(bundle: Bundle) -> IntegrityError:
    return IntegrityError(
        "its gate or its samples do not fit its engine", where=str(bundle.path), fix="compile the model again"
    )
