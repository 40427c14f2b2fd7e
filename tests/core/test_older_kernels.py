"""A model is given to ONNX Runtime in an older opset where an op needs that and no other op forbids it."""

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.errors import JobError
from edgec.core.evaluation import Evaluator
from edgec.core.older_kernels import for_onnxruntime


def model(*nodes, dtype="FLOAT"):
    lines = "\n".join(nodes)
    return ir.from_onnx_text(
        f'<ir_version: 11, opset_import: ["" : 23]>'
        f"m ({dtype.lower()}[1, 4, 8, 8] x) => ({dtype.lower()}[1, 4, n, m] y) {{ {lines} }}"
    )


def test_the_older_opset_runs_and_the_model_stays():
    graph = model("y = GlobalLpPool (x)")
    assert for_onnxruntime(graph).opset_imports[""] == 21
    with Evaluator(graph) as evaluator:
        found = evaluator.run({"x": np.ones((1, 4, 8, 8), np.float32)})["y"]
    np.testing.assert_allclose(found, 8)
    assert graph.opset_imports[""] == 23


def test_others_are_left_alone():
    graph = model("y = Relu (x)")
    assert for_onnxruntime(graph) is graph


def test_what_needs_the_newer_opset_too_is_refused_in_one_sentence():
    graph = model("a = Attention (x, x, x)", "y = GlobalLpPool (a)")
    assert for_onnxruntime(graph) is graph
    with pytest.raises(JobError, match=r"ONNX Runtime.* cannot run it: .*GlobalLpPool\(22\)"):
        Evaluator(graph)
