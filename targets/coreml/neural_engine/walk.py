"""The walk that rewrites a graph op by op, each in the order that its tensors lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY, is_op
from edgec.passes.editing import constant
from edgec.targets.coreml.neural_engine.emit import MAX_RANK, Emitter
from edgec.targets.coreml.neural_engine.storage import Axes, Factor, Factors, Stored, flat, fresh, volume

Operand = Stored | np.ndarray
Results = list[Operand] | None
"""A rule's outputs in order; None where the node must be written as it is read."""


class Walk:
    """Rewrites one graph.

    Attributes:
        emit: the new graph.
    """

    def __init__(self, model: ir.Model, pass_name: str, rules: dict[tuple[str, str], Rule]) -> None:
        self.emit = Emitter(pass_name)
        self._model = model
        self._rules = rules
        self._values: dict[ir.Value, Operand] = {}
        self._constants: dict[ir.Value, ir.Value] = {}

    def run(self) -> ir.Model:
        """The new model."""
        graph = self._model.graph
        inputs = []
        for value in graph.inputs:
            copy = ir.Value(name=value.name, shape=value.shape, type=value.type)
            self.emit.reserve(value.name or "")
            inputs.append(copy)
            axes = fresh(fixed_shape(value))
            self._values[value] = Stored(copy, axes, axes)
        for value in graph.outputs:
            self.emit.reserve(value.name or "")
        for node in graph:
            self._node(node)
        outputs = [self._output(value) for value in graph.outputs]
        new = ir.Graph(
            inputs,
            outputs,
            nodes=self.emit.nodes,
            initializers=list(self.emit.initializers.values()),
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
        )
        functions = list(self._model.functions.values())
        return ir.Model(new, ir_version=self._model.ir_version, functions=functions)

    # What the rules use

    def given(self, node: ir.Node, index: int) -> Operand | None:
        """An input: a constant's array, or a tensor as it lies; None where it is not given."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or not value.name:
            return None
        if value not in self._values:
            array = constant(value)
            assert array is not None, f"{value.name} comes before the node that makes it"
            self._values[value] = array
        return self._values[value]

    def tensor(self, node: ir.Node, index: int) -> Stored | None:
        """An input that is computed; None where it is a constant or not given."""
        found = self.given(node, index)
        return found if isinstance(found, Stored) else None

    def array(self, node: ir.Node, index: int) -> np.ndarray | None:
        """An input that is a constant; None where it is computed or not given."""
        found = self.given(node, index)
        return found if isinstance(found, np.ndarray) else None

    def isolated(self, x: Stored, run: Factors) -> tuple[Stored, int]:
        """The tensor with these factors as a stored axis of their own, and that axis."""
        if run in x.stored and run:
            return x, x.stored.index(run)
        order = x.order
        if not run:
            if () in x.stored:
                return x, len(x.stored) - 1 - x.stored[::-1].index(())
            axes: Axes = (order, (), (), ())
            return self.emit.arrange(x, axes), 3
        if not x.is_run(run):
            # One move mends every broken axis: the next op would otherwise move another.
            middle = flat(x.logical[1:-1])
            order = (*x.logical[0], *x.logical[-1], *middle) if len(x.logical) > 2 else flat(x.logical)
        start = order.index(run[0])
        axes = (order[:start], run, (), order[start + len(run) :])
        return self.emit.arrange(x, axes), 1

    def split_groups(self, x: Stored, chosen: Iterable[Factor]) -> Axes | None:
        """The stored axes cut so that each holds chosen factors only, or none; None beyond rank 5."""
        picked = set(chosen)
        axes: list[Factors] = []
        for axis in x.stored:
            parts: list[list[Factor]] = []
            for factor in axis:
                if parts and (parts[-1][-1] in picked) == (factor in picked):
                    parts[-1].append(factor)
                else:
                    parts.append([factor])
            axes += [tuple(part) for part in parts] or [()]
        while len(axes) > MAX_RANK and () in axes:
            axes.remove(())
        return None if len(axes) > MAX_RANK else tuple(axes)

    # Nodes

    def _node(self, node: ir.Node) -> None:
        self.emit.like = node
        if is_op(node, "Constant"):
            array = constant(node.outputs[0])
            if array is not None:
                self._values[node.outputs[0]] = array
                return
        results: Results = None
        rule = self._rules.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if rule is not None and any(
            isinstance(self.given(node, at), Stored) for at in range(len(node.inputs))
        ):
            results = rule(self, node)
        if results is None:
            results = self.plain(node)
        for value, result in zip(node.outputs, results, strict=False):
            self._values[value] = result

    def plain(self, node: ir.Node) -> list[Operand]:
        """The node as it is, on tensors that lie as they are read."""
        inputs = [self._as_read(node, index) for index in range(len(node.inputs))]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=self.emit.fresh_name(node.name or node.op_type),
        )
        copy.metadata_props.update(node.metadata_props)
        copy.metadata_props.setdefault(SOURCE_KEY, node.name or node.op_type)
        results: list[Operand] = []
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = self.emit.fresh_name(f"{old.name}_plain") if old.name else ""
            new.type = old.type
            used = bool(old.uses()) or old.is_graph_output()
            shape = fixed_shape(old) if used else (1,)
            if used:
                new.shape = ir.Shape(list(shape))
            axes = fresh(shape)
            results.append(Stored(new, axes, axes))
        self.emit.nodes.append(copy)
        return results

    def _as_read(self, node: ir.Node, index: int) -> ir.Value | None:
        found = self.given(node, index)
        if found is None:
            return None
        if isinstance(found, Stored):
            return self.emit.arrange(found, found.logical).value
        value = node.inputs[index]
        assert value is not None
        if value not in self._constants:
            self._constants[value] = self.emit.constant(found, value.name or "constant")
        return self._constants[value]

    def _output(self, value: ir.Value) -> ir.Value:
        found = self._values.get(value)
        maker = value.producer()
        if maker is not None:
            self.emit.like = maker
        if isinstance(found, Stored):
            result = self.emit.arrange(found, found.logical).value
        else:
            array = constant(value)
            assert array is not None
            result = self.emit.constant(array)
        if self.emit.like is None:
            self.emit.like = ir.Node("", "Identity", [result])
        if result.producer() is None or result.name in self._output_names():
            shape = tuple(int(size) for size in result.shape or ())  # type: ignore[arg-type]
            [result] = self.emit.op("Identity", [result], [shape])
        result.name = value.name
        result.type = value.type
        return result

    def _output_names(self) -> set[str | None]:
        return {value.name for value in self._model.graph.outputs}


Rule = Callable[[Walk, ir.Node], Results]


def fixed_shape(value: ir.Value) -> tuple[int, ...]:
    """The value's sizes.

    Raises:
        OpenShapeError: one of them is not known.
    """
    if value.shape is None or not all(isinstance(size, int) for size in value.shape):
        raise OpenShapeError(value.name or "")
    return tuple(int(size) for size in value.shape)  # type: ignore[arg-type]


class OpenShapeError(Exception):
    """A tensor whose sizes are not all known: nothing can be laid out."""


def laid(array: np.ndarray, logical: Axes, stored: Axes) -> np.ndarray:
    """A constant that broadcasts to the logical axes, in the order and the axes of a stored tensor."""
    if array.size == 1:
        return array.reshape(())
    array = array.reshape((1,) * (len(logical) - array.ndim) + array.shape)
    sizes: list[int] = []
    for size, axis in zip(array.shape, logical, strict=True):
        sizes += [1] * len(axis) if size == 1 else [factor.size for factor in axis]
    array = array.reshape(sizes)
    places = {factor: index for index, factor in enumerate(flat(logical))}
    order = flat(stored)
    array = array.transpose([places[factor] for factor in order])
    whole, shape, at = [], [], 0
    for axis in stored:
        found = array.shape[at : at + len(axis)]
        spread = any(have == factor.size for have, factor in zip(found, axis, strict=True))
        whole += [factor.size for factor in axis] if spread else [1] * len(axis)
        shape.append(volume(axis) if spread else 1)
        at += len(axis)
    return np.ascontiguousarray(np.broadcast_to(array, whole)).reshape(shape)
