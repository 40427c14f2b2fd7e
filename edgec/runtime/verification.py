"""A bundle proves itself: its engine against what the source computed, within the bounds it shipped under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from edgec.core.bundle import Bundle
from edgec.core.decoder import CONTINUATION, IDS, Decoding
from edgec.core.errors import IntegrityError
from edgec.core.graph import Arrays
from edgec.core.greedy import Greedy, compare_greedy, follows
from edgec.core.numerics import GATES, Difference, Gate
from edgec.runtime.session import Session


@dataclasses.dataclass(frozen=True)
class Verification:
    """How an engine did on its bundle's samples.

    Attributes:
        samples: how many there are.
        difference: how far it is from the source, at worst.
        gate: the bounds.
        broken: what it breaks, in words; empty where it keeps all.
        greedy: of a decoder, whose tokens it chooses; else None.
    """

    samples: int
    difference: Difference
    gate: Gate
    broken: str
    greedy: Greedy | None = None


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
        broken = gate.broken(difference)
        if broken:
            broken = f"output {difference.output!r} is {broken}"
        decoding: Decoding | None = getattr(session.engine, "decoding", None)
        if decoding is None:
            return Verification(len(feeds), difference, gate, broken)
        greedy = _greedy(session, decoding, feeds, expected.references, results)
        if not broken and bundle.manifest["precision"] == "fp32":
            broken = _other_tokens(greedy)
        return Verification(len(feeds), difference, gate, broken, greedy)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise _misfit(bundle) from error


def _greedy(
    session: Session,
    decoding: Decoding,
    feeds: Sequence[Arrays],
    references: Sequence[Mapping[str, np.ndarray]],
    results: Sequence[Arrays],
) -> Greedy:
    """Whose tokens a decoder chooses: told the source's at every step, and told its prompt alone."""
    # An int8 engine's own gate is what it showed; its tokens are held to bf16's, as when it was compiled.
    tolerance = GATES["fp32" if session.manifest["precision"] == "fp32" else "bf16"].scaled
    told = compare_greedy(references, results, tolerance)
    alone = 0
    for feed, reference in zip(feeds, references, strict=True):
        tokens = session.generate(
            feed[IDS],
            feed[CONTINUATION].shape[1] + 1,
            stop_tokens=[],
            source=feed[decoding.source] if decoding.source else None,
        )
        alone += follows(reference, tokens.tolist(), tolerance)
    return dataclasses.replace(told, alone=alone)


def _other_tokens(greedy: Greedy) -> str:
    """What an exact engine does wrong, in words; empty where nothing is."""
    if greedy.others or greedy.alone != greedy.generations:
        return f"its generations are not the source's: {greedy}"
    return ""


def _misfit(bundle: Bundle) -> IntegrityError:
    return IntegrityError(
        "its gate or its samples do not fit its engine", where=str(bundle.path), fix="compile the model again"
    )
