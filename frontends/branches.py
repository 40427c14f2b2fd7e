"""Whether a trace that followed one run's branches holds on inputs that may take others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edgec.core.errors import JobError
from edgec.core.graph import Arrays, TensorSpec
from edgec.core.numerics import GATES, Difference, compare
from edgec.frontends.quiet import first_line
from edgec.frontends.value_reads import Place, Read

Run = Callable[[Mapping[str, np.ndarray]], Arrays]
Record = Callable[[Arrays], tuple[Arrays, list[Read]]]
"""Runs the source on a feed; its outputs, and what its Python code read of the feed's values."""

_SCALES = (-1.0, 0.01, 0.1, 10.0, 100.0)

_NUDGE = 1e-5
"""Some hundred roundings of float32: what a network of some fifty layers adds up."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of trying a trace on inputs that differ widely.

    Attributes:
        places: where the source's Python code reads its inputs' values; empty where only torch does.
        tried: on how many inputs the reads were compared with those that the trace was made with.
        moved: on how many of them they came out otherwise; the trace agrees with the source there.
        unseen: why the source could not be followed; empty where it was.
    """

    places: tuple[Place, ...] = ()
    tried: int = 0
    moved: int = 0
    unseen: str = ""

    def note(self) -> str:
        """What the user must know, in a sentence; empty where Python decides nothing."""
        if self.unseen:
            return (
                "The export follows one run of the module; whether other inputs take other ways through its "
                f"Python code could not be seen ({self.unseen})."
            )
        if not self.places:
            return ""
        more = f" and {len(self.places) - 3} more places" if len(self.places) > 3 else ""
        places = ", ".join(map(str, self.places[:3])) + more
        found = (
            f"{self.moved} decided otherwise and the export agrees with the module on them"
            if self.moved
            else "none decided otherwise, so any other way is not in the engine"
        )
        return (
            f"The module decides in Python by its inputs' values, at {places}, and the export keeps what it "
            f"decided on the first input: of {self.tried} inputs of other signs, scales and contents, "
            f"{found}."
        )


def try_widely(
    record: Record, run: Run, inputs: Sequence[TensorSpec], examples: Sequence[Arrays], where: str
) -> Trial | None:
    """Compare a traced file with its source where the source's Python code may decide otherwise.

    A difference counts where the reads differ from those of the traced run: elsewhere the trace followed
    the same code, and far from ordinary inputs only rounding is left to differ.

    Args:
        record: the source.
        run: the traced file.
        inputs: the inputs' specs.
        examples: the feeds; the trace was made on the first.
        where: the source, for messages.

    Returns:
        what was tried; None where nothing reads values.

    Raises:
        JobError: the file computes something else; names the line that decides.
    """
    try:
        _, traced = record(examples[0])
    except Exception as error:  # a module may do what cannot be recorded, and ran without
        return Trial(unseen=first_line(error))
    if not traced:
        return None
    tried = moved = 0
    for feed in _wide(inputs, examples):
        try:
            expected, reads = record(feed)
        except Exception:  # what the source refuses, its engine need not compute
            continue
        tried += 1
        if reads == traced:
            continue
        moved += 1
        found = _difference(expected, run, feed)
        if not GATES["fp32"].accepts(found) and not _is_rounding(record, expected, found, feed):
            raise JobError(
                f"the module decides in Python by its inputs' values, at {changed(traced, reads)}, and "
                "computes something else where it decides otherwise, which an exported graph cannot",
                where=where,
                fix="write both ways with tensor operations, such as torch.where or torch.cond, or return "
                "from the function a module that computes one of them",
            )
    return Trial(tuple(sorted({read.place for read in traced if read.by_code})), tried, moved)


def changed(traced: list[Read], reads: list[Read]) -> Place:
    """The first place where two runs read something else: what comes after may follow from it."""
    for one, other in zip(traced, reads, strict=False):
        if one != other:
            return one.place
    longer = max(traced, reads, key=len)
    return longer[min(len(traced), len(reads))].place


def _difference(expected: Arrays, run: Run, feed: Arrays) -> Difference:
    try:
        return compare([expected], [run(feed)])
    except Exception:  # it does not run there, or gives another shape
        return Difference.infinite()


def _is_rounding(record: Record, expected: Arrays, found: Difference, feed: Arrays) -> bool:
    """Whether the source itself moves as far when its inputs move by a few roundings, as far-off ones may."""
    nudged = {
        name: (array * (1 + _NUDGE)).astype(array.dtype) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in feed.items()
    }
    own = _difference(expected, lambda feeds: record(dict(feeds))[0], nudged)
    return found.scaled <= own.scaled < np.inf


def _wide(inputs: Sequence[TensorSpec], examples: Sequence[Arrays]) -> Iterator[Arrays]:
    """Feeds that differ widely, all of shapes and values that the examples have or floats may have."""
    yield from examples[1:]
    floats = [spec.name for spec in inputs if np.issubdtype(np.dtype(spec.dtype), np.floating)]
    for feed in examples[:2]:
        # The other way round along the last axis: padding first, say, in ids and mask alike.
        yield {name: array[..., ::-1].copy() if array.ndim else array for name, array in feed.items()}
    first = examples[0]
    for scale in _SCALES:
        if floats:
            yield {**first, **{name: (first[name] * scale).astype(first[name].dtype) for name in floats}}
    for value in (0.0, 1.0, -1.0):
        if floats:
            yield {**first, **{name: np.full_like(first[name], value) for name in floats}}
    masks = {spec.name for spec in inputs if spec.semantics == "mask"}
    for end in (0, -1):
        yield {
            name: array if name in masks or not array.size else np.full_like(array, array.reshape(-1)[end])
            for name, array in first.items()
        }
    if masks:
        for real in (1, None):  # one token that is none of padding, and nothing but such tokens
            yield {**first, **{name: _mask(first[name], real) for name in masks}}


def _mask(like: np.ndarray, real: int | None) -> np.ndarray:
    mask = np.zeros_like(like)
    mask[..., :real] = 1
    return mask
