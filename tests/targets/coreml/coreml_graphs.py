"""Small graphs for the Core ML target's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph, Source, tensor_spec
from edgec.targets.base import Candidate
from edgec.targets.coreml.engine import CheckedPackage
from edgec.targets.coreml.target import CoreML

KINDS = {"float32": 1, "float16": 10, "int32": 6, "int64": 7, "bool": 9, "float64": 11, "string": 8}


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, tuple[str, Sequence[int | str] | None]],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 23,
) -> ir.Model:
    """A model from nodes; every node is named after its op and place."""
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{index}"

    def infos(values: Mapping[str, tuple[str, Sequence[int | str] | None]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, KINDS[kind], shape) for name, (kind, shape) in values.items()
        ]

    weights = [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", infos(inputs), infos(outputs), weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def ops_of(program) -> list[str]:  # type: ignore[no-untyped-def]
    """The ops of an interpreted program, constants aside."""
    return [item.type for item in program._block.operations if item.type != "const"]


def packaged(  # type: ignore[no-untyped-def]
    model: ir.Model, examples: list[Arrays], folder: Path, target: str = "ios18", precision: str = "fp16"
):
    """A model as the target builds it, opened for checking, and what ONNX Runtime computes on the model."""
    source = Evaluator(model.clone())
    graph = Graph(
        model,
        Source("m.onnx", "onnx", "m", "0"),
        tuple(tensor_spec(value) for value in model.graph.inputs),
        examples,
        [source.run(feeds) for feeds in examples],
        run_source=source.run,
    )
    coreml = CoreML(target)
    candidate = Candidate("coreml", precision, "")
    folder.mkdir(exist_ok=True)
    coreml.build(coreml.lower(graph, candidate), candidate, folder)
    return CheckedPackage(folder), source.run
