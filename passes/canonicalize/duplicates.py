"""Nodes that compute the same from the same."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from edgec.core.op_traits import DRAWS
from edgec.passes.editing import Editor, constant_tensor

_COMPARED_BYTES = 4096
"""Constants up to this size are compared by content; larger ones are the same only if shared."""


def merge_duplicates(editor: Editor) -> int:
    """Let the readers of a node read an earlier node of the same op, attributes and inputs.

    Returns:
        how many nodes were merged into an earlier one.
    """
    seen: dict[Hashable, ir.Node] = {}
    merged = 0
    for node in editor.graph:
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        # Two graph outputs with one value need two nodes.
        if first is node or any(value.is_graph_output() for value in node.outputs):
            continue
        for old, new in zip(node.outputs, first.outputs, strict=True):
            editor.replace(old, new)
        editor.log.matched(node)
        editor.graph.remove(node, safe=True)
        merged += 1
    return merged


def _key(node: ir.Node) -> Hashable | None:
    if node.op_type in DRAWS or node.op_type == "Dropout":
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) or attribute.is_ref():
            return None
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            value = _content(value)
            if value is None:
                return None
        elif isinstance(value, list):
            value = tuple(value)
        try:
            hash(value)
        except TypeError:
            return None
        attributes.append((name, value))
    inputs = tuple(_input_key(value) for value in node.inputs)
    return node.op_identifier(), tuple(attributes), inputs, len(node.outputs)


def _input_key(value: ir.Value | None) -> Hashable:
    tensor = constant_tensor(value)
    content = None if tensor is None else _content(tensor)
    return id(value) if content is None else content


def _content(tensor: ir.TensorProtocol) -> Hashable | None:
    if tensor.nbytes > _COMPARED_BYTES or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.dtype, tuple(tensor.shape), tensor.tobytes()
