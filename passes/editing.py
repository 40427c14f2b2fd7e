"""Reading and editing a graph: constants, consumers, and new nodes that keep their source layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, EDGEC_OPSET, PASS_KEY, SOURCE_KEY, is_op, source_layer
from edgec.passes.bodies import NAMES_KEY
from edgec.passes.infra import MatchLog

Shape = Sequence[int | str | ir.SymbolicDim]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The value's array if it is an initializer or the output of a Constant node, else None."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a constant value, without reading its data; None where it is not constant.

    An initializer that is a graph input too is only a default, so it is not constant.
    """
    if value is None or value.is_graph_input():
        return None
    try:
        return ir.convenience.get_const_tensor(value)
    except ValueError:  # a sparse Constant
        return None


def scalar(value: ir.Value | None) -> float | None:
    """The number a one-element constant holds, else None."""
    array = constant(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def attribute(node: ir.Node, name: str, default=None):  # type: ignore[no-untyped-def]
    """An attribute's Python value, or the default."""
    found = node.attributes.get(name)
    return default if found is None or found.value is None else found.value


def sizes(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The value's sizes, None for an open dimension; None for an unknown rank."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def rank(value: ir.Value | None) -> int | None:
    """The value's rank, None where unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def same_shape(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two values certainly have one shape; an unnamed open dimension equals nothing."""
    if one is None or other is None or one.shape is None or other.shape is None:
        return False
    return one.shape == other.shape and not one.shape.has_unknown_dim()


def producer(value: ir.Value | None, *op_types: str, domain: str = "") -> ir.Node | None:
    """The node that makes the value, if it is one of the named ops (any op where none is named)."""
    node = None if value is None else value.producer()
    if node is None or (op_types and not is_op(node, *op_types, domain=domain)):
        return None
    return node


def consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read the value, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value; None where there are more, or something outside the graph does.

    A graph output is read by the caller, and a node of a control-flow body reads an unknown number
    of times, so neither is a sole consumer.
    """
    readers = consumers(value)
    if len(readers) != 1 or value.is_graph_output():
        return None
    return readers[0] if readers[0].graph is value.graph else None


class Editor:
    """Edits one graph in the name of one pass.

    Every node made here carries the pass's name and the source layer of the node it stands for, so
    that profiles and errors downstream can speak in the user's layer names. `log` is the pass's own
    log, for rules that are handed the editor alone.
    """

    def __init__(self, model: ir.Model, pass_name: str, log: MatchLog | None = None) -> None:
        self.model = model
        self.log = MatchLog() if log is None else log
        self.graph: ir.Graph = model.graph
        self.pass_name = pass_name
        self._names = {*_names_in(model.graph), *model.meta.get(NAMES_KEY, ())}

    def fresh_name(self, stem: str) -> str:
        """A name that no value and no node of the graph or of a body inside it has."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def initializer(self, array: np.ndarray, stem: str) -> ir.Value:
        """A new initializer holding the array."""
        name = self.fresh_name(stem)
        # Not `ascontiguousarray`, which gives a scalar an axis.
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        like: ir.Node,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        shape: Shape | ir.Shape | None = None,
        dtype: ir.DataType | None = None,
        outputs: int = 1,
    ) -> ir.Value:
        """Insert a node and return its first output.

        Args:
            op_type: the op.
            inputs: its inputs.
            like: the node it stands for; gives the source layer and the name's stem.
            before: insert in front of this node; in front of `like` where neither place is given.
            after: insert behind this node instead.
            attributes: Python values, converted to ONNX attributes; None values are left out.
            domain: the op's domain.
            shape: shape of the first output, where known.
            dtype: element type of the first output; the first input's where not given.
            outputs: how many outputs.
        """
        given = {key: value for key, value in (attributes or {}).items() if value is not None}
        node = ir.Node(
            domain, op_type, list(inputs), ir.convenience.convert_attributes(given), num_outputs=outputs
        )
        stem = f"{like.name or like.op_type}/{op_type}"
        node.name = self.fresh_name(stem)
        for index, value in enumerate(node.outputs):
            value.name = self.fresh_name(f"{stem}_out{index or ''}")
        node.metadata_props[SOURCE_KEY] = source_layer(like)
        node.metadata_props[PASS_KEY] = self.pass_name
        output = node.outputs[0]
        if shape is not None:
            output.shape = shape if isinstance(shape, ir.Shape) else ir.Shape(shape)
        if dtype is None and inputs and inputs[0] is not None:
            dtype = inputs[0].dtype
        if dtype is not None:
            output.type = ir.TensorType(dtype)
        if domain == EDGEC_DOMAIN:
            self.model.opset_imports.setdefault(EDGEC_DOMAIN, EDGEC_OPSET)
        if after is not None:
            self.graph.insert_after(after, node)
        else:
            self.graph.insert_before(before or like, node)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let everyone who read `old` read `new`; a graph output keeps its name."""
        if new.shape is None and old.shape is not None:
            new.shape = old.shape.copy()
        if new.type is None:
            new.type = old.type
        if not old.is_graph_output():
            ir.convenience.replace_all_uses_with(old, new)
            return
        if new.is_graph_output() or new.producer() is None:
            # An output needs a value of its own: an input, an initializer or another output is not.
            anchor = old.producer()
            assert anchor is not None
            new = self.node("Identity", [new], like=anchor)
        new.shape, new.type = old.shape, old.type
        name = old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = self.fresh_name(f"{name}_replaced")
        new.name = name

    def prune(self, node: ir.Node) -> int:
        """Remove the node if nobody reads it, then whoever it alone kept alive; count the nodes.

        Values that only dead nodes read would otherwise look shared to the next match.
        """
        removed, pending = 0, [node]
        while pending:
            candidate = pending.pop()
            if candidate.graph is not self.graph or not _is_dead(candidate):
                continue
            makers = (value.producer() for value in candidate.inputs if value is not None)
            pending += [maker for maker in makers if maker is not None]
            self.graph.remove(candidate, safe=True)
            removed += 1
        return removed

    def remove_dead(self) -> int:
        """Remove nodes whose outputs nobody reads, and initializers nobody reads; count the nodes."""
        removed = 0
        for node in reversed(self.graph):
            if _is_dead(node):
                self.graph.remove(node, safe=True)
                removed += 1
        for name, value in list(self.graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del self.graph.initializers[name]
        return removed


def _is_dead(node: ir.Node) -> bool:
    return not any(value.uses() or value.is_graph_output() for value in node.outputs)


def _names_in(graph: ir.Graph) -> Iterable[str]:
    for inner in (graph, *graph.subgraphs()):
        yield from (value.name for value in inner.inputs if value.name)
        yield from inner.initializers
        for node in inner:
            if node.name:
                yield node.name
            yield from (value.name for value in node.outputs if value.name)
