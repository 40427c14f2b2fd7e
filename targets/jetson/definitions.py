"""Ops that a parser does not know, replaced by what the ONNX standard defines them as."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_ir as ir

from edgec.core.dialect import IR_VERSION, ONNX_OPSET, SOURCE_KEY, source_layer
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass, register
from edgec.targets.jetson.affine_grid import affine_grid


@register
class Definitions(Pass):
    """Write ops outside a set as the function that ONNX defines them by, where it has one.

    ::

        x ── Mish ── y      ⇒      x ── Softplus ── Tanh ── Mul(x) ── y

    A definition may use ops outside the set in turn; those are written out too.

    Args:
        ops: the op types of the default domain that stay; everything where None.
    """

    name = "jetson.definitions"

    def __init__(self, ops: frozenset[str] | None = None) -> None:
        self.ops = ops

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite until nothing outside the set has a definition."""
        if self.ops is None:
            return
        editor = Editor(model, self.name, log)
        tried: set[ir.Node] = set()
        while True:
            lacking = [
                node
                for node in model.graph
                if node.domain == "" and node.op_type not in self.ops and node not in tried
            ]
            if not lacking:
                break
            for node in lacking:
                tried.add(node)
                body = affine_grid(node) or _definition(node)
                if body is None:
                    continue
                splice(editor, node, body)
                log.matched(node)
                editor.prune(node)
        editor.remove_dead()


def _definition(node: ir.Node) -> ir.Graph | None:
    """The node's definition as a graph with its inputs and outputs in order; None where it has none."""
    if any(value is not None and (value.type is None or value.shape is None) for value in node.inputs):
        return None
    inputs = [
        None if value is None else ir.Value(name=f"in{index}", shape=value.shape, type=value.type)
        for index, value in enumerate(node.inputs)
    ]
    copy = ir.Node("", node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs))
    for index, value in enumerate(copy.outputs):
        value.name = f"out{index}"
        value.type, value.shape = node.outputs[index].type, node.outputs[index].shape
    graph = ir.Graph(
        [value for value in inputs if value is not None],
        list(copy.outputs),
        nodes=[copy],
        opset_imports={"": ONNX_OPSET},
        name="definition",
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    try:
        inlined = onnx.inliner.inline_selected_functions(proto, [("", node.op_type)], False, True)
        inlined = onnx.shape_inference.infer_shapes(inlined)
    except Exception:
        # The inliner has no class of its own for a definition that needs more types than there are.
        return None
    # One with branches (AffineGrid's of an unknown size) would leave it to the device which of them is meant.
    if any(one.op_type in (node.op_type, "If") for one in inlined.graph.node):
        return None
    return ir.from_proto(inlined).graph


def splice(editor: Editor, node: ir.Node, body: ir.Graph) -> None:
    """Put a body's nodes in front of a node and let its readers read theirs; values are in one order."""
    given = [value for value in node.inputs if value is not None]
    values: dict[ir.Value, ir.Value] = dict(zip(body.inputs, given, strict=True))
    for initializer in body.initializers.values():
        tensor = initializer.const_value
        assert tensor is not None
        values[initializer] = editor.initializer(tensor.numpy(), f"{node.name}/constant")
    for inner in body:
        inputs = [None if value is None else values[value] for value in inner.inputs]
        made = ir.Node("", inner.op_type, inputs, inner.attributes.values(), num_outputs=len(inner.outputs))
        made.name = editor.fresh_name(f"{node.name}/{inner.op_type}")
        made.metadata_props[SOURCE_KEY] = source_layer(node)
        for old, new in zip(inner.outputs, made.outputs, strict=True):
            new.name = editor.fresh_name(f"{made.name}_out")
            new.type, new.shape = old.type, old.shape
            values[old] = new
        editor.graph.insert_before(node, made)
    for old, inner_output in zip(node.outputs, body.outputs, strict=True):
        editor.replace(old, values[inner_output])
