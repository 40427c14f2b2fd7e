"""Choosing OpenVINO's faster product for fp32 linear layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant_tensor, sizes, sole_consumer
from edgec.passes.infra import MatchLog, Pass, register

_LIMIT = 3e38
"""Just under the largest fp32 number, and a number in bf16 too."""

_ACTIVATIONS = ("Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Softplus", "Tanh")
"""Ops that OpenVINO computes at the end of the product; a product with one needs no other."""


@register
class BlockedLinear(Pass):
    """End every fp32 linear layer with an op that changes nothing, for OpenVINO to take its blocked kernel.

    ::

        x ── MatMul(W) ── Add(b) ── y      ⇒      x ── MatMul(W) ── Add(b) ── Clip(±3e38) ── y

    OpenVINO's CPU plugin computes an fp32 linear layer by MLAS, unless the product ends in another op,
    which MLAS cannot fuse; then oneDNN's blocked 1×1 convolution computes both. That kernel takes 0.85
    to 0.98 of MLAS's time on the shapes it accepts, and the Clip costs nothing in it: it keeps every
    number of a layer that has not overflowed.
    """

    name = "x86.blocked_linear"
    after = ("decompose.attention", "decompose.norm_affine")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Add a Clip behind every linear layer of an accepted shape that ends in no activation."""
        editor = Editor(model, self.name, log)
        limits: list[ir.Value] = []
        for node in linear_layers(model):
            last = _with_bias(node)
            limits = limits or [
                editor.initializer(np.float32(sign * _LIMIT), "edgec_limit") for sign in (-1, 1)
            ]
            _clip(editor, last, limits)
            log.matched(node)


def linear_layers(model: ir.Model) -> list[ir.Node]:
    """The linear layers that the pass changes."""
    return [
        node
        for node in model.graph
        if is_op(node, "MatMul") and _accepted(node) and not _ends_in_activation(_with_bias(node))
    ]


def _accepted(node: ir.Node) -> bool:
    """Whether OpenVINO's `convolution_1x1_dnnl` takes the product, as its own heuristic says.

    intel_cpu/src/nodes/executors/fullyconnected_implementations.cpp: rank 2 or 3, 2 to 3136 rows, 96
    to 4096 inputs, 96 to four times the inputs outputs, weights under 16 MiB.
    """
    weight, shape = constant_tensor(node.inputs[1]), sizes(node.inputs[0])
    if weight is None or len(weight.shape) != 2 or weight.dtype != ir.DataType.FLOAT:
        return False
    if shape is None or len(shape) not in (2, 3) or shape[-2] is None:
        return False
    rows, (inputs, outputs) = shape[-2], weight.numpy().shape
    return (
        2 <= rows <= 3136
        and 96 <= inputs <= 4096
        and 96 <= outputs <= 4 * inputs
        and 4 * inputs * outputs < 1 << 24
    )


def _with_bias(node: ir.Node) -> ir.Node:
    reader = sole_consumer(node.outputs[0])
    if reader is None or not is_op(reader, "Add"):
        return node
    has_bias = any(constant_tensor(value) is not None for value in reader.inputs)
    return reader if has_bias else node


def _ends_in_activation(last: ir.Node) -> bool:
    reader = sole_consumer(last.outputs[0])
    return is_op(reader, *_ACTIVATIONS) or last.outputs[0].is_graph_output()


def _clip(editor: Editor, last: ir.Node, limits: list[ir.Value]) -> None:
    output = last.outputs[0]
    readers = list(output.uses())
    following = min((use.node for use in readers), key=list(editor.graph).index)
    clipped = editor.node("Clip", [output, *limits], like=last, before=following, shape=output.shape)
    for use in readers:
        use.node.replace_input_with(use.idx, clipped)
