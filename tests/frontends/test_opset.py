"""Opset conversion: every rule is run in ONNX Runtime before and after, and the list of rules is whole."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgec.core.dialect import ONNX_OPSET
from edgec.core.errors import RequestError
from edgec.frontends.finish import to_dialect
from edgec.frontends.opset import OLDEST, changed_ops
from edgec.frontends.reference import open_session


def schema_drift():
    """Ops whose older form would mean something else, or nothing, as the newer one."""
    for schema in onnx.defs.get_all_schemas():
        if schema.domain != "":
            continue
        for old_opset in range(OLDEST, ONNX_OPSET):
            if not onnx.defs.has(schema.name, old_opset, ""):
                continue
            old = onnx.defs.get_schema(schema.name, old_opset, "")
            new = onnx.defs.get_schema(schema.name, old_opset + 1, "")
            if old.since_version == new.since_version or old.deprecated:
                continue
            for name, attribute in old.attributes.items():
                later = new.attributes.get(name)
                if later is None or later.default_value != attribute.default_value:
                    yield schema.name, new.since_version
            required = {name for name, attribute in new.attributes.items() if attribute.required}
            same_inputs = [entry.name for entry in old.inputs] == [
                entry.name for entry in new.inputs[: len(old.inputs)]
            ]
            if required - set(old.attributes) or not same_inputs or new.min_input > old.min_input:
                yield schema.name, new.since_version
            if len(new.outputs) < len(old.outputs):
                yield schema.name, new.since_version


def test_every_op_that_changed_form_has_a_rule():
    drift = set(schema_drift())
    assert len(drift) > 15  # the comparison sees something
    assert drift <= changed_ops()


def model(nodes, inputs, outputs, opset, initializers=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in inputs],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs],
        initializer=[onnx.numpy_helper.from_array(array, name) for name, array in initializers],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = 7
    return proto


def run(proto, feeds):
    return open_session(proto.SerializeToString()).run(None, feeds)


def assert_same_after_conversion(proto, feeds):
    before = run(proto, feeds)
    converted = ir.from_proto(proto)
    to_dialect(converted, where="test")
    assert converted.opset_imports[""] == ONNX_OPSET
    back = ir.to_proto(converted)
    for expected, found in zip(before, run(back, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    return converted


def drawn(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@given(axis=st.integers(-3, 2), op=st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"]))
@settings(max_examples=20, deadline=None)
def test_softmax_over_a_flattened_tail(axis, op):
    proto = model(
        [helper.make_node(op, ["x"], ["y"], axis=axis)],
        [("x", TensorProto.FLOAT, [2, 3, 4])],
        [("y", TensorProto.FLOAT)],
        11,
    )
    converted = assert_same_after_conversion(proto, {"x": drawn(2, 3, 4)})
    if axis in (-1, 2):
        assert [node.op_type for node in converted.graph] == [op]


def test_softmax_inside_a_chain_learns_its_rank_by_shape_inference():
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Softmax", ["a"], ["s"], axis=2),
            helper.make_node("Relu", ["s"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, [2, 3, 4])],
        [("y", TensorProto.FLOAT), ("s", TensorProto.FLOAT)],
        12,
        [("w", drawn(4, 5))],
    )
    converted = assert_same_after_conversion(proto, {"x": drawn(2, 3, 4)})
    assert [node.op_type for node in converted.graph] == ["MatMul", "Softmax", "Relu"]


def test_softmax_that_is_a_graph_output_and_read_again_keeps_its_name():
    proto = model(
        [helper.make_node("Softmax", ["x"], ["s"], axis=1), helper.make_node("Neg", ["s"], ["y"])],
        [("x", TensorProto.FLOAT, [2, 3, 4])],
        [("s", TensorProto.FLOAT), ("y", TensorProto.FLOAT)],
        11,
    )
    assert_same_after_conversion(proto, {"x": drawn(2, 3, 4)})


REDUCTIONS = ["ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [[1], [-1, 0], None])
def test_reductions_take_their_axes_as_an_input(op, axes):
    given_axes = {} if axes is None else {"axes": axes}
    proto = model(
        [helper.make_node(op, ["x"], ["y"], keepdims=0, **given_axes)],
        [("x", TensorProto.FLOAT, [2, 3, 4])],
        [("y", TensorProto.FLOAT)],
        11,
    )
    assert_same_after_conversion(proto, {"x": drawn(2, 3, 4)})


@pytest.mark.parametrize("split", [[1, 3], None])
def test_split(split):
    sizes = {} if split is None else {"split": split}
    proto = model(
        [helper.make_node("Split", ["x"], ["a", "b"], axis=1, **sizes)],
        [("x", TensorProto.FLOAT, [2, 4])],
        [("a", TensorProto.FLOAT), ("b", TensorProto.FLOAT)],
        11,
    )
    assert_same_after_conversion(proto, {"x": drawn(2, 4)})


@pytest.mark.parametrize(
    ("node", "shape", "opset"),
    [
        (helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0, 2]), [2, 3], 11),
        (helper.make_node("Squeeze", ["x"], ["y"], axes=[1]), [2, 1, 3], 11),
        (helper.make_node("Squeeze", ["x"], ["y"]), [2, 1, 3], 11),
        (helper.make_node("Dropout", ["x"], ["y"], ratio=0.5), [2, 3], 11),
        (helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 2]), [1, 2, 4, 4], 11),
        (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], ceil_mode=1), [1, 2, 5, 5], 11),
        (helper.make_node("Gelu", ["x"], ["y"]), [2, 3], 20),
    ],
    ids=lambda value: getattr(value, "op_type", None),
)
def test_one_input_ops(node, shape, opset):
    proto = model([node], [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT)], opset)
    assert_same_after_conversion(proto, {"x": drawn(*shape)})


def test_batch_normalization_and_its_unused_outputs():
    statistics = [("s", drawn(3)), ("b", drawn(3)), ("m", drawn(3)), ("v", np.abs(drawn(3)) + 1)]
    proto = model(
        [helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3)],
        [("x", TensorProto.FLOAT, [2, 3, 4])],
        [("y", TensorProto.FLOAT)],
        11,
        statistics,
    )
    assert_same_after_conversion(proto, {"x": drawn(2, 3, 4)})


def test_batch_normalization_by_the_batch_itself_is_refused():
    parameters = ("s", "b", "m", "v")
    proto = model(
        [helper.make_node("BatchNormalization", ["x", *parameters], ["y", "mean"], name="norm")],
        [("x", TensorProto.FLOAT, [2, 3, 4])],
        [("y", TensorProto.FLOAT), ("mean", TensorProto.FLOAT)],
        11,
        [(name, np.ones(3, np.float32)) for name in parameters],
    )
    with pytest.raises(RequestError, match=r"norm.*training mode.*evaluation mode"):
        to_dialect(ir.from_proto(proto), where="m.onnx")


def test_group_normalization_repeats_scale_and_bias_for_the_channels_of_a_group():
    # ONNX Runtime cannot run opset 18's form, so the expectation is written out.
    scale, bias, x = drawn(2), drawn(2) + 1, drawn(2, 6, 5)
    proto = model(
        [helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2, epsilon=1e-5)],
        [("x", TensorProto.FLOAT, [2, 6, 5])],
        [("y", TensorProto.FLOAT)],
        18,
        [("s", scale), ("b", bias)],
    )
    converted = ir.from_proto(proto)
    to_dialect(converted, where="test")
    groups = x.reshape(2, 2, 15)
    normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = (normal * scale[:, None] + bias[:, None]).reshape(x.shape)
    (found,) = run(ir.to_proto(converted), {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_grid_sample(mode):
    grid = np.clip(drawn(1, 3, 3, 2), -0.9, 0.9)
    proto = model(
        [helper.make_node("GridSample", ["x", "g"], ["y"], mode=mode)],
        [("x", TensorProto.FLOAT, [1, 2, 4, 4]), ("g", TensorProto.FLOAT, [1, 3, 3, 2])],
        [("y", TensorProto.FLOAT)],
        16,
    )
    assert_same_after_conversion(proto, {"x": drawn(1, 2, 4, 4), "g": grid})


def test_dft_axis_becomes_an_input():
    proto = model(
        [helper.make_node("DFT", ["x"], ["y"], axis=1)],
        [("x", TensorProto.FLOAT, [1, 4, 8, 1])],
        [("y", TensorProto.FLOAT)],
        17,
    )
    assert_same_after_conversion(proto, {"x": drawn(1, 4, 8, 1)})


def test_roi_align_keeps_the_old_default():
    # ONNX Runtime has no kernel for the newest RoiAlign, so the attribute is looked at instead.
    proto = model(
        [helper.make_node("RoiAlign", ["x", "r", "i"], ["y"], output_height=2, output_width=2)],
        [("x", TensorProto.FLOAT, [1, 1, 6, 6])],
        [("y", TensorProto.FLOAT)],
        11,
        [("r", drawn(1, 4)), ("i", np.array([0], np.int64))],
    )
    converted = ir.from_proto(proto)
    to_dialect(converted, where="test")
    mode = converted.graph[0].attributes["coordinate_transformation_mode"]
    assert mode.as_string() == "output_half_pixel"


def test_rules_reach_into_subgraphs():
    def branch(name, op):
        return helper.make_graph(
            [helper.make_node(op, ["x"], [name], axes=[1], keepdims=1)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )

    proto = model(
        [
            helper.make_node(
                "If", ["c"], ["y"], then_branch=branch("t", "ReduceSum"), else_branch=branch("e", "ReduceMax")
            )
        ],
        [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2, 3])],
        [("y", TensorProto.FLOAT)],
        11,
    )
    for chosen in (True, False):
        assert_same_after_conversion(proto, {"c": np.array(chosen), "x": drawn(2, 3)})


def test_a_newer_opset_is_taken_where_nothing_needs_it():
    proto = model(
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [2])],
        [("y", TensorProto.FLOAT)],
        24,
    )
    proto.ir_version = 10
    assert_same_after_conversion(proto, {"x": drawn(2)})


def test_a_newer_op_is_refused_by_name():
    proto = model(
        [helper.make_node("Swish", ["x"], ["y"], name="act")],
        [("x", TensorProto.FLOAT, [2])],
        [("y", TensorProto.FLOAT)],
        24,
    )
    with pytest.raises(RequestError, match=r"act.*Swish.*opset 24.*export the model with opset 23"):
        to_dialect(ir.from_proto(proto), where="m.onnx")


@pytest.mark.parametrize("opset", [7, 8])
def test_an_old_opset_is_refused(opset):
    proto = model(
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [2])],
        [("y", TensorProto.FLOAT)],
        opset,
    )
    with pytest.raises(RequestError, match=f"opset {opset}, older than 9"):
        to_dialect(ir.from_proto(proto), where="m.onnx")


OLD = {
    "slice": (
        [helper.make_node("Slice", ["x"], ["y"], starts=[1, 0], ends=[5, -1], axes=[2, 3])],
        (9,),
    ),
    "slice of all axes": ([helper.make_node("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, 3])], (9,)),
    "top k": ([helper.make_node("TopK", ["x"], ["y", "i"], k=3, axis=2)], (9,)),
    "upsample": ([helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest")], (9,)),
    "linear upsample": ([helper.make_node("Upsample", ["x", "scales"], ["y"], mode="linear")], (9,)),
    "resize": ([helper.make_node("Resize", ["x", "scales"], ["y"], mode="nearest")], (10,)),
    "linear resize": ([helper.make_node("Resize", ["x", "scales"], ["y"], mode="linear")], (10,)),
    "clip": ([helper.make_node("Clip", ["x"], ["y"], min=-0.5, max=0.25)], (9, 10)),
    "clip at one end": ([helper.make_node("Clip", ["x"], ["y"], min=0.0)], (9, 10)),
    "pad": ([helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=1.5)], (9, 10)),
    "reflected": (
        [helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect")],
        (9, 10),
    ),
    "scatter": ([helper.make_node("Scatter", ["x", "i", "u"], ["y"], axis=2)], (9, 10)),
}


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name, (_, opsets) in OLD.items() for opset in opsets]
)
def test_files_of_opset_9_and_10_mean_what_they_meant(name, opset):
    nodes, _ = OLD[name]
    rng = np.random.default_rng(opset)
    x = rng.standard_normal((2, 3, 5, 6)).astype(np.float32)
    constants = {
        "scales": np.float32([1, 1, 1.6, 2.5]),
        "i": np.asarray([4, 0]).reshape(1, 1, 2, 1),
        "u": rng.standard_normal((1, 1, 2, 1)).astype(np.float32),
    }
    used = [one for one in constants.items() if one[0] in nodes[0].input]
    proto = model(nodes, [("x", TensorProto.FLOAT, [2, 3, 5, 6])], [("y", TensorProto.FLOAT)], opset, used)
    assert_same_after_conversion(proto, {"x": x})
