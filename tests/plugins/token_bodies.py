"""Runs the function bodies of the token ops in ONNX Runtime, for any shape."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

import edgec.plugins.ops.size_bias.op
import edgec.plugins.ops.token_merge.op
import edgec.plugins.ops.token_prune.op
import edgec.plugins.ops.token_restore.op
import edgec.plugins.ops.token_transform.op  # noqa: F401 - registers the ops
from edgec.plugins.infra import plugins

INPUTS = {
    "TokenMerge": ("tokens", "metric", "sizes"),
    "TokenMergeEnergy": ("tokens", "metric", "sizes"),
    "TokenPrune": ("tokens", "score", "metric", "sizes"),
    "SizeBias": ("sizes",),
    "TokenRestore": ("tokens", "assignment"),
    "TokenTransform": ("tokens", "score", "metric", "sizes"),
}
RANKS = {"tokens": 3, "metric": 4, "sizes": 3, "score": 2, "assignment": 2}


def model(op_type: str, attributes: dict, element: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    """A model of the one op, its shapes open."""
    function = ir.to_proto(plugins()[op_type].function())
    integer = onnx.TensorProto.INT32
    inputs = [
        onnx.helper.make_tensor_value_info(
            name,
            integer if name == "assignment" else element,
            [f"{name}_{axis}" for axis in range(RANKS[name])],
        )
        for name in INPUTS[op_type]
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(name, integer if name == "assignment" else element, None)
        for name in function.output
    ]
    node = onnx.helper.make_node(
        op_type, INPUTS[op_type], list(function.output), domain="ai.edgec", **attributes
    )
    graph = onnx.helper.make_graph([node], op_type, inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.edgec", 1)]
    return onnx.helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=11)


@functools.cache
def _session(op_type: str, attributes: tuple) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    made = model(op_type, dict(attributes)).SerializeToString()
    return onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])


def run_body(op_type: str, feeds: dict[str, np.ndarray], **attributes: object) -> list[np.ndarray]:
    """The outputs that the definition gives."""
    return _session(op_type, tuple(sorted(attributes.items()))).run(None, feeds)
