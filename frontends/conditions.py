"""What an ONNX model decides by values: every `If` and `Loop`, nested ones too, told by extra outputs.

    If(c) { then: … If(d) … }   →   If(c) { then: …, d   else: …, [] }, c
    Loop { body: … If(d) … }    →   Loop { body: …, [… d] }, number of turns
    Scan { body: … If(d) … }    →   Loop over the slices { body: …, [… d] }

Each place tells a vector of what was decided there, one entry each time it was reached.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from edgec.core import branches
from edgec.core.branches import Branch
from edgec.core.dialect import is_op, source_layer
from edgec.core.evaluation import save_model
from edgec.frontends.constants import Constants
from edgec.frontends.reference import open_session
from edgec.frontends.scans import as_loop

_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")

_KEEPS = ("Cast", "Identity", "Not", "Reshape", "Squeeze", "Unsqueeze", "And", "Or")
"""Ops between a comparison and the condition it makes."""


class Conditions:
    """A model that returns what it decides, opened in ONNX Runtime.

    Attributes:
        sites: the places that decide by values, in the graph's order.

    Raises:
        Exception: whatever ONNX Runtime raises on a model that it cannot take.
    """

    def __init__(self, model: ir.Model) -> None:
        deciding = {node.name or "": node for node in _deciding(model)}
        self._folder = tempfile.TemporaryDirectory(prefix="edgec-conditions-")
        path = Path(self._folder.name) / "model.onnx"
        save_model(model, path)
        proto = onnx.load(str(path), load_external_data=False)
        marks = _Marking(set(deciding)).mark(proto.graph)
        _keep_only(proto.graph, marks)
        onnx.save(proto, str(path))
        self._session = open_session(path)
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._marks = marks
        told = {mark.node for mark in marks}
        order = [name for name in deciding if name in told]
        self.sites = tuple(
            Branch(source_layer(deciding[name]), "If" if is_op(deciding[name], "If") else "Loop")
            for name in order
        )
        self._order = order

    def follow(self, feeds: Mapping[str, np.ndarray]) -> branches.Path:
        """What is decided at each place on one feed."""
        return self.measured(feeds)[0]

    def measured(self, feeds: Mapping[str, np.ndarray]) -> tuple[branches.Path, list[float]]:
        """The same, and how far each condition is from its other side; inf where that is not known."""
        taken = {name: array for name, array in feeds.items() if name in self._inputs}
        results: dict[str, Any] = dict(
            zip([mark.name for mark in self._marks], self._session.run(None, taken), strict=True)
        )
        path, margins = {}, {}
        for mark in self._marks:
            found = results[mark.name]
            if mark.is_margin:
                margins[mark.node] = float(np.abs(found).min(initial=np.inf))
            else:
                path[mark.node] = tuple(int(item) for item in found)
        return tuple(path[name] for name in self._order), [margins.get(name, np.inf) for name in self._order]


def has_conditions(model: ir.Model) -> bool:
    """Whether anything in the model depends on its inputs' values."""
    return any(True for _ in _deciding(model))


def _deciding(model: ir.Model) -> list[ir.Node]:
    nodes = [node for node in model.graph.all_nodes() if is_op(node, "If", "Loop")]
    if not nodes:
        return []
    fixed = Constants(model)
    return [node for node in nodes if not all(fixed.holds(value) for value in _conditions(node))]


def _conditions(node: ir.Node) -> list[ir.Value]:
    """What decides whether, or how often, the node's graphs run."""
    if is_op(node, "If"):
        return [value for value in node.inputs[:1] if value is not None]
    body = node.attributes["body"].as_graph()
    again = body.outputs[0]
    return [*(value for value in node.inputs[:2] if value is not None), again]


@dataclasses.dataclass(frozen=True)
class _Mark:
    """One vector that is told: decisions (int64), or margins (float32)."""

    name: str
    node: str
    is_margin: bool = False

    @property
    def type(self) -> int:
        return TensorProto.FLOAT if self.is_margin else TensorProto.INT64


class _Marking:
    def __init__(self, deciding: set[str]) -> None:
        self._deciding = deciding
        self._numbers = itertools.count()

    def mark(self, graph: onnx.GraphProto) -> list[_Mark]:
        """Let the graph compute what it decides, in place; the new values are not yet outputs."""
        marks = []
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            if node.op_type == "If":
                found = self._mark_if(graph, node)
            elif node.op_type == "Loop":
                found = self._mark_loop(graph, node)
            elif node.op_type == "Scan" and self._decides_within(node):
                # What is told of a turn has no fixed size, which a Scan's outputs must have.
                before, loop, behind = as_loop(node, self._fresh)
                graph.node.extend(before)
                found = self._mark_loop(graph, loop)
                graph.node.extend(behind)
            else:
                graph.node.append(node)
                found = []
            marks += found
            if node.op_type == "If" and node.name in self._deciding:
                marks += self._mark_condition(graph, nodes, node)
        return marks

    def _decides_within(self, node: onnx.NodeProto) -> bool:
        return any(
            inner.name in self._deciding or self._decides_within(inner)
            for attribute in node.attribute
            if attribute.type == onnx.AttributeProto.GRAPH
            for inner in attribute.g.node
        )

    def _fresh(self) -> str:
        return f"edgec_decided_{next(self._numbers)}"

    def _vector(self, graph: onnx.GraphProto, value: str, kind: int) -> str:
        """A value as a vector of the type."""
        cast, shape, vector = self._fresh(), self._fresh(), self._fresh()
        graph.node.append(helper.make_node("Cast", [value], [cast], to=kind))
        graph.node.append(_constant(shape, np.array([-1], np.int64)))
        graph.node.append(helper.make_node("Reshape", [cast, shape], [vector]))
        return vector

    def _mark_condition(
        self, graph: onnx.GraphProto, nodes: list[onnx.NodeProto], node: onnx.NodeProto
    ) -> list[_Mark]:
        marks = [_Mark(self._vector(graph, node.input[0], TensorProto.INT64), node.name)]
        compared = _comparison(nodes, node.input[0])
        if compared is not None:
            left, right = (self._vector(graph, value, TensorProto.FLOAT) for value in compared.input)
            margin = self._fresh()
            graph.node.append(helper.make_node("Sub", [left, right], [margin]))
            marks.append(_Mark(margin, node.name, is_margin=True))
        return marks

    def _mark_if(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> list[_Mark]:
        sides = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
        inner = [self.mark(side) for side in sides]
        marks = []
        for place, found in enumerate(inner):
            for mark in found:
                for other, side in enumerate(sides):
                    name = mark.name
                    if other != place:
                        name = self._fresh()
                        empty = np.zeros(0, np.float32 if mark.is_margin else np.int64)
                        side.node.append(_constant(name, empty))
                    side.output.append(helper.make_tensor_value_info(name, mark.type, [None]))
                marks.append(dataclasses.replace(mark, name=self._fresh()))
                node.output.append(marks[-1].name)
        graph.node.append(node)
        return marks

    def _mark_loop(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> list[_Mark]:
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        inner = self.mark(body)
        if node.name in self._deciding:
            turn = self._fresh()
            body.node.append(_constant(turn, np.ones(1, np.int64)))
            inner.append(_Mark(turn, node.name))
        marks = []
        for mark in inner:
            start, before, after = self._fresh(), self._fresh(), self._fresh()
            empty = np.zeros(0, np.float32 if mark.is_margin else np.int64)
            graph.node.append(_constant(start, empty))
            body.node.append(helper.make_node("Concat", [before, mark.name], [after], axis=0))
            carried = len(node.input) - 2
            node.input.append(start)
            body.input.append(helper.make_tensor_value_info(before, mark.type, [None]))
            told = helper.make_tensor_value_info(after, mark.type, [None])
            _insert(body.output, 1 + carried, told)
            marks.append(dataclasses.replace(mark, name=self._fresh()))
            outputs = [*node.output, *[""] * (carried - len(node.output))]
            del node.output[:]
            node.output.extend([*outputs[:carried], marks[-1].name, *outputs[carried:]])
        graph.node.append(node)
        if node.name in self._deciding:
            count = self._fresh()
            graph.node.append(helper.make_node("Size", [marks[-1].name], [count]))
            marks[-1] = dataclasses.replace(marks[-1], name=self._vector(graph, count, TensorProto.INT64))
        return marks


def _insert(outputs: Any, place: int, value: onnx.ValueInfoProto) -> None:
    kept = [*outputs[:place], value, *outputs[place:]]
    del outputs[:]
    outputs.extend(kept)


def _constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def _comparison(nodes: list[onnx.NodeProto], value: str) -> onnx.NodeProto | None:
    """The comparison of numbers that a condition comes from, in the same graph."""
    made = {output: node for node in nodes for output in node.output}
    for _ in range(8):
        node = made.get(value)
        if node is None:
            return None
        if node.op_type in _COMPARISONS:
            return node
        if node.op_type not in _KEEPS:
            return None
        value = node.input[0]
    return None


def _keep_only(graph: onnx.GraphProto, marks: list[_Mark]) -> None:
    """Make the marks the outputs, and drop the nodes that serve none of them."""
    needed = {mark.name for mark in marks}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_read(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(mark.name, mark.type, [None]) for mark in marks)


def _read(node: onnx.NodeProto) -> set[str]:
    """All that a node reads, in its graphs too."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found |= {output.name for output in attribute.g.output}
            for inner in attribute.g.node:
                found |= _read(inner)
    return found
