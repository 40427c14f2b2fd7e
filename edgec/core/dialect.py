"""The neutral dialect that every pass may rely on: one ONNX opset and the `ai.edgec` domain."""

from __future__ import annotations

import onnx_ir as ir

ONNX_OPSET = 23
"""The ONNX opset inside edgec: the first with `Attention`, `RMSNormalization` and `RotaryEmbedding`."""

IR_VERSION = 11
"""The ONNX IR version that goes with opset 23 (onnx/docs/Versioning.md)."""

EDGEC_DOMAIN = "ai.edgec"
EDGEC_OPSET = 1

SOURCE_KEY = "edgec.source"
"""Node metadata: the name of the layer in the user's model that the node came from."""

PASS_KEY = "edgec.pass"
"""Node metadata: the pass that made the node."""


def source_layer(node: ir.Node) -> str:
    """The user's own name for the layer a node came from; the node's name where there is none."""
    return node.metadata_props.get(SOURCE_KEY) or node.name or node.op_type


def is_op(node: ir.Node | None, *op_types: str, domain: str = "") -> bool:
    """Whether a node is one of the named ops of a domain (`""` and `ai.onnx` are one)."""
    if node is None or node.op_type not in op_types:
        return False
    return ("" if node.domain == "ai.onnx" else node.domain) == domain
