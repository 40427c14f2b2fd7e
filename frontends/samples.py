"""From drawings and real inputs to samples with the source's own outputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.core.errors import EdgecError, RequestError
from edgec.core.graph import Arrays, DrawnInput, TensorSpec
from edgec.frontends.examples import HIDDEN_WHOLE, Drawing, hides_whole, numberless, told
from edgec.frontends.quiet import first_line

_logger = logging.getLogger("edgec.frontends")

Run = Callable[[Arrays], Arrays]


@dataclasses.dataclass(frozen=True)
class Samples:
    """A graph's samples.

    Attributes:
        feeds: the inputs, the typical one first.
        references: the source's own outputs on them.
        drawn: what each input is, in words.
        hidden: places of feeds whose mask hides a row whole; a source may answer those as it likes.
    """

    feeds: list[Arrays]
    references: list[Arrays]
    drawn: tuple[DrawnInput, ...]
    hidden: tuple[int, ...] = ()

    def without_hidden(self) -> Samples:
        """The samples less those whose mask hides a row whole."""
        kept = [place for place in range(len(self.feeds)) if place not in self.hidden]
        return dataclasses.replace(
            self,
            feeds=[self.feeds[place] for place in kept],
            references=[self.references[place] for place in kept],
            drawn=tuple(
                dataclasses.replace(item, what=item.what.replace(HIDDEN_WHOLE, "")) for item in self.drawn
            ),
            hidden=(),
        )


def taken(specs: Sequence[TensorSpec], named: str) -> tuple[DrawnInput, ...]:
    """The words for inputs that were not drawn."""
    return tuple(DrawnInput(spec.name, f"from {named}") for spec in specs)


def with_ends(
    run: Run,
    real: Samples,
    far: Sequence[Arrays],
    specs: Sequence[TensorSpec],
    known: Mapping[str, Drawing],
    path: str | Path,
) -> Samples:
    """Real feeds, and behind them those with such inputs changed whose ends are known.

    Args:
        run: the source.
        real: the feeds and the source's outputs on them.
        far: drawn feeds, the typical one first.
        specs: the inputs.
        known: drawings of inputs of which something is known; the others stay real.
        path: the file that they come from, or what else names it.
    """
    changed = []
    for place, feed in enumerate(far[1:]):
        base = real.feeds[place % len(real.feeds)]
        new = {
            spec.name: feed[spec.name]
            for spec in specs
            if spec.name in known and feed[spec.name].shape == base[spec.name].shape
        }
        if new:
            changed.append({**base, **new})
    ends, answers = run_far(run, changed, [], real.references[0])
    drawn = taken(specs, Path(path).name)
    if ends:
        words = {item.name: item.what for item in told(specs, known, ends)}
        drawn = tuple(
            DrawnInput(item.name, f"{item.what} and {words[item.name]}") if item.name in known else item
            for item in drawn
        )
    return drawn_samples([*real.feeds, *ends], [*real.references, *answers], specs, known, drawn)


def drawn_samples(
    feeds: list[Arrays],
    references: list[Arrays],
    specs: Sequence[TensorSpec],
    drawings: Mapping[str, Drawing],
    drawn: tuple[DrawnInput, ...] | None = None,
) -> Samples:
    """Samples of which it is known how they were drawn."""
    hidden = tuple(place for place, feed in enumerate(feeds) if hides_whole(specs, drawings, feed))
    return Samples(feeds, references, drawn or told(specs, drawings, feeds), hidden)


def run_real(run: Run, feeds: Sequence[Arrays], specs: Sequence[TensorSpec], path: str | Path) -> Samples:
    """A file's feeds with the source's outputs on them.

    Raises:
        RequestError: the source refuses a feed, or computes no numbers on it.
    """
    where = str(path)
    outputs = []
    for place, feed in enumerate(feeds):
        try:
            outputs.append(run(feed))
        except EdgecError:
            raise
        except Exception as error:  # whatever a source raises on what it does not take
            raise RequestError(
                f"the model fails on sample {place}: {first_line(error)}",
                where=where,
                fix="give inputs as the model will meet them",
            ) from error
        if broken := numberless(outputs[-1:]):
            raise RequestError(
                f"the model computes no finite numbers in output {broken!r} on sample {place}",
                where=where,
                fix="leave that sample out",
            )
    return Samples(list(feeds), outputs, taken(specs, Path(path).name))


def run_far(
    run: Run, far: Sequence[Arrays], near: Sequence[Arrays], typical: Arrays | None = None
) -> tuple[list[Arrays], list[Arrays]]:
    """What the source computes on far feeds; where it refuses one or answers no number, on a near one.

    Args:
        run: the source.
        far: feeds in order.
        near: feeds to take in their places; a far one without such is left out where it is refused.
        typical: the source's outputs on a typical feed; those on the first where not given.

    Returns:
        the feeds, and the source's outputs on them.

    Raises:
        Exception: whatever the source raises on a near feed.
    """
    feeds: list[Arrays] = []
    references: list[Arrays] = []
    for place, feed in enumerate(far):
        try:
            outputs = run(feed)
        except EdgecError:
            raise
        except Exception:  # whatever a source raises on what it does not take
            _logger.debug("the source refuses a drawn input", exc_info=True)
            outputs = None
        if outputs is None or numberless([outputs]) or (typical and _overflows(outputs, typical)):
            if place >= len(near):
                continue
            feed = near[place]
            outputs = run(feed)
        feeds.append(feed)
        references.append(outputs)
        typical = typical or outputs
    return feeds, references


def _overflows(outputs: Arrays, typical: Arrays) -> bool:
    """Whether the source itself leaves its range where the typical input keeps it; -inf hides on purpose."""
    return any(
        np.issubdtype(array.dtype, np.floating)
        and bool(np.isposinf(array).any())
        and not np.isposinf(typical[name]).any()
        for name, array in outputs.items()
    )
