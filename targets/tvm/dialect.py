"""Ops that only this target's lowering knows: layers with what follows them, each one kernel."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, scalar, sole_consumer

DOMAIN = "ai.edgec.tvm"

LINEAR = "Linear"
"""`activation(x · weight + bias) + residual`; bias and residual may be missing."""

CONVOLUTION = "Convolution"
"""`activation(Conv(x, weight) + bias) + residual`, with Conv's attributes."""


def declare(model: ir.Model) -> None:
    """Have the model import the domain."""
    model.opset_imports.setdefault(DOMAIN, 1)


def activation_of(node: ir.Node) -> str:
    """The kernels' name of an op that works number by number; empty where they have none for it."""
    if is_op(node, "Gelu"):
        return "gelu tanh" if attribute(node, "approximate", "none") == "tanh" else "gelu"
    if is_op(node, "HardSigmoid"):
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        return "hard sigmoid" if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5 else ""
    if is_op(node, "Clip"):
        bounds = [scalar(value) for value in [*node.inputs[1:], None, None][:2]]
        return "relu6" if bounds == [0.0, 6.0] else ""
    names = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hard swish"}
    return names.get(node.op_type, "") if node.domain in ("", "ai.onnx") else ""


def activation_behind(value: ir.Value) -> tuple[str, ir.Value] | None:
    """The activation that is all that reads a value, and its result."""
    reader = sole_consumer(value)
    if reader is not None:
        name = activation_of(reader)
        return (name, reader.outputs[0]) if name else None
    # Sigmoid and Mul both read it where it is a SiLU.
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or len(readers) != 2:
        return None
    gate = next((node for node in readers if is_op(node, "Sigmoid")), None)
    product = next((node for node in readers if is_op(node, "Mul")), None)
    if gate is None or product is None or sole_consumer(gate.outputs[0]) is not product:
        return None
    if set(product.inputs) != {value, gate.outputs[0]}:
        return None
    return "silu", product.outputs[0]
