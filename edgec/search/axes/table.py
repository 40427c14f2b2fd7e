"""The axes there are, by their options; in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress
from edgec.search.axes import slim, token_methods
from edgec.search.axes.axis import Axis
from edgec.search.axes.tokens import Tokens

Fitting = Sequence[Arrays]

AXES: Mapping[str, tuple[Callable[[Graph, Progress, Fitting], Axis], Callable[[str], None]]] = {
    "slim": (slim.Slim, slim.check_words),
    "tokens": (Tokens, token_methods.check_words),
}
"""How an axis of a graph is made, and what sees early that a text can be a setting of it."""


def check_words(axis: str, text: str) -> None:
    """See early that a text can be a setting, before there is a graph.

    Raises:
        RequestError: it cannot.
    """
    AXES[axis][1](text)


def axes_of(
    neutral: Graph, asked: Mapping[str, str], progress: Progress, fitting: Sequence[Arrays]
) -> list[Axis]:
    """The axes that options ask for.

    Args:
        neutral: the neutral graph.
        asked: by axis, what its option says.
        progress: told each step.
        fitting: inputs that what is taken away may be made up for on.

    Raises:
        JobError: nothing of the kind can be taken of the graph; lists the reasons.
    """
    return [make(neutral, progress, fitting) for axis, (make, _) in AXES.items() if axis in asked]
