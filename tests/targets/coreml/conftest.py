"""Small graphs for the Core ML target's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

pytest.importorskip("coremltools")

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


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]]:
    """Lowers a model, saves the package, reads it back, and gives a function that runs it."""
    from edgec.targets.coreml.checker.interpreter import Interpreter
    from edgec.targets.coreml.checker.package import read
    from edgec.targets.coreml.lowering.program import lower
    from edgec.targets.coreml.package import save
    from edgec.targets.coreml.versions import release

    def build(model: ir.Model, name: str = "ios18", precision: str = "fp32"):  # type: ignore[no-untyped-def]
        lowered = lower(model, release(name), half_inputs=precision == "fp16")
        path = tmp_path / "model.mlpackage"
        save(lowered, path, release(name), precision)
        program = Interpreter(read(path))

        def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            given = {item.name: np.reshape(feeds[item.source], item.mil_shape) for item in lowered.inputs}
            results = program.run(given)
            return [
                np.reshape(results[key], item.shape)
                for key, item in zip(program.outputs, lowered.outputs, strict=True)
            ]

        run.program = program  # type: ignore[attr-defined]
        run.path = path  # type: ignore[attr-defined]
        return run

    return build


def ops_of(program) -> list[str]:  # type: ignore[no-untyped-def]
    """The ops of an interpreted program, constants aside."""
    return [item.type for item in program._block.operations if item.type != "const"]
