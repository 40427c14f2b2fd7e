from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx import helper as h
from onnx.reference import ReferenceEvaluator

from edgec.core.dialect import EDGEC_DOMAIN, SOURCE_KEY
from edgec.passes.decompose.gelu import DecomposeGelu
from edgec.passes.decompose.layer_norm import DecomposeLayerNorm
from edgec.passes.decompose.norm_affine import DecomposeNormAffine
from edgec.passes.decompose.plugins import DecomposePlugins
from edgec.passes.decompose.rms_norm import DecomposeRmsNorm
from edgec.passes.decompose.rotary_embedding import DecomposeRotaryEmbedding
from edgec.plugins import infra


def model_of(nodes, inputs, initializers=(), outputs=("y",), opset=23):
    graph = h.make_graph(
        nodes,
        "g",
        [
            h.make_tensor_value_info(n, h.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in dict(initializers).items()],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=11)


def check(proto, step, inputs, atol=2e-6):
    expected = ReferenceEvaluator(proto).run(None, inputs)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    log = step(model).log
    actual = ReferenceEvaluator(ir.to_proto(model)).run(None, inputs)
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(other, one, atol=atol)
    return model, log


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_keeps_its_form(form):
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    node = h.make_node("Gelu", ["x"], ["y"], name="g", approximate=form)
    model, log = check(model_of([node], {"x": x}), DecomposeGelu(), {"x": x})
    assert len(log.matches) == 1
    wanted = {"none": "Erf", "tanh": "Tanh"}[form]
    assert wanted in {n.op_type for n in model.graph}


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_rms_norm(axis):
    x = drawn(2, 3, 8)
    gamma = drawn(*x.shape[axis:], seed=1)
    node = h.make_node("RMSNormalization", ["x", "gamma"], ["y"], name="n", axis=axis, epsilon=1e-3)
    model, log = check(model_of([node], {"x": x}, {"gamma": gamma}), DecomposeRmsNorm(), {"x": x})
    assert len(log.matches) == 1
    assert "RMSNormalization" not in {n.op_type for n in model.graph}


@settings(max_examples=40, deadline=None)
@given(
    joined=st.booleans(),
    interleaved=st.booleans(),
    rotated=st.sampled_from([0, 4, 8]),
    positions=st.booleans(),
)
def test_rotary_embedding(joined, interleaved, rotated, positions):
    heads, length, size = 2, 5, 8
    x = drawn(3, length, heads * size) if joined else drawn(3, heads, length, size)
    half = (rotated or size) // 2
    inputs = {"x": x}
    cache = (11, half) if positions else (3, length, half)
    constants = {"cos": drawn(*cache, seed=1), "sin": drawn(*cache, seed=2)}
    names = ["x", "cos", "sin"]
    if positions:
        inputs["ids"] = np.random.default_rng(3).integers(0, 11, (3, length))
        names.append("ids")
    attributes = {"interleaved": int(interleaved), "rotary_embedding_dim": rotated}
    if joined:
        attributes["num_heads"] = heads
    node = h.make_node("RotaryEmbedding", names, ["y"], name="r", **attributes)
    _, log = check(model_of([node], inputs, constants), DecomposeRotaryEmbedding(), inputs)
    assert len(log.matches) == 1


def norm_into(*readers, outputs=("y",)):
    constants = {
        "gamma": drawn(6, seed=1),
        "beta": drawn(6, seed=2),
        "w": drawn(6, 4, seed=3),
        "b": drawn(4, seed=4),
        "v": drawn(6, 4, seed=5),
    }
    norm = h.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm", axis=-1)
    return model_of([norm, *readers], {"x": drawn(2, 3, 6)}, constants, outputs)


def test_norm_affine_goes_into_a_linear_layer_and_its_bias():
    proto = norm_into(
        h.make_node("MatMul", ["n", "w"], ["m"], name="m"), h.make_node("Add", ["m", "b"], ["y"], name="a")
    )
    model, log = check(proto, DecomposeNormAffine(), {"x": drawn(2, 3, 6)})
    assert len(log.matches) == 1
    assert [node.op_type for node in model.graph] == ["LayerNormalization", "MatMul", "Add"]
    gamma, beta = (value.const_value.numpy() for value in next(iter(model.graph)).inputs[1:])
    assert (gamma == 1).all()
    assert (beta == 0).all()


def test_norm_affine_makes_a_bias_where_there_is_none():
    proto = norm_into(
        h.make_node("MatMul", ["n", "w"], ["y"], name="one"),
        h.make_node("MatMul", ["n", "v"], ["z"], name="two"),
        outputs=("y", "z"),
    )
    model, log = check(proto, DecomposeNormAffine(), {"x": drawn(2, 3, 6)})
    assert len(log.matches) == 1
    assert [node.op_type for node in model.graph].count("Add") == 2


def test_norm_affine_stays_where_something_else_reads_it():
    proto = norm_into(
        h.make_node("MatMul", ["n", "w"], ["y"], name="m"),
        h.make_node("Relu", ["n"], ["z"], name="relu"),
        outputs=("y", "z"),
    )
    _, log = check(proto, DecomposeNormAffine(), {"x": drawn(2, 3, 6)})
    assert log.matches == []
    assert "relu" in log.misses[0].reason


@pytest.fixture
def twice(monkeypatch):
    """A plugin that doubles its input and adds one."""
    monkeypatch.setattr(infra, "_PLUGINS", {})

    plugin = infra.Plugin(
        "Twice",
        "2x + 1.",
        (infra.Port("x", "length"),),
        (infra.Port("y", "length"),),
        "double = Add(x, x) one = Constant<value_float = 1.0>() y = Add(double, one)",
    )
    infra.register(plugin)


def test_a_plugin_is_written_out_under_its_own_layer(twice):
    nodes = [
        h.make_node("Twice", ["x"], ["a"], name="first", domain=EDGEC_DOMAIN),
        h.make_node("Twice", ["a"], ["y"], name="second", domain=EDGEC_DOMAIN),
    ]
    x = drawn(3)
    proto = model_of(nodes, {"x": x})
    proto.opset_import.append(h.make_opsetid(EDGEC_DOMAIN, 1))
    model = ir.from_proto(proto)
    for node in model.graph:
        node.metadata_props[SOURCE_KEY] = f"layer.{node.name}"
    log = DecomposePlugins()(model).log
    assert log.matches == ["layer.first", "layer.second"]
    assert {node.metadata_props[SOURCE_KEY] for node in model.graph} == {"layer.first", "layer.second"}
    assert EDGEC_DOMAIN not in model.opset_imports
    assert not model.functions
    [y] = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_allclose(y, 2 * (2 * x + 1) + 1)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(axis, bias):
    inputs = {"x": drawn(2, 3, 4)}
    shape = inputs["x"].shape[axis:]
    weights = {"w": drawn(*shape, seed=1)} | ({"b": drawn(*shape, seed=2)} if bias else {})
    node = h.make_node("LayerNormalization", ["x", *weights], ["y"], name="n", axis=axis, epsilon=0.3)
    model, log = check(model_of([node], inputs, weights), DecomposeLayerNorm(), inputs)
    assert len(log.matches) == 1
    assert "LayerNormalization" not in {n.op_type for n in model.graph}


def test_a_layer_norm_whose_mean_is_read_stays():
    inputs, weights = {"x": drawn(2, 3, 4)}, {"w": drawn(4, seed=1), "b": drawn(4, seed=2)}
    node = h.make_node("LayerNormalization", ["x", "w", "b"], ["y", "mean"], name="n")
    proto = model_of([node], inputs, weights, outputs=("y", "mean"))
    _, log = check(proto, DecomposeLayerNorm(), inputs)
    assert log.matches == []
    assert [miss.reason for miss in log.misses] == ["its mean or deviation is read"]
