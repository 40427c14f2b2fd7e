"""Attention graphs in the many ways exporters write them, and what they must compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper as h
from onnx.reference import ReferenceEvaluator

from edgec.judging.gates import runnable
from edgec.passes.fuse.attention import FuseAttention
from edgec.passes.infra import PassResult

LOWEST = float(np.finfo(np.float32).min)


class Graph:
    """A graph under construction; every method returns a tensor's name."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(seed)

    def input(self, array: np.ndarray, shape: Sequence[int | str] | None = None) -> str:
        name = f"in{len(self.inputs)}"
        kind = h.np_dtype_to_tensor_dtype(array.dtype)
        self.inputs.append(h.make_tensor_value_info(name, kind, shape or array.shape))
        self.feeds[name] = array
        return name

    def draw(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self.random.standard_normal(shape)).astype(np.float32)

    def const(self, value, dtype=np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes):
        names = [f"t{len(self.nodes)}_{index}" for index in range(outputs)]
        node = h.make_node(op_type, list(inputs), names, name=f"{op_type}_{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def reshape(self, value: str, *shape: int) -> str:
        return self.op("Reshape", value, self.const(shape, np.int64))

    def transpose(self, value: str, *perm: int) -> str:
        return self.op("Transpose", value, perm=perm)

    def linear(self, value: str, width: int, features: int) -> str:
        return self.op("MatMul", value, self.const(self.draw(width, features, scale=width**-0.5)))

    def heads(self, value: str, batch: int, tokens: int, heads: int, size: int) -> str:
        return self.transpose(self.reshape(value, batch, tokens, heads, size), 0, 2, 1, 3)

    def proto(self, *outputs: str, opset: int = 23) -> onnx.ModelProto:
        graph = h.make_graph(
            self.nodes,
            "g",
            self.inputs,
            [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=11)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


@dataclasses.dataclass(frozen=True)
class Fused:
    """A model after the pass.

    Attributes:
        model: the model.
        result: what the pass returned.
        nodes: the `Attention` nodes.
        error: largest difference to the graph before, over all outputs and the given feeds.
    """

    model: ir.Model
    result: PassResult
    nodes: list[ir.Node]
    error: float

    def ops(self) -> list[str]:
        return [node.op_type for node in self.model.graph]


def run_ort(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Without ORT's own fusions: the graph as it is written is the reference.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def fuse(graph: Graph, *outputs: str, feeds: Sequence[dict[str, np.ndarray]] = ()) -> Fused:
    """Run the pass, and the graphs before (ONNX Runtime) and after (ONNX's reference evaluator, and again
    ONNX Runtime, whose kernel is what a user runs).
    """
    before = graph.proto(*outputs)
    model = ir.from_proto(before)
    result = FuseAttention()(model)
    assert isinstance(result, PassResult)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    evaluator = ReferenceEvaluator(after)
    error = 0.0
    for each in (graph.feeds, *feeds):
        expected = run_ort(before, each)
        for found in (evaluator.run(None, each), run_ort(ir.to_proto(runnable(model)), each)):
            for one, other in zip(expected, found, strict=True):
                assert one.shape == other.shape
                np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
                error = max(error, float(np.nanmax(np.abs(one - other), initial=0.0)))
    nodes = [node for node in model.graph if node.op_type == "Attention"]
    return Fused(model, result, nodes, error)


def attribute(node: ir.Node, name: str):
    found = node.attributes.get(name)
    return None if found is None else found.value
