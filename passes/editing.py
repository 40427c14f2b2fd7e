"""Reading and editing a graph: constants, consumers, and new nodes that keep their source layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, EDGEC_OPSET, PASS_KEY, SOURCE_KEY, is_op, source_layer

Shape = Sequence[int | str | ir.SymbolicDim]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The value's array if it is an initializer or the output of a Constant node, else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or value.is_graph_input():
        return None
    return tensor.numpy()


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
    """The one node that reads the value; None where there are more, or it is a graph output."""
    readers = consumers(value)
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


class Editor:
    """Edits one graph in the name of one pass.

    Every node made here carries the pass's name and the source layer of the node it stands for, so
    that profiles and errors downstream can speak in the user's layer names.
    """

    def __init__(self, model: ir.Model, pass_name: str) -> None:
        self.model = model
        self.graph = model.graph
        self.pass_name = pass_name
        self._names = {value.name for value in self._all_values()}

    def _all_values(self) -> Iterable[ir.Value]:
        yield from self.graph.inputs
        yield from self.graph.initializers.values()
        for node in self.graph.all_nodes():
            yield from node.outputs

    def fresh_name(self, stem: str) -> str:
        """A name no value of the graph has."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def initializer(self, array: np.ndarray, stem: str) -> ir.Value:
        """A new initializer holding the array."""
        name = self.fresh_name(stem)
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
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
        attributes: Mapping[str, object] | None = None,
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
            before: insert in front of this node; in front of `like` where not given.
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
        self.graph.insert_before(before or like, node)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let everyone who read `old` read `new`; a graph output keeps its name."""
        if new.shape is None:
            new.shape = old.shape
        if new.type is None:
            new.type = old.type
        if not old.is_graph_output():
            ir.convenience.replace_all_uses_with(old, new)
            return
        if new.is_graph_output() or new.producer() is None:
            # An output needs a value of its own: an input, an initializer or another output is not.
            anchor = old.producer()
            assert anchor is not None
            new = self.node("Identity", [new], like=anchor, shape=old.shape)
        name = old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = self.fresh_name(f"{name}_replaced")
        new.name = name

    def remove_dead(self) -> int:
        """Remove nodes whose outputs nobody reads, and initializers nobody reads; count the nodes."""
        removed = 0
        for node in reversed(self.graph):
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                self.graph.remove(node, safe=True)
                removed += 1
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]
        return removed
