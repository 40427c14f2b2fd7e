"""Runs the function bodies of plugins in ONNX Runtime, for any shape."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from edgec.plugins.infra import Kind, Plugin, Port, plugins

ELEMENTS = {
    Kind.LIKE_FIRST: onnx.TensorProto.FLOAT,
    Kind.FLOAT32: onnx.TensorProto.FLOAT,
    Kind.INT32: onnx.TensorProto.INT32,
    Kind.BOOL: onnx.TensorProto.BOOL,
}


def model(plugin: Plugin, attributes: dict) -> onnx.ModelProto:
    """A model of the one op in float32, its shapes open."""

    def value(port: Port, shape: list[str] | None) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(port.name, ELEMENTS[port.kind], shape)

    inputs = [
        value(port, [f"{port.name}_{axis}" for axis in range(len(port.sizes))]) for port in plugin.inputs
    ]
    names = [[port.name for port in ports] for ports in (plugin.inputs, plugin.outputs)]
    node = onnx.helper.make_node(plugin.op_type, *names, domain="ai.edgec", **attributes)
    outputs = [value(port, None) for port in plugin.outputs]
    graph = onnx.helper.make_graph([node], plugin.op_type, inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.edgec", 1)]
    functions = [ir.to_proto(plugin.function())]
    return onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=11)


@functools.cache
def _session(op_type: str, attributes: tuple) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    made = model(plugins()[op_type], dict(attributes)).SerializeToString()
    return onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])


def run_body(op_type: str, feeds: dict[str, np.ndarray], **attributes: object) -> list[np.ndarray]:
    """The outputs that the definition gives."""
    return _session(op_type, tuple(sorted(attributes.items()))).run(None, feeds)
