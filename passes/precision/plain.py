"""Plain fp16: what a conversion gives that thinks of nothing; the measure for one that does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.gelu import DecomposeGelu
from edgec.passes.decompose.layer_norm import DecomposeLayerNorm
from edgec.passes.decompose.rms_norm import DecomposeRmsNorm
from edgec.passes.editing import Editor, attribute
from edgec.passes.manager import Pipeline
from edgec.passes.precision.half import HalfPrecision
from edgec.passes.precision.judge import evaluable


def plain_half(model: ir.Model) -> ir.Model:
    """A copy of an fp32 model with every primitive op in fp16, those inside norms, GELU and softmax as well.

    This is what an engine computes whose fp16 mode covers all layers of a graph in parts, as exporters wrote
    it before opset 17 and older TensorRT runs it.
    """
    copy = evaluable(model).clone()
    _modern_reductions(copy)
    Pipeline([DecomposeLayerNorm(), DecomposeRmsNorm(), DecomposeGelu()]).run(copy)
    _softmax_in_parts(copy)
    Pipeline([HalfPrecision()]).run(copy)
    return copy


def _modern_reductions(model: ir.Model) -> None:
    """The decompositions write opset 18 and newer: axes as inputs."""
    if model.opset_imports.get("", 18) >= 18:
        return
    editor = Editor(model, "precision.plain")
    for node in model.graph:
        axes = attribute(node, "axes")
        if node.op_type.startswith("Reduce") and axes is not None:
            node.attributes.pop("axes")
            node.resize_inputs(2)
            node.replace_input_with(1, editor.initializer(np.asarray(axes, np.int64), f"{node.name}/axes"))
    model.opset_imports[""] = 18


def _softmax_in_parts(model: ir.Model) -> None:
    """Softmax as exp(x - max) over its sum."""
    editor = Editor(model, "precision.plain")
    for node in list(model.graph):
        value = node.inputs[0] if node.inputs else None
        if not is_op(node, "Softmax") or value is None:
            continue
        axes = editor.initializer(np.asarray([attribute(node, "axis", -1)], np.int64), f"{node.name}/axes")
        largest = editor.node("ReduceMax", [value, axes], like=node)
        power = editor.node("Exp", [editor.node("Sub", [value, largest], like=node)], like=node)
        total = editor.node("ReduceSum", [power, axes], like=node)
        editor.replace(node.outputs[0], editor.node("Div", [power, total], like=node, shape=value.shape))
        editor.prune(node)
    editor.remove_dead()
