"""Parting a network where one value carries everything on, and taking parts out as networks of their own.

A residual network passes through points where all that follows is computed of one value: its residual
stream. What lies between two such points, an attention branch or an MLP with the addition behind it, a
convolution with its activation, is a segment. Segments that are equal up to their weights take equal time, so
one of them need be timed; in a row they are a network as they are in their own, with weights as cold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.core.op_traits import CONTRACTION
from edgec.passes.editing import constant_tensor, sizes

_SMALL = 64
"""Elements of a constant up to which its numbers are part of what a segment is: shapes, axes, scales."""

_READERS = 3
"""Parts of a network that read a value from which on it is taken for one that runs beside the stream."""


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Nodes between two points of a graph where one value carries everything on.

    Attributes:
        nodes: in order.
        stream: the value it goes on from.
        beside: what else it reads: masks, positions, what an encoder made; in the order of reading.
        exits: the value it ends in; of the last segment the graph's outputs.
    """

    nodes: tuple[ir.Node, ...]
    stream: ir.Value
    beside: tuple[ir.Value, ...]
    exits: tuple[ir.Value, ...]

    @property
    def layer(self) -> str:
        """The source layer that its dearest op comes from: what people call it by."""
        products = [node for node in self.nodes if node.op_type in CONTRACTION]
        return source_layer((products or list(self.nodes))[-1])

    @property
    def repeats(self) -> bool:
        """Whether another one like it can follow it."""
        shape = sizes(self.stream)
        return (
            shape is not None
            and None not in shape
            and [(sizes(value), value.dtype) for value in self.exits] == [(shape, self.stream.dtype)]
        )

    def digest(self, *, sized: bool = True) -> str:
        """What it is up to its weights: ops, attributes, shapes, and constants that say shapes and axes.

        Args:
            sized: without, segments are equal that differ in their numbers of rows, tokens or pixels only.
        """
        numbers: dict[ir.Value, str] = {}
        said: list[str] = []
        for value in (self.stream, *self.beside):
            numbers[value] = f"in{len(numbers)}"
            said.append(f"{numbers[value]}:{value.dtype}:{sizes(value) if sized else ''}")
        for node in self.nodes:
            inputs = [
                "-" if value is None else numbers.get(value) or _of(value, sized=sized)
                for value in node.inputs
            ]
            attributes = sorted(f"{key}={_attribute(each)}" for key, each in node.attributes.items())
            said.append(f"{node.domain}:{node.op_type}({','.join(inputs)}){attributes}")
            for value in node.outputs:
                numbers[value] = f"v{len(numbers)}:{sizes(value) if sized else ''}"
        said.append(f"out={[numbers.get(value) for value in self.exits]}")
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]


def _of(value: ir.Value, *, sized: bool) -> str:
    tensor = constant_tensor(value)
    if tensor is None:
        return f"{value.dtype}:{sizes(value) if sized else ''}"
    is_float = tensor.dtype.is_floating_point()
    numbers = ""
    if tensor.size <= _SMALL and (tensor.size == 1 or not is_float) and (sized or is_float):
        numbers = str(np.asarray(tensor.numpy()).tolist())
    return f"{tensor.dtype}{tuple(tensor.shape)}{numbers}"


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type in (ir.AttributeType.TENSOR,):
        tensor = attribute.as_tensor()
        return f"{tensor.dtype}{tuple(tensor.shape)}"
    return str(attribute.value)


def parted(graph: ir.Graph) -> list[Segment]:
    """The segments of a graph, in order; together they hold every node between its first and last points.

    Each holds a product at least, where the graph has any: what stands between two products (a norm, an
    activation, a pooling) belongs to the segment in front of it. What is computed of no weights and of no
    floating-point input, and what the whole network reads, runs beside the stream.

    Args:
        graph: a graph in topological order.

    Returns:
        one segment with everything where no value ever carries everything on; none of a graph without nodes.
    """
    nodes = list(graph)
    if not nodes:
        return []
    place = {node: index for index, node in enumerate(nodes)}
    last = _last_reads(graph, place)
    beside = _beside(graph, nodes, last, place)
    points = []
    live: dict[ir.Value, int] = {
        value: last[value] for value in graph.inputs if value in last and value not in beside
    }
    for index, node in enumerate(nodes):
        live = {value: end for value, end in live.items() if end > index}
        for value in node.outputs:
            if last.get(value, -1) > index and value not in beside:
                live[value] = last[value]
        if len(live) == 1 and index + 1 < len(nodes):
            points.append(_Point(index, tuple(live)))
    first = next((value for value in graph.inputs if value not in beside), graph.inputs[0])
    return _between(nodes, [_Point(-1, (first,)), *points, _Point(len(nodes) - 1, tuple(graph.outputs))])


@dataclasses.dataclass(frozen=True)
class _Point:
    """Where one value carries everything on, or the graph ends.

    Attributes:
        index: the node in front of it.
        values: the value; at the end all outputs.
    """

    index: int
    values: tuple[ir.Value, ...]


def _last_reads(graph: ir.Graph, place: Mapping[ir.Node, int]) -> dict[ir.Value, int]:
    """Behind which node each value is no longer needed."""
    last: dict[ir.Value, int] = {}
    for node, index in place.items():
        for value in _read(node):
            last[value] = max(index, last.get(value, -1))
    for value in graph.outputs:
        last[value] = len(place)
    return last


def _read(node: ir.Node) -> list[ir.Value]:
    """What a node reads, its bodies' captured values with it."""
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        bodies: Sequence[ir.Graph] = ()
        if attribute.type == ir.AttributeType.GRAPH:
            bodies = (attribute.as_graph(),)
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = attribute.as_graphs()
        for body in bodies:
            found += [value for inner in body for value in _read(inner) if value.graph is not body]
    return found


def _beside(
    graph: ir.Graph, nodes: Sequence[ir.Node], last: Mapping[ir.Value, int], place: Mapping[ir.Node, int]
) -> set[ir.Value]:
    """What runs beside the stream."""
    carried = {value for value in graph.inputs if value.dtype is None or value.dtype.is_floating_point()}
    beside = {value for value in graph.inputs if value not in carried}
    for node in nodes:
        of_weights = any(
            (tensor := constant_tensor(value)) is not None
            and tensor.dtype.is_floating_point()
            and len(tensor.shape) > 1
            for value in node.inputs
        )
        if of_weights or any(value in carried for value in _read(node)):
            carried.update(node.outputs)
        else:
            beside.update(node.outputs)
    for value in carried:
        readers = sorted({place[use.node] for use in value.uses() if use.node in place})
        # Read again and again, always with products in between: an encoder's output, a float mask.
        apart = sum(
            any(node.op_type in CONTRACTION for node in nodes[one + 1 : other])
            for one, other in itertools.pairwise(readers)
        )
        if len(readers) >= _READERS and apart >= _READERS - 1 and last[value] - readers[0] > len(nodes) // 4:
            beside.add(value)
    return beside


def _between(nodes: Sequence[ir.Node], points: Sequence[_Point]) -> list[Segment]:
    """The segments between points, with those that have no product joined to one that has."""
    joined: list[tuple[_Point, _Point]] = []
    for start, end in itertools.pairwise(points):
        if joined and not (_has_product(nodes, start, end) and _has_product(nodes, *joined[-1])):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return [
        _segment(nodes[start.index + 1 : end.index + 1], start.values[0], end.values) for start, end in joined
    ]


def _has_product(nodes: Sequence[ir.Node], start: _Point, end: _Point) -> bool:
    return any(node.op_type in CONTRACTION for node in nodes[start.index + 1 : end.index + 1])


def _segment(nodes: Sequence[ir.Node], stream: ir.Value, exits: tuple[ir.Value, ...]) -> Segment:
    made = {value for node in nodes for value in node.outputs}
    outside: dict[ir.Value, None] = {}
    for node in nodes:
        for value in _read(node):
            if value not in made and value is not stream and constant_tensor(value) is None:
                outside[value] = None
    return Segment(tuple(nodes), stream, tuple(outside), exits)


def between(graph: ir.Graph, segment: Segment) -> Segment | None:
    """A segment of a graph in another graph that was made of it by cutting; found by its values' names.

    Args:
        graph: the cut graph.
        segment: of the graph before it was cut.

    Returns:
        None where nothing of it is left.
    """
    values = {value.name: value for value in graph.inputs}
    values |= {value.name: value for node in graph for value in node.outputs}
    start = values.get(segment.stream.name)
    ends = tuple(values[value.name] for value in segment.exits if value.name in values)
    if start is None or len(ends) < len(segment.exits) or start in ends:
        return None
    behind = _behind(start)
    wanted: set[ir.Node] = set()
    waiting = [value.producer() for value in ends]
    while waiting:
        node = waiting.pop()
        if node is not None and node in behind and node not in wanted:
            wanted.add(node)
            waiting += [value.producer() for value in _read(node)]
    return _segment([node for node in graph if node in wanted], start, ends) if wanted else None


def _behind(value: ir.Value) -> set[ir.Node]:
    """The nodes that depend on a value."""
    found: set[ir.Node] = set()
    waiting = [use.node for use in value.uses()]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        waiting += [use.node for each in node.outputs for use in each.uses()]
    return found


def in_a_row(model: ir.Model, segments: Sequence[Segment]) -> ir.Model:
    """Segments as a network, the exit of one the stream of the next.

    Args:
        model: whose segments they are; opsets and functions are taken over.
        segments: each but the last `repeats`.
    """
    first = segments[0]
    inputs: dict[ir.Value, ir.Value] = {}
    nodes: list[ir.Node] = []
    initializers: dict[str, ir.Value] = {}

    def entry(value: ir.Value) -> ir.Value:
        if value not in inputs:
            inputs[value] = ir.Value(name=value.name, shape=value.shape, type=value.type)
        return inputs[value]

    stream = entry(first.stream)
    exits: list[ir.Value] = []
    for index, segment in enumerate(segments):
        known: dict[ir.Value, ir.Value] = {segment.stream: stream}
        known |= {value: entry(value) for value in segment.beside}
        for node in segment.nodes:
            for value in node.inputs:
                if value is not None and value not in known:
                    known[value] = _constant(value, index, initializers)
            copy = ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else known[value] for value in node.inputs],
                list(node.attributes.values()),
                overload=node.overload,
                outputs=[
                    ir.Value(name=f"{value.name}@{index}", shape=value.shape, type=value.type)
                    for value in node.outputs
                ],
                name=f"{node.name}@{index}",
                version=node.version,
                metadata_props=dict(node.metadata_props),
            )
            known.update(zip(node.outputs, copy.outputs, strict=True))
            nodes.append(copy)
        exits = [known[value] for value in segment.exits]
        stream = exits[0]
    graph = ir.Graph(
        list(inputs.values()),
        exits,
        nodes=nodes,
        initializers=list(initializers.values()),
        opset_imports=dict(model.opset_imports),
        name="segments",
    )
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def _constant(value: ir.Value, index: int, initializers: dict[str, ir.Value]) -> ir.Value:
    tensor = constant_tensor(value)
    assert tensor is not None
    # A weight that several segments share is one in the network too.
    name = str(value.name)
    if name not in initializers:
        initializers[name] = ir.Value(
            name=name,
            shape=ir.Shape([size for size in tensor.shape if isinstance(size, int)]),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
    return initializers[name]
