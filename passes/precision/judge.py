"""What an fp16 graph computes, run in fp32 with every rounding written out.

ONNX Runtime has few fp16 kernels for processors: around the others it puts casts, and drops those that meet,
so a chain of fp16 nodes rounds once at its end. A pair of casts that is written in the graph stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.attention import DecomposeAttention
from edgec.passes.editing import Editor, attribute, constant
from edgec.passes.manager import Pipeline
from edgec.passes.precision.half import FULL, HALF, moves


def evaluable(model: ir.Model) -> ir.Model:
    """The model as ONNX Runtime evaluates it best: attention in parts; itself where there is none.

    Its `Attention` kernel takes no mask with one row for all queries, and takes twice as long.
    """
    if not any(is_op(node, "Attention") for node in model.graph):
        return model
    copy = model.clone()
    Pipeline([DecomposeAttention()]).run(copy)
    return copy


def spelled_out(model: ir.Model) -> ir.Model:
    """An fp32 model that rounds to fp16 wherever the given one computes in it.

    ::

        a (fp16) ── Mul ── b (fp16)      ⇒      a ── Mul ── Cast(fp16) ── Cast(fp32) ── b

    Sums inside one node (products, norms, softmax) are fp32, as on tensor cores that accumulate in fp32.

    Args:
        model: the model, with fp16 in it; left as it is. Its opset stays.
    """
    copy = model.clone()
    editor = Editor(copy, "precision.judge")
    for value in list(copy.graph.initializers.values()):
        if value.dtype == HALF:
            array = constant(value)
            assert array is not None
            wide = editor.initializer(array.astype(np.float32), f"{value.name}/fp32")
            ir.convenience.replace_all_uses_with(value, wide)
    for node in list(copy.graph):
        to_half = node.op_type == "Cast" and attribute(node, "to") == int(HALF)
        halves = [value for value in node.outputs if value.dtype == HALF]
        for value in halves:
            value.type = ir.TensorType(FULL)
        if node.op_type == "Cast" and (to_half or attribute(node, "to") == int(FULL)):
            # A cast between fp16 and fp32 has nothing left to do; one from integers gives fp32.
            node.attributes["to"] = ir.AttrInt64("to", int(FULL))
        elif attribute(node, "output_dtype") == int(HALF):
            node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", int(FULL))
        if moves(node) or not halves:
            continue
        for value in halves:
            _round(editor, node, value)
    editor.remove_dead()
    return evaluable(copy)


def _round(editor: Editor, node: ir.Node, value: ir.Value) -> None:
    half = editor.node(
        "Cast", [value], like=node, after=node, attributes={"to": int(HALF)}, dtype=HALF, shape=value.shape
    )
    maker = half.producer()
    assert maker is not None
    result = editor.node(
        "Cast", [half], like=node, after=maker, attributes={"to": int(FULL)}, dtype=FULL, shape=value.shape
    )
    editor.replace(value, result)
    maker.replace_input_with(0, value)
