"""Ops of edgec's own in a lowered graph, replaced by their definitions in the graph's own dialect.

A plugin runs such an op on the device. Where none does, in ONNX Runtime and in the preview, its body stands
for it, lowered like the rest: the graph may be of an older opset than the body is written in.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, EDGEC_OPSET, IR_VERSION, ONNX_OPSET
from edgec.passes.editing import Editor
from edgec.targets.jetson.definitions import splice
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.versions import Dialect, dialects


def with_bodies(model: ir.Model) -> ir.Model:
    """The model without ops of `ai.edgec`; itself where it has none."""
    calls = [node for node in model.graph if node.domain == EDGEC_DOMAIN]
    if not calls:
        return model
    copy = model.clone()
    dialect = _dialect_of(copy)
    editor = Editor(copy, "jetson.bodies")
    for node in [node for node in copy.graph if node.domain == EDGEC_DOMAIN]:
        splice(editor, node, lower(_alone(node), dialect, native_attention=False).graph)
        editor.prune(node)
    editor.remove_dead()
    copy.opset_imports.pop(EDGEC_DOMAIN, None)
    return copy


def _dialect_of(model: ir.Model) -> Dialect:
    """A dialect that writes the model's opset, the one with the fewest ops."""
    return next(one for one in dialects().values() if one.opset == model.opset_imports[""])


def _alone(node: ir.Node) -> ir.Model:
    """A model of one node, its inputs and outputs in order."""
    inputs = [
        None if value is None else ir.Value(name=f"in{index}", shape=value.shape, type=value.type)
        for index, value in enumerate(node.inputs)
    ]
    copy = ir.Node(
        node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs), name="op"
    )
    for index, value in enumerate(copy.outputs):
        value.name = f"out{index}"
        value.type, value.shape = node.outputs[index].type, node.outputs[index].shape
    graph = ir.Graph(
        [value for value in inputs if value is not None],
        list(copy.outputs),
        nodes=[copy],
        opset_imports={"": ONNX_OPSET, EDGEC_DOMAIN: EDGEC_OPSET},
        name="body",
    )
    return ir.Model(graph, ir_version=IR_VERSION)
