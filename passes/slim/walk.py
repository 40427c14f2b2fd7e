"""Running a graph in pieces, each on every sample before the next, so that weights can change in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays


class Walk:
    """The values of a graph on some samples, as far as it has run.

    Args:
        model: runs in the order of its nodes, which is topological. A weight may change until its node runs.
        feeds: the samples, by input name.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Mapping[str, object]]) -> None:
        self.model = model
        self.nodes = list(model.graph)
        self.at = 0
        self.samples: list[Arrays] = [dict(sample) for sample in feeds]  # type: ignore[arg-type]
        self._place = {str(node.name): index for index, node in enumerate(self.nodes)}
        self._last_use = _last_uses(self.nodes, model.graph)

    def node(self, name: str) -> ir.Node:
        """A node of the graph."""
        return self.nodes[self._place[name]]

    def run_to(self, node: str) -> None:
        """Run every node in front of this one."""
        stop = self._place[node]
        if stop > self.at:
            self._run(stop)

    def _run(self, stop: int) -> None:
        known = set(self.samples[0])
        made = [
            str(value.name)
            for node in self.nodes[self.at : stop]
            for value in node.outputs
            if value.name and self._last_use.get(value.name, -1) >= stop
        ]
        if made:
            wanted = {
                value.name
                for node in self.nodes[self.at : stop]
                for value in _reads(node)
                if value.name in known
            }
            graph = ir.convenience.extract(self.model.graph, sorted(map(str, wanted)), made)
            piece = ir.Model(
                graph, ir_version=self.model.ir_version, functions=list(self.model.functions.values())
            )
            with Evaluator(piece, optimized=True) as evaluator:
                names = [value.name for value in graph.inputs]
                for sample in self.samples:
                    sample |= evaluator.run({str(name): sample[str(name)] for name in names})
        for sample in self.samples:
            for name in [name for name in sample if self._last_use.get(name, -1) < stop]:
                del sample[name]
        self.at = stop


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Every value that a node reads, its bodies included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        bodies = {ir.AttributeType.GRAPH: [attribute.value], ir.AttributeType.GRAPHS: attribute.value}
        for body in bodies.get(attribute.type, ()):
            for inner in body:
                yield from _reads(inner)


def _last_uses(nodes: Sequence[ir.Node], graph: ir.Graph) -> dict[str, int]:
    """By a value's name the place of the last node that reads it, behind all for an output of the graph."""
    uses = {str(value.name): index for index, node in enumerate(nodes) for value in _reads(node)}
    return uses | {str(value.name): len(nodes) for value in graph.outputs}
