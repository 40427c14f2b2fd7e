"""Lowering: what a saved package computes is what ONNX Runtime computes on the graph as written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of
from onnx import helper

from edgec.core.errors import UnsupportedError
from edgec.core.evaluation import Evaluator
from edgec.targets.coreml.lowering.masks import clampable
from edgec.targets.coreml.lowering.program import lower
from edgec.targets.coreml.versions import RELEASES, release

node = helper.make_node


def expected(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with Evaluator(model) as evaluator:
        return list(evaluator.run(feeds).values())


def attention_model(**attributes: object) -> ir.Model:
    return make_model(
        [node("Attention", ["q", "k", "v"], ["y"], **attributes)],
        {"q": ("float32", (2, 4, 6, 8)), "k": ("float32", (2, 2, 6, 8)), "v": ("float32", (2, 2, 6, 8))},
        {"y": ("float32", None)},
    )


@pytest.mark.parametrize("name", RELEASES)
@pytest.mark.parametrize(
    "attributes",
    [{}, {"scale": 0.3}, {"is_causal": 1}, {"softcap": 2.0}],
    ids=["plain", "scale", "causal", "cap"],
)
def test_grouped_attention_on_every_release(saved, rng, name: str, attributes: dict) -> None:
    model = attention_model(**attributes)
    feeds = {
        "q": rng.normal(size=(2, 4, 6, 8)).astype(np.float32),
        "k": rng.normal(size=(2, 2, 6, 8)).astype(np.float32),
        "v": rng.normal(size=(2, 2, 6, 8)).astype(np.float32),
    }
    run = saved(model, name)
    np.testing.assert_allclose(run(feeds)[0], expected(model, feeds)[0], rtol=1e-5, atol=2e-6)
    fused = ops_of(run.program).count("scaled_dot_product_attention")
    assert fused == (1 if name in ("ios18", "ios26") and "softcap" not in attributes else 0)


def test_boolean_padding_mask(saved, rng) -> None:
    model = make_model(
        [node("Attention", ["q", "q", "q", "m"], ["y"], q_num_heads=2, kv_num_heads=2)],
        {"q": ("float32", (1, 5, 8)), "m": ("bool", (1, 1, 5, 5))},
        {"y": ("float32", None)},
    )
    feeds = {
        "q": rng.normal(size=(1, 5, 8)).astype(np.float32),
        "m": np.tile(np.array([1, 1, 0, 1, 0], bool), (1, 1, 5, 1)),
    }
    np.testing.assert_allclose(saved(model)(feeds)[0], expected(model, feeds)[0], rtol=1e-5, atol=2e-6)


CASES = {
    "conv": (
        [node("Conv", ["x", "w", "b"], ["y"], pads=[1, 0, 0, 1], strides=[2, 1], group=2, dilations=[1, 2])],
        {"w": (6, 2, 3, 2), "b": (6,)},
        (2, 4, 7, 8),
    ),
    "conv transpose": (
        [
            node(
                "ConvTranspose",
                ["x", "w", "b"],
                ["y"],
                strides=[2, 2],
                pads=[1, 1, 0, 0],
                output_padding=[1, 0],
            )
        ],
        {"w": (4, 3, 3, 2), "b": (3,)},
        (1, 4, 5, 4),
    ),
    "average pool with ceil": (
        [
            node(
                "AveragePool",
                ["x"],
                ["y"],
                kernel_shape=[3, 3],
                strides=[2, 2],
                ceil_mode=1,
                count_include_pad=1,
                pads=[1, 1, 1, 1],
            )
        ],
        {},
        (1, 3, 8, 6),
    ),
    "max pool, dilated": (
        [
            node(
                "MaxPool",
                ["x"],
                ["y"],
                kernel_shape=[2, 3],
                strides=[1, 2],
                dilations=[2, 1],
                pads=[1, 1, 0, 1],
            )
        ],
        {},
        (1, 3, 8, 7),
    ),
    "layer norm over two axes": (
        [node("LayerNormalization", ["x", "w", "b"], ["y"], axis=1, epsilon=1e-3)],
        {"w": (5, 6), "b": (5, 6)},
        (3, 5, 6),
    ),
    "rms norm": ([node("RMSNormalization", ["x", "w"], ["y"], epsilon=1e-3)], {"w": (6,)}, (3, 5, 6)),
    "group norm": (
        [node("GroupNormalization", ["x", "w", "b"], ["y"], num_groups=2)],
        {"w": (6,), "b": (6,)},
        (2, 6, 5, 3),
    ),
    "batch norm": (
        [node("BatchNormalization", ["x", "w", "b", "b", "v"], ["y"])],
        {"w": (6,), "b": (6,), "v": (6,)},
        (2, 6, 5),
    ),
    "instance norm": (
        [node("InstanceNormalization", ["x", "w", "b"], ["y"])],
        {"w": (6,), "b": (6,)},
        (2, 6, 5, 4),
    ),
    "lrn": ([node("LRN", ["x"], ["y"], size=3, alpha=0.5, beta=0.7, bias=1.5)], {}, (2, 6, 5, 4)),
    "gelu": ([node("Gelu", ["x"], ["y"])], {}, (4, 9)),
    "gelu by tanh": ([node("Gelu", ["x"], ["y"], approximate="tanh")], {}, (4, 9)),
    "gemm": (
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        {"w": (7, 9), "b": (7,)},
        (4, 9),
    ),
    "einsum": (
        [node("Einsum", ["x", "w"], ["y"], equation="bhid,bhjd->bijh")],
        {"w": (2, 3, 5, 6)},
        (2, 3, 4, 6),
    ),
    "log softmax": ([node("LogSoftmax", ["x"], ["y"], axis=1)], {}, (3, 5, 2)),
    "depth to space, CRD": ([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], {}, (1, 8, 3, 2)),
    "pixel norm by hand": (
        [
            node("Mul", ["x", "x"], ["a"]),
            node("ReduceMean", ["a", "axes"], ["b2"]),
            node("Sqrt", ["b2"], ["c"]),
            node("Div", ["x", "c"], ["y"]),
        ],
        {"axes": np.array([1])},
        (2, 5, 3),
    ),
    "resize linear": (
        [node("Resize", ["x", "", "s"], ["y"], mode="linear")],
        {"s": np.array([1, 1, 2, 1.5], np.float32)},
        (1, 2, 4, 6),
    ),
    "resize cubic": (
        [node("Resize", ["x", "", "s"], ["y"], mode="cubic")],
        {"s": np.array([1, 1, 2, 1.5], np.float32)},
        (1, 2, 4, 6),
    ),
    "resize nearest": (
        [
            node(
                "Resize",
                ["x", "", "s"],
                ["y"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        (1, 2, 4, 6),
    ),
    "resize nearest, corners aligned, to no whole size": (
        [
            node(
                "Resize",
                ["x", "", "s"],
                ["y"],
                mode="nearest",
                coordinate_transformation_mode="align_corners",
                nearest_mode="round_prefer_ceil",
            )
        ],
        {"s": np.array([1, 1, 1.7, 2.3], np.float32)},
        (1, 2, 7, 9),
    ),
    "resize linear, corners aligned, to no whole size": (
        [
            node(
                "Resize",
                ["x", "", "s"],
                ["y"],
                mode="linear",
                coordinate_transformation_mode="align_corners",
            )
        ],
        {"s": np.array([1, 1, 1.7, 2.3], np.float32)},
        (1, 2, 7, 9),
    ),
    "slice backwards": (
        [node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        {
            "s": np.array([-1, 1]),
            "e": np.array([-(2**62), 2**62]),
            "a": np.array([0, 1]),
            "t": np.array([-1, 2]),
        },
        (5, 7),
    ),
    "pad by reflection": (
        [node("Pad", ["x", "p"], ["y"], mode="reflect")],
        {"p": np.array([0, 2, 0, 1])},
        (3, 5),
    ),
    "gather, negative": (
        [node("Gather", ["x", "i"], ["y"], axis=1)],
        {"i": np.array([[-1, 0], [2, -3]])},
        (4, 5),
    ),
    "expand": ([node("Expand", ["x", "s"], ["y"])], {"s": np.array([2, 3, 4])}, (3, 1)),
    "definition of a function": ([node("MeanVarianceNormalization", ["x"], ["y"])], {}, (2, 3, 4, 5)),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_op_against_onnx_runtime(saved, rng, case: str) -> None:
    nodes, weights, shape = CASES[case]
    constants = {
        name: given if isinstance(given, np.ndarray) else rng.uniform(0.5, 1.5, given).astype(np.float32)
        for name, given in weights.items()
    }
    model = make_model(nodes, {"x": ("float32", shape)}, {"y": ("float32", None)}, constants)
    feeds = {"x": rng.normal(size=shape).astype(np.float32)}
    np.testing.assert_allclose(saved(model)(feeds)[0], expected(model, feeds)[0], rtol=2e-5, atol=2e-6)


def test_scalar_boolean_and_int64_inputs_keep_their_meaning(saved) -> None:
    model = make_model(
        [node("Where", ["c", "a", "b"], ["w"]), node("Add", ["w", "s"], ["y"]), node("Not", ["c"], ["n"])],
        {"c": ("bool", (3,)), "a": ("int64", (3,)), "b": ("int64", (3,)), "s": ("int64", ())},
        {"y": ("int64", (3,)), "n": ("bool", (3,))},
    )
    feeds = {
        "c": np.array([True, False, True]),
        "a": np.array([1, -2, 3]),
        "b": np.array([40, 50, 60]),
        "s": np.array(7),
    }
    found, negated = saved(model)(feeds)
    assert found.tolist() == [8, 57, 10]
    assert negated.tolist() == [0, 1, 0]


def test_half_precision_keeps_inputs_and_outputs_in_half(saved, rng) -> None:
    model = make_model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": ("float32", (3, 8))},
        {"y": ("float32", (3, 4))},
        {"w": rng.normal(size=(8, 4)).astype(np.float32)},
    )
    run = saved(model, precision="fp16")
    feeds = {"x": rng.normal(size=(3, 8)).astype(np.float32)}
    assert ops_of(run.program) == ["linear", "relu"]
    np.testing.assert_allclose(run(feeds)[0], expected(model, feeds)[0], rtol=1e-2, atol=1e-2)


def test_a_mask_of_the_smallest_float_is_clamped_and_a_plain_constant_is_not() -> None:
    lowest = np.array([0, np.finfo(np.float32).min], np.float32)
    model = make_model(
        [
            node("Add", ["x", "mask"], ["s"]),
            node("Softmax", ["s"], ["y"]),
            node("Add", ["x", "other"], ["z"]),
        ],
        {"x": ("float32", (3, 2))},
        {"y": ("float32", (3, 2)), "z": ("float32", (3, 2))},
        {"mask": lowest, "other": lowest},
    )
    found = clampable(model.graph)
    clamped = found.clamp(model.graph.initializers["mask"], lowest)
    assert clamped.min() == -1e4
    assert found.clamp(model.graph.initializers["other"], lowest) is lowest


def test_everything_that_cannot_be_lowered_is_listed_at_once() -> None:
    model = make_model(
        [
            node("NonZero", ["x"], ["i"]),
            node("RandomNormalLike", ["x"], ["r"]),
            node("Add", ["x", "r"], ["a"]),
            node("Reshape", ["a", "big"], ["y"]),
        ],
        {"x": ("float32", (2, 3))},
        {"i": ("int64", None), "y": ("float32", None)},
        {"big": np.array([1, 1, 1, 1, 2, 3])},
    )
    with pytest.raises(UnsupportedError) as caught:
        lower(model, release("ios17"))
    message = str(caught.value)
    assert "coreml:ios17" in message
    for words in ("NonZero_0", "RandomNormalLike_1", "rank 6", "depends on the data"):
        assert words in message
    assert len(caught.value.reasons) == 3


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("float64", (2, 3), "float64, which Core ML lacks"),
        ("string", (2, 3), "string, which Core ML lacks"),
        ("float32", (1, 1, 1, 1, 2, 3), "rank 6"),
        ("float32", ("batch", 3), "the open dimensions (batch)"),
        ("float32", (0, 3), "empty"),
    ],
)
def test_inputs_core_ml_lacks_are_named(kind: str, shape: tuple, words: str) -> None:
    model = make_model([node("Identity", ["x"], ["y"])], {"x": (kind, shape)}, {"y": (kind, shape)})
    with pytest.raises(UnsupportedError, match="input 'x'") as caught:
        lower(model, release("ios18"))
    assert words in str(caught.value)


def test_a_constant_beyond_int32_is_named() -> None:
    model = make_model(
        [node("Add", ["x", "c"], ["y"])],
        {"x": ("int64", (1,))},
        {"y": ("int64", (1,))},
        {"c": np.array([2**40])},
    )
    with pytest.raises(UnsupportedError, match="1099511627776, which does not fit int32"):
        lower(model, release("ios18"))


def test_a_graph_whose_nodes_lead_to_nothing_known_is_refused() -> None:
    proto = helper.make_model(
        helper.make_graph(
            [node("Frobnicate", ["x"], ["y"], domain="com.example", name="odd")],
            "g",
            [helper.make_tensor_value_info("x", 1, [2])],
            [helper.make_tensor_value_info("y", 1, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.example", 1)],
    )
    with pytest.raises(UnsupportedError, match=r"com\.example::Frobnicate 'odd'"):
        lower(ir.from_proto(onnx.ModelProto.FromString(proto.SerializeToString())), release("ios18"))


def test_the_same_model_makes_the_same_bytes(tmp_path: Path, rng) -> None:
    from edgec.targets.coreml.package import save

    model = make_model(
        [node("Conv", ["x", "w"], ["h"]), node("Gelu", ["h"], ["y"])],
        {"x": ("float32", (1, 3, 9, 9))},
        {"y": ("float32", None)},
        {"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32)},
    )
    contents = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.mlpackage"
        save(lower(model, release("ios18")), path, release("ios18"), "fp16")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        contents.append({file.relative_to(path).as_posix(): file.read_bytes() for file in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_tensor_that_leaves_more_than_once_keeps_all_its_names(saved, rng, precision: str) -> None:
    model = make_model(
        [node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["b"]), node("Identity", ["b"], ["c"])],
        {"x": ("float32", (2, 5))},
        dict.fromkeys("abc", ("float32", (2, 5))),
    )
    feeds = {"x": rng.normal(size=(2, 5)).astype(np.float32)}
    run = saved(model, "ios18", precision=precision)
    assert list(run.program.outputs) == ["a", "b", "c"]
    for found in run(feeds):
        np.testing.assert_allclose(found, np.maximum(feeds["x"], 0), rtol=1e-3)
