"""Files that compute in float16 or float64 become float32 graphs, held against what the files compute."""

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.core.errors import JobError
from edgec.core.numerics import GATES, compare
from edgec.frontends import load
from edgec.frontends.reference import OnnxFile
from edgec.judging.gates import check_neutral

KINDS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def save(path, nodes, weights, *, dtype, shape=(2, 3, 8, 8), out=(2, 5), shown=None):
    """A file whose inputs and outputs are of the type `shown`, or of the type that it computes in."""
    kind = KINDS[shown or dtype]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, out)],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def convolution(path, dtype, *, factor=0.5, shown=None):
    start = [] if shown is None else [helper.make_node("Cast", ["x"], ["x_"], to=KINDS[dtype])]
    end = [] if shown is None else [helper.make_node("Cast", ["y_"], ["y"], to=KINDS[shown])]
    held = numpy_helper.from_array(np.array(factor, dtype))
    nodes = [
        *start,
        helper.make_node("Conv", ["x_" if start else "x", "w"], ["c"], name="conv"),
        helper.make_node("Constant", [], ["k"], value=held),
        helper.make_node("Mul", ["c", "k"], ["m"]),
        helper.make_node("ReduceMean", ["m"], ["p"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["p", "v"], ["y_" if end else "y"], name="fc"),
        *end,
    ]
    weights = [("w", drawn(4, 3, 3, 3).astype(dtype)), ("v", drawn(4, 5, seed=1).astype(dtype))]
    return save(path, nodes, weights, dtype=dtype, shown=shown)


def types(graph):
    weights = {str(value.dtype) for value in graph.model.graph.initializers.values()}
    return {spec.dtype for spec in (*graph.inputs, *graph.outputs)}, weights


def test_a_half_file_is_widened_and_its_own_outputs_are_near(tmp_path):
    path = convolution(tmp_path / "m.onnx", "float16")
    graph = load(path)
    assert types(graph)[0] == {"float32"}
    assert "FLOAT16" not in types(graph)[1]
    assert check_neutral(graph).passed
    (note,) = graph.source.notes
    assert "computes in float16" in note
    own = OnnxFile(path)({"x": graph.examples[0]["x"].astype(np.float16)})["y"]
    assert np.array_equal(graph.run_source(graph.examples[0])["y"], own.astype(np.float32))
    found = compare(graph.references[:1], [{"y": own}])
    assert 0 < found.scaled < GATES["fp16"].scaled


def test_a_half_network_behind_casts_is_one_too(tmp_path):
    graph = load(convolution(tmp_path / "m.onnx", "float16", shown="float32"))
    assert "computes in float16" in graph.source.notes[0]
    assert check_neutral(graph).passed


def test_half_weights_that_are_cast_before_use_are_left(tmp_path):
    nodes = [
        helper.make_node("Cast", ["w"], ["w_"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w_"], ["y"]),
    ]
    path = save(
        tmp_path / "m.onnx", nodes, [("w", drawn(8, 5).astype(np.float16))], dtype="float32", shape=(2, 8)
    )
    graph = load(path)
    assert graph.source.notes == ()
    assert graph.exported == path


def test_a_half_file_that_overflows_is_refused(tmp_path):
    with pytest.raises(JobError, match="computes in float16, and in float32 its output 'y' is"):
        load(convolution(tmp_path / "m.onnx", "float16", factor=60000))


def test_a_double_file_is_rounded_and_held_against_its_own_outputs(tmp_path):
    graph = load(convolution(tmp_path / "m.onnx", "float64"))
    assert types(graph)[0] == {"float32"}
    assert "computes in float64" in graph.source.notes[0]
    assert check_neutral(graph).passed
    for feed, reference in zip(graph.examples, graph.references, strict=True):
        assert np.array_equal(graph.run_source(feed)["y"], reference["y"])


def test_a_double_file_that_needs_it_is_refused(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "far"], ["a"]),
        helper.make_node("Sub", ["a", "far"], ["y"]),
    ]
    weights = [("w", drawn(8, 5)), ("far", np.array(1e9))]
    path = save(tmp_path / "m.onnx", nodes, weights, dtype="float64", shape=(2, 8))
    with pytest.raises(JobError, match="computes in float64, and in float32"):
        load(path)


def test_the_float32_form_lives_as_long_as_the_graph(tmp_path):
    graph = load(convolution(tmp_path / "m.onnx", "float16"))
    copy, form = graph.clone(), Path(graph.exported)
    del graph
    gc.collect()
    assert form.is_file()
    del copy
    gc.collect()
    assert not form.exists()
