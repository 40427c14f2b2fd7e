"""What a pass is: a named step from graph to graph that counts what it changed and nearly changed."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, TypeVar

import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.passes import bodies


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """Why a place that looked like a match is left alone: what code deep in a pass raises.

    The pass catches it where it knows the node, and logs it with `MatchLog.missed`.

    Args:
        reason: what stands in the way, in the user's words.
        nodes: the nodes that do, where it is not the place itself; the near miss names their layers.
    """

    def __init__(self, reason: str, *nodes: ir.Node) -> None:
        super().__init__(reason)
        self.nodes = nodes

    @property
    def reason(self) -> str:
        """The reason, with the layers of the nodes that stand in the way."""
        layers = ", ".join(dict.fromkeys(f"`{source_layer(node)}`" for node in self.nodes))
        return f"{self.args[0]} ({layers})" if layers else str(self.args[0])


@dataclasses.dataclass(frozen=True)
class NearMiss:
    """A place that looked like a match and was left alone.

    Attributes:
        node: the node's name.
        source: the layer of the user's model it came from.
        reason: why it was left alone, naming the tensor or value that stood in the way.
    """

    node: str
    source: str
    reason: str


@dataclasses.dataclass
class MatchLog:
    """What a pass did, kept while it runs."""

    matches: list[str] = dataclasses.field(default_factory=list)
    misses: list[NearMiss] = dataclasses.field(default_factory=list)

    def matched(self, node: ir.Node) -> None:
        """Count a change, under the source layer of the node it was made at."""
        self.matches.append(source_layer(node))

    def missed(self, node: ir.Node, reason: str | Refusal) -> None:
        """Keep a near miss with its reason; the same one is kept once."""
        words = reason if isinstance(reason, str) else reason.reason
        miss = NearMiss(node.name or node.op_type, source_layer(node), words)
        if miss not in self.misses:
            self.misses.append(miss)


@dataclasses.dataclass
class PassResult(ir.passes.PassResult):
    """What `Pass.call` returns: the model, whether it changed, and the log."""

    log: MatchLog = dataclasses.field(default_factory=MatchLog)


class Pass(ir.passes.InPlacePass):
    """One step from graph to graph.

    A subclass sets `name` (dotted and stable: `fuse.attention`), implements `apply`, registers
    itself with `register`, and draws the graph before and after in its docstring.

    Attributes:
        name: what users write after `--passes`.
        after: passes that must come earlier where they are in the pipeline at all.
        before: passes that must come later where they are in the pipeline at all.
        exact: whether it keeps the outputs up to rounding; a lossy pass is gated on the user's budget.
        enters: whether it works in the bodies of `If` and `Loop` too, each as a model of its own.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()
    before: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = True
    enters: ClassVar[bool] = False

    @abc.abstractmethod
    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Edit the model in place and log every match and near miss."""

    def call(self, model: ir.Model) -> PassResult:
        """Run `apply`; a pass that logs no match has changed nothing."""
        log = MatchLog()
        self.apply(model, log)
        if self.enters:
            for body in list(model.graph.subgraphs()):
                with bodies.alone(body, model) as inner:
                    self.apply(inner, log)
        return PassResult(model, bool(log.matches), log)


_REGISTRY: dict[str, type[Pass]] = {}

PassType = TypeVar("PassType", bound=type[Pass])


def register(cls: PassType) -> PassType:
    """Class decorator: make a pass known under its name.

    Raises:
        ValueError: another pass has the name.
    """
    known = _REGISTRY.setdefault(cls.name, cls)
    if known is not cls:
        raise ValueError(f"two passes are named {cls.name!r}: {known} and {cls}")
    return cls


def registered() -> dict[str, type[Pass]]:
    """All registered passes by name."""
    return dict(_REGISTRY)
