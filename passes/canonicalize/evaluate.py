"""Computing a node whose inputs are all known."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import IR_VERSION
from edgec.core.op_traits import MOVEMENT

_MOVES = MOVEMENT | {"ConstantOfShape", "Range", "Where"}
"""Ops that only move values: numpy gives the same bits as any engine, without a session."""


def evaluate(node: ir.Node, inputs: Sequence[np.ndarray | None], version: int) -> list[np.ndarray] | None:
    """The node's outputs, or None where nothing here can compute them.

    Integers and moves go through ONNX's reference; arithmetic goes through ONNX Runtime, so that a
    folded value has the rounding of the engine it is folded for. Each stands in for the other.

    Args:
        node: a node of the ONNX domain without bodies.
        inputs: its inputs' arrays, None for an optional input left out.
        version: the opset.
    """
    exact = node.op_type in _MOVES or all(
        array is None or not np.issubdtype(array.dtype, np.floating) for array in inputs
    )
    first, second = (_reference, _engine) if exact else (_engine, _reference)
    return first(node, inputs, version) or second(node, inputs, version)


def _reference(node: ir.Node, inputs: Sequence[np.ndarray | None], version: int) -> list[np.ndarray] | None:
    import onnx.reference.ops

    attributes = {
        name: ir.serde.serialize_tensor(attribute.value)
        if attribute.type == ir.AttributeType.TENSOR
        else attribute.value
        for name, attribute in node.attributes.items()
    }
    try:
        implementation = onnx.reference.ops.load_op("", node.op_type, version)
        result = implementation.eval(*inputs, **attributes)
    except Exception as error:  # the reference raises whatever numpy raises
        logging.getLogger(__name__).debug("reference cannot run %s: %s", node.op_type, error)
        return None
    return _arrays(node, result if isinstance(result, tuple) else (result,))


def _engine(node: ir.Node, inputs: Sequence[np.ndarray | None], version: int) -> list[np.ndarray] | None:
    import onnxruntime as ort

    names = ["" if array is None else f"i{index}" for index, array in enumerate(inputs)]
    outputs = [f"o{index}" for index in range(len(node.outputs))]
    proto = ir.serde.serialize_node(node)
    del proto.input[:]
    del proto.output[:]
    proto.input.extend(names)
    proto.output.extend(outputs)
    try:
        graph = onnx.helper.make_graph(
            [proto],
            "one",
            [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in zip(names, inputs, strict=True)
                if array is not None
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=IR_VERSION
        )
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
        return _arrays(node, session.run(None, feeds))
    except Exception as error:  # onnxruntime's own exception types have no common, public base
        logging.getLogger(__name__).debug("ONNX Runtime cannot run %s: %s", node.op_type, error)
        return None


def _arrays(node: ir.Node, results: Sequence[object]) -> list[np.ndarray] | None:
    """Results as arrays of the declared types; None where one is a sequence or of another type."""
    arrays = []
    for value, result in zip(node.outputs, results, strict=False):
        if isinstance(result, np.generic):
            result = np.asarray(result)
        if not isinstance(result, np.ndarray):
            return None
        if value.dtype is not None and ir.DataType.from_numpy(result.dtype) != value.dtype:
            return None
        arrays.append(result)
    return arrays if len(arrays) == len(node.outputs) else None
