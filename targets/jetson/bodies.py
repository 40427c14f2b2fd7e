"""Ops of edgec's own in a lowered graph, replaced by their definitions in the graph's own dialect.

A plugin runs such an op on the device. Where none does, in ONNX Runtime and in the preview, its body stands
for it, lowered like the rest: the graph may be of an older opset than the body is written in. In an fp16
graph it computes in fp32 and its results are rounded, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, EDGEC_OPSET, IR_VERSION, ONNX_OPSET
from edgec.passes.editing import Editor
from edgec.passes.precision.half import FULL, HALF
from edgec.targets.jetson.definitions import splice
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.versions import Dialect, dialects


def with_bodies(model: ir.Model) -> ir.Model:
    """The model without ops of `ai.edgec`; itself where it has none."""
    if all(node.domain != EDGEC_DOMAIN for node in model.graph):
        return model
    copy = model.clone()
    write_bodies(copy, [node for node in copy.graph if node.domain == EDGEC_DOMAIN])
    return copy


def write_bodies(model: ir.Model, nodes: Collection[ir.Node]) -> None:
    """Replace some ops of `ai.edgec` in a lowered model, in place."""
    if not nodes:
        return
    dialect = _dialect_of(model)
    editor = Editor(model, "jetson.bodies")
    for node in nodes:
        splice(editor, node, lower(_alone(node), dialect, native_attention=False).graph)
        editor.prune(node)
    editor.remove_dead()
    if all(node.domain != EDGEC_DOMAIN for node in model.graph):
        model.opset_imports.pop(EDGEC_DOMAIN, None)


def _dialect_of(model: ir.Model) -> Dialect:
    """A dialect that writes the model's opset, the one with the fewest ops."""
    return next(one for one in dialects().values() if one.opset == model.opset_imports[""])


def _alone(node: ir.Node) -> ir.Model:
    """A model of one node, its inputs and outputs in order, fp32 between casts where those are fp16."""
    inputs = [
        None if value is None else ir.Value(name=f"in{index}", shape=value.shape, type=value.type)
        for index, value in enumerate(node.inputs)
    ]
    nodes: list[ir.Node] = []
    wide = [None if value is None else _cast(nodes, value, HALF, FULL) for value in inputs]
    plugin = node.attributes.keys() & {"plugin_namespace", "plugin_version"}
    attributes = [value for name, value in node.attributes.items() if name not in plugin]
    copy = ir.Node(node.domain, node.op_type, wide, attributes, num_outputs=len(node.outputs), name="op")
    nodes.append(copy)
    outputs = []
    for index, value in enumerate(node.outputs):
        inner = copy.outputs[index]
        half = value.dtype == HALF
        inner.name, inner.shape = f"out{index}", value.shape
        inner.type = ir.TensorType(FULL) if half else value.type
        outputs.append(_cast(nodes, inner, FULL, HALF) if half else inner)
    graph = ir.Graph(
        [value for value in inputs if value is not None],
        outputs,
        nodes=nodes,
        opset_imports={"": ONNX_OPSET, EDGEC_DOMAIN: EDGEC_OPSET},
        name="body",
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def _cast(nodes: list[ir.Node], value: ir.Value, given: ir.DataType, wanted: ir.DataType) -> ir.Value:
    """The value, behind a cast where it is of the given type."""
    if value.dtype != given:
        return value
    name = f"{value.name}_{wanted.name.lower()}"
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))], num_outputs=1, name=f"cast_{name}")
    cast.outputs[0].name, cast.outputs[0].shape = name, value.shape
    cast.outputs[0].type = ir.TensorType(wanted)
    nodes.append(cast)
    return cast.outputs[0]
