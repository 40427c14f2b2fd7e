"""Shapes and types of every value, from the inputs on."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.passes.editing import constant_tensor
from edgec.passes.infra import MatchLog, Pass, register
from edgec.plugins.infra import plugins

_DATA_LIMIT = 1024
"""Elements of a constant input that shape inference may read: shapes, axes, pads, sizes, repeats."""


@register
class Shapes(Pass):
    """Infer shapes and types node by node, custom ops included.

    ::

        x [1,3,224,224] ── Conv ── ?         ⇒       x ── Conv ── [1,192,14,14]
        q ── ai.edgec::ChannelAttention ── ? ⇒       … ── [1,8,32,196]

    Each node is handed to ONNX's own inference by itself, with the shapes of its inputs and the
    small constants among them, so that weights are never serialised (models may exceed 2 GB) and an
    op that ONNX does not know stops nothing behind it. Ops of `ai.edgec` infer by their plugin.
    """

    name = "canonicalize.shapes"
    after = ("canonicalize.functions",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Infer in place; a match is a node whose outputs became better known."""
        infer_graph(model.graph, model, log)


def infer_graph(graph: ir.Graph, model: ir.Model, log: MatchLog) -> None:
    """Infer every node of a graph, and of the bodies inside it, in order."""
    for node in graph:
        if infer_node(node, model, log):
            log.matched(node)


def infer_node(node: ir.Node, model: ir.Model, log: MatchLog) -> bool:
    """Set shapes and types of a node's outputs; whether anything became better known.

    What is inferred replaces what was declared where the two contradict each other: a declaration
    can be left over from another batch size, an inference cannot.
    """
    bodies = [body for attribute in node.attributes.values() for body in _bodies(attribute)]
    if bodies:
        for body in bodies:
            infer_graph(body, model, log)
        inferred = _branches(node, bodies)
    elif node.domain == EDGEC_DOMAIN:
        plugin = plugins().get(node.op_type)
        if plugin is None:
            log.missed(node, f"no plugin defines {EDGEC_DOMAIN}::{node.op_type}, its shapes are unknown")
            return False
        inferred = [(shape, ir.TensorType(dtype)) for shape, dtype in plugin.infer(node)]
    elif node.domain in ("", "ai.onnx"):
        inferred = _standard(node, model, log)
    else:
        return False
    known = [_merge(value, *found) for value, found in zip(node.outputs, inferred, strict=False)]
    return any(known)


Inferred = list[tuple[ir.Shape | None, ir.TypeProtocol | None]]


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def _branches(node: ir.Node, bodies: list[ir.Graph]) -> Inferred:
    """An `If` has the shape both branches agree on; a loop's outputs stay as declared."""
    if node.op_type != "If" or len(bodies) != 2:
        return []
    return [
        (one.shape if one.shape == other.shape else None, one.type)
        for one, other in zip(bodies[0].outputs, bodies[1].outputs, strict=False)
    ]


def _standard(node: ir.Node, model: ir.Model, log: MatchLog) -> Inferred:
    version = node.version or model.opset_imports.get("", 1)
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None:
            continue
        if value.type is None or value.name is None:
            return []
        types[value.name] = _type_proto(value)
        tensor = constant_tensor(value)
        if tensor is not None and tensor.size <= _DATA_LIMIT:
            data[value.name] = ir.serde.serialize_tensor(tensor)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
        outputs = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid("", version)],
            ir_version=model.ir_version or onnx.IR_VERSION,
        )
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        log.missed(node, f"its shapes cannot be inferred: {' '.join(str(error).split())}")
        return []
    found = [outputs.get(value.name or "") for value in node.outputs]
    return [(None, None) if proto is None else _of_proto(proto) for proto in found]


def _of_proto(proto: onnx.TypeProto) -> tuple[ir.Shape | None, ir.TypeProtocol | None]:
    return ir.serde.deserialize_type_proto_for_shape(proto), ir.serde.deserialize_type_proto_for_type(proto)


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    assert value.type is not None
    ir.serde.serialize_type_into(proto, value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto


def _merge(value: ir.Value, shape: ir.Shape | None, type_: ir.TypeProtocol | None) -> bool:
    before = (value.type, None if value.shape is None else tuple(value.shape))
    if type_ is not None and type_ != value.type:
        value.type = type_
    if shape is not None:
        try:
            value.merge_shapes(shape)
        except ValueError:
            value.shape = shape
    return before != (value.type, None if value.shape is None else tuple(value.shape))
