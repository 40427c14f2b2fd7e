"""Bringing a model from one floating type to another: weights, declared types, attributes that name one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_TYPE_ATTRIBUTES = (
    "dtype",
    "output_datatype",
    "output_dtype",
    "precision",
    "softmax_precision",
    "stash_type",
    "to",
)


def retype(model: ir.Model, source: ir.DataType, target: ir.DataType) -> None:
    """Make every tensor of type `source` one of type `target`, in place; in function bodies too.

    A number beyond the target's range becomes infinite.
    """
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    for graph in graphs:
        for value in [*graph.inputs, *graph.initializers.values()]:
            _retype_value(value, source, target)
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype == source:
                value.const_value = _converted(value.const_value, target)
    for node in all_nodes(model):
        for value in node.outputs:
            _retype_value(value, source, target)
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == source:
                node.attributes[name] = ir.AttrTensor(name, _converted(attribute.as_tensor(), target))
            elif name in _TYPE_ATTRIBUTES and attribute.value == source:
                node.attributes[name] = ir.AttrInt64(name, int(target))


def all_nodes(model: ir.Model) -> list[ir.Node]:
    """Every node of the graph, its subgraphs and the function bodies."""
    nodes = list(model.graph.all_nodes())
    for function in model.functions.values():
        nodes += function.all_nodes()
    return nodes


def _retype_value(value: ir.Value, source: ir.DataType, target: ir.DataType) -> None:
    if isinstance(value.type, ir.TensorType) and value.dtype == source:
        value.type = ir.TensorType(target)
    elif isinstance(value.type, ir.SequenceType) and value.dtype == source:
        value.type = ir.SequenceType(ir.TensorType(target))


def _converted(tensor: ir.TensorProtocol, target: ir.DataType) -> ir.TensorProtocol:
    with np.errstate(over="ignore"):
        return ir.tensor(tensor.numpy().astype(target.numpy()), name=tensor.name)
