"""Integer operands where TensorRT takes floating ones only."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass, register

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)

_OPERANDS = {"MatMul": 2, "Gemm": 3, "Pow": 2}
"""Leading inputs that are data; the others' first input alone is (axes and K stay integers)."""

_INDICES = ("ArgMax", "ArgMin")
"""Ops whose output is an index whatever they look at."""


@register
class FloatOnly(Pass):
    """Cast to fp32 and back around ops that refuse integers.

    ::

        n ── ReduceSum ── s      ⇒      n ── Cast(fp32) ── ReduceSum ── Cast(int64) ── s

    Exact as long as no number passes 2^24: what is summed and compared here are counts and positions.

    Args:
        ops: the op types that refuse integers.
    """

    name = "jetson.float_only"

    def __init__(self, ops: frozenset[str] = frozenset()) -> None:
        self.ops = ops

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every such op whose data are integers."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if node.domain != "" or node.op_type not in self.ops or not node.inputs:
                continue
            first = node.inputs[0]
            if first is None or first.dtype not in _INTEGERS:
                continue
            _wrap(editor, node, first.dtype)
            log.matched(node)


def _wrap(editor: Editor, node: ir.Node, dtype: ir.DataType) -> None:
    wide = ir.DataType.FLOAT
    for place in range(min(len(node.inputs), _OPERANDS.get(node.op_type, 1))):
        value = node.inputs[place]
        if value is not None:
            cast = editor.node(
                "Cast", [value], like=node, attributes={"to": int(wide)}, dtype=wide, shape=value.shape
            )
            node.replace_input_with(place, cast)
    if node.op_type in _INDICES:
        return
    output = node.outputs[0]
    output.type = ir.TensorType(wide)
    back = editor.node(
        "Cast",
        [output],
        like=node,
        after=node,
        attributes={"to": int(dtype)},
        dtype=dtype,
        shape=output.shape,
    )
    maker = back.producer()
    assert maker is not None
    editor.replace(output, back)
    back.type, output.type = ir.TensorType(dtype), ir.TensorType(wide)
    maker.replace_input_with(0, output)
