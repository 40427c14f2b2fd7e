"""What an axis of the search is.

An axis names the places of a graph where something can be taken away and the settings that do it, tries a few
of them alone, and predicts the others. A new axis is one file beside this one and one line in `AXES`.
"""

from __future__ import annotations

from typing import Any, Protocol

from edgec.core.graph import Graph
from edgec.passes.manager import PassReport
from edgec.search.allocation import Prediction
from edgec.search.deadline import Deadline
from edgec.search.plan import Plan, Setting
from edgec.search.trials import Trial
from edgec.targets.base import Target


class Probing(Protocol):
    """What an axis may try its settings with."""

    @property
    def target(self) -> Target:
        """What builds its engines."""

    @property
    def baseline(self) -> Trial:
        """The network that nothing was taken of: timed and scored."""

    def probe(self, plan: Plan) -> Trial:
        """The engine of a plan, timed beside the baseline, its degradation measured, and closed.

        Raises:
            EdgecError: the plan cannot be applied or built.
        """


class Axis(Protocol):
    """Something that can be taken away of a network, in many places and amounts.

    Attributes:
        name: its option without dashes, its section of the report, and its key in a `Plan`.
    """

    name: str

    def read(self, text: str) -> Setting:
        """The setting that the option names.

        Raises:
            RequestError: it names none of this graph.
        """

    def probe(self, bench: Probing, deadline: Deadline) -> None:
        """Try some settings alone, until the deadline; at least what `predictions` needs.

        Raises:
            JobError: nothing can be taken away.
        """

    def predictions(self) -> list[Prediction]:
        """The settings worth trying, as the probes predict them."""

    def apply(self, graph: Graph, setting: Setting) -> tuple[Graph, tuple[PassReport, ...]]:
        """A copy of a graph with a setting applied, and what each pass did."""

    def describe(self, setting: Setting | None, work: float) -> dict[str, Any]:
        """What the report says of a setting; of nothing, for None."""
