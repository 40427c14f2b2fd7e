"""Outputs that become one variable, names that MIL reserves, and ops known by their definition."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, packaged
from onnx import helper

from edgec.core.errors import UnsupportedError
from edgec.targets.coreml.lowering.definitions import WHOLE_KEY, expanded
from edgec.targets.coreml.lowering.program import lower
from edgec.targets.coreml.versions import release

node = helper.make_node
ROW = ("float32", [1, 1])

TWINS = {
    "transposed": [node("MatMul", ["x", "w"], ["a"]), node("Transpose", ["a"], ["b"], perm=[1, 0])],
    "reshaped": [node("MatMul", ["x", "w"], ["a"]), node("Reshape", ["a", "row"], ["b"])],
    "computed twice": [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["x", "w"], ["b"])],
    "handed on": [node("MatMul", ["x", "w"], ["a"]), node("Identity", ["a"], ["b"])],
    "three": [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "zero"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[1, 0]),
    ],
    "two pairs": [
        node("MatMul", ["x", "w"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=[1, 0]),
        node("Relu", ["a"], ["c"]),
        node("Transpose", ["c"], ["d"], perm=[1, 0]),
    ],
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", TWINS)
def test_outputs_that_coincide(tmp_path, case: str, precision: str) -> None:
    nodes = TWINS[case]
    outputs = {name: ROW for one in nodes for name in one.output}
    constants = {"w": np.ones((8, 1), np.float32), "row": np.array([1, 1]), "zero": np.zeros(1, np.float32)}
    used = {name for one in nodes for name in one.input}
    model = make_model(
        list(nodes),
        {"x": ("float32", [1, 8])},
        outputs,
        {name: array for name, array in constants.items() if name in used},
    )
    feeds = {"x": np.arange(8, dtype=np.float32)[None]}
    package, source = packaged(model, [feeds], tmp_path / "engine", precision=precision)
    found, expected = package.run(feeds), source(feeds)
    assert {name: array.item() for name, array in found.items()} == {
        name: array.item() for name, array in expected.items()
    }


@pytest.mark.parametrize(
    ("given", "made"),
    [("state", "bool"), ("a.b", "a_b"), ("a_b", "a.b"), ("tensor", "1"), ("fp16", "Relu_0")],
)
def test_names_that_mil_has_taken(tmp_path, given: str, made: str) -> None:
    model = make_model([node("Relu", [given], [made])], {given: ROW}, {made: ROW})
    feeds = {given: np.ones((1, 1), np.float32)}
    package, _ = packaged(model, [feeds], tmp_path / "engine")
    assert package.run(feeds)[made] == 1


def scaled() -> ir.Model:
    """Three calls of a function of the model: relu(x) · alpha, 2 unless said."""
    alpha = node("Constant", [], ["alpha"])
    alpha.attribute.add(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha")
    function = helper.make_function(
        "own",
        "Scaled",
        ["x"],
        ["y"],
        [alpha, node("Relu", ["x"], ["r"]), node("Mul", ["r", "alpha"], ["y"])],
        [helper.make_opsetid("", 23)],
        attribute_protos=[helper.make_attribute("alpha", 2.0)],
    )
    nodes = [
        node("Scaled", ["x"], ["a"], domain="own", name="first"),
        node("Scaled", ["a"], ["b"], domain="own", name="second", alpha=5.0),
        node("Abs", ["b"], ["y"], name="last"),
    ]
    inputs, outputs = ([helper.make_tensor_value_info(name, 1, [4])] for name in "xy")
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    imports = [helper.make_opsetid("", 23), helper.make_opsetid("own", 1)]
    return ir.from_proto(helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=11))


def test_defaults_of_a_definition_are_bound(tmp_path) -> None:
    feeds = {"x": np.array([-1, 0, 1, 2], np.float32)}
    package, _ = packaged(scaled(), [feeds], tmp_path / "engine")
    assert package.run(feeds)["y"].tolist() == [0, 0, 10, 20]


def test_parts_of_a_definition_name_the_whole() -> None:
    wholes = [one.metadata_props.get(WHOLE_KEY) for one in expanded(scaled()).graph]
    assert wholes[-1] is None
    assert [whole for whole in dict.fromkeys(wholes) if whole] == ["Scaled 'first'", "Scaled 'second'"]


def test_refusal_of_a_definition_is_one_sentence() -> None:
    model = make_model(
        [
            node("CenterCropPad", ["x", "size"], ["y"], name="crop"),
            node("NonZero", ["y"], ["z"], name="places"),
        ],
        {"x": ("float32", [4, 6]), "size": ("int64", [2])},
        {"z": ("int64", None)},
    )
    with pytest.raises(UnsupportedError) as caught:
        lower(model, release("ios18"))
    reasons = caught.value.reasons
    assert sum("crop" in reason for reason in reasons) == 1
    assert any(reason.startswith("CenterCropPad 'crop': its definition needs") for reason in reasons)
    assert any(reason.startswith("NonZero 'places'") for reason in reasons)
