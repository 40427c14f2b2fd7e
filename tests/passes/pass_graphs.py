"""Graphs in ONNX's text form, run before and after passes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgec.core.dialect import IR_VERSION, ONNX_OPSET, SOURCE_KEY
from edgec.passes.manager import PassReport, Pipeline
from edgec.passes.pipeline import load_passes

FP32 = 2e-5
"""Bound on differences over max(1, |value|): a few hundred roundings of fp32 (6e-8 each), which sums
of up to a hundred terms in another order and weights folded in another order stay under. A wrong
epsilon, axis or constant in these graphs is at least ten times over it."""


def build(body: str, *, functions: tuple[str, ...] = (), **weights: np.ndarray) -> ir.Model:
    """A model from `(inputs) => (outputs) { nodes }`; weights become initializers by name."""
    graph = onnx.parser.parse_graph("g " + body)
    for name, array in weights.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    domains = sorted({node.domain for node in graph.node if node.domain})
    opsets = [
        onnx.helper.make_opsetid("", ONNX_OPSET),
        *(onnx.helper.make_opsetid(d, 1) for d in domains),
    ]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    for text in functions:
        proto.functions.append(onnx.parser.parse_function(text))
    model = ir.from_proto(proto)
    for index, node in enumerate(model.graph.all_nodes()):
        node.name = node.name or f"n{index}_{node.op_type}"
        node.metadata_props[SOURCE_KEY] = f"layer.{node.name}"
    return model


def draw(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Non-zero feeds for every input that is no initializer."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        shape = [size if isinstance(size, int) else 3 for size in value.shape or ()]
        kind = value.dtype.numpy()
        if kind == np.bool_:
            feeds[value.name] = np.asarray(generator.random(shape) > 0.5)
        elif np.issubdtype(kind, np.integer):
            feeds[value.name] = generator.integers(1, 4, shape).astype(kind)
        else:
            feeds[value.name] = (generator.standard_normal(shape) + 0.1).astype(kind)
    return feeds


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by ONNX Runtime without its own optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def check(
    model: ir.Model, *names: str, tolerance: float = FP32, seeds: tuple[int, ...] = (0, 1)
) -> dict[str, PassReport]:
    """Run passes and demand the same outputs, names, types and a valid model; the reports by pass."""
    load_passes()
    feeds = [draw(model, seed) for seed in seeds]
    wanted = [run(model, each) for each in feeds]
    Pipeline.named(["canonicalize.shapes"]).run(model)
    reports = Pipeline.named(names).run(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for each, expected in zip(feeds, wanted, strict=True):
        found = run(model, each)
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            if array.dtype.kind == "f":
                scale = np.maximum(1, np.abs(array))
                with np.errstate(invalid="ignore"):
                    difference = np.abs(found[name].astype(np.float64) - array) / scale
                assert np.array_equal(np.isfinite(found[name]), np.isfinite(array))
                finite = np.isfinite(array)
                assert difference[finite].max(initial=0.0) <= tolerance, f"{name}: {difference.max()}"
            else:
                np.testing.assert_array_equal(found[name], array)
    for node in model.graph.all_nodes():
        assert node.metadata_props.get(SOURCE_KEY), node
    return {report.name: report for report in reports}


def apply(model: ir.Model, *names: str) -> dict[str, PassReport]:
    """Run passes on a model that ONNX Runtime cannot run; the reports by pass."""
    load_passes()
    return {report.name: report for report in Pipeline.named(names).run(model)}


def ops(model: ir.Model) -> Counter[str]:
    """How often each op type occurs."""
    return Counter(node.op_type for node in model.graph.all_nodes())


def reasons(report: PassReport) -> str:
    """All near misses of a report in one string."""
    return "; ".join(miss.reason for miss in report.missed)


def weight(*shape: int, seed: int = 7, scale: float = 0.5) -> np.ndarray:
    """A drawn fp32 weight."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def f32(*numbers: float) -> np.ndarray:
    """One number as a scalar, several as a vector."""
    return np.array(numbers[0] if len(numbers) == 1 else numbers, np.float32)


def i64(*numbers: int) -> np.ndarray:
    """A vector of integers."""
    return np.array(numbers, np.int64)
