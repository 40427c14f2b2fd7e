"""What a file asks for is refused before it is done; what is broken in it is one sentence."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.core.errors import RequestError
from edgec.frontends.onnx import from_onnx

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
node = helper.make_node


def value(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, weights=(), functions=(), shape=(2,), out=(2,)) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value("x", list(shape))], [value("y", list(out))], list(weights))
    made = helper.make_model(graph, opset_imports=OPSETS, functions=list(functions))
    made.ir_version = 9
    return made


def function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function("own", name, ["a"], ["b"], nodes, OPSETS)


def doubling(depth: int) -> onnx.ModelProto:
    made, last = [function("F0", [node("Neg", ["a"], ["b"])])], "F0"
    for level in range(1, depth):
        calls = [node(last, ["a"], ["t"], domain="own"), node(last, ["t"], ["b"], domain="own")]
        last = f"F{level}"
        made.append(function(last, calls))
    return model([node(last, ["x"], ["y"], domain="own")], functions=made)


def saved(made: onnx.ModelProto, folder: Path) -> str:
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return str(path)


def refusal(made: onnx.ModelProto, folder: Path) -> str:
    with pytest.raises(RequestError) as caught:
        from_onnx(saved(made, folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("depth", [14, 40])
def test_functions_that_double_are_refused_before_they_are_inlined(tmp_path: Path, depth: int) -> None:
    # Inlined, a depth of 40 would have 2^39 nodes: this ends, or never.
    assert "EDGEC_MAX_FUNCTION_CALLS" in refusal(doubling(depth), tmp_path)


def test_a_bomb_that_nothing_calls_is_refused_too(tmp_path: Path) -> None:
    made = doubling(40)
    del made.graph.node[:]
    made.graph.node.append(node("Neg", ["x"], ["y"]))
    assert "EDGEC_MAX_FUNCTION_CALLS" in refusal(made, tmp_path)


def test_functions_within_the_limit_are_inlined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(doubling(4), tmp_path)
    assert len(from_onnx(path).model.graph) == 8
    monkeypatch.setenv("EDGEC_MAX_NODES", "7")
    with pytest.raises(RequestError, match="8 nodes"):
        from_onnx(path)


def test_a_chain_of_functions_has_an_end(tmp_path: Path) -> None:
    made = [function("F0", [node("Neg", ["a"], ["b"])])]
    made += [function(f"F{i}", [node(f"F{i - 1}", ["a"], ["b"], domain="own")]) for i in range(1, 2000)]
    assert "deep" in refusal(model([node("F1999", ["x"], ["y"], domain="own")], functions=made), tmp_path)


def test_a_function_that_calls_itself_is_named(tmp_path: Path) -> None:
    first = function("First", [node("Second", ["a"], ["b"], domain="own")])
    second = function("Second", [node("First", ["a"], ["b"], domain="own")])
    said = refusal(model([node("First", ["x"], ["y"], domain="own")], functions=[first, second]), tmp_path)
    assert "First -> Second -> First" in said or "Second -> First -> Second" in said


def sized(*nodes: onnx.NodeProto, **constants: list[int]) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.array(sizes), name) for name, sizes in constants.items()]
    tail = [node("ReduceSum", ["big"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"])]
    return model([*nodes, *tail], weights)


@pytest.mark.parametrize(
    "made",
    [
        sized(node("ConstantOfShape", ["s"], ["big"]), s=[65536, 65536]),
        sized(node("Mul", ["s", "s"], ["t"]), node("ConstantOfShape", ["t"], ["big"]), s=[300, 300]),
        sized(node("Expand", ["x", "s"], ["big"]), s=[65536, 65536, 2]),
        sized(node("Tile", ["x", "s"], ["big"]), s=[2**33]),
    ],
    ids=["constant", "computed", "expand", "tile"],
)
def test_a_tensor_that_fits_no_machine_is_refused_before_it_is_made(
    tmp_path: Path, made: onnx.ModelProto
) -> None:
    start = time.process_time()
    assert "EDGEC_MAX_TENSOR_BYTES" in refusal(made, tmp_path)
    assert time.process_time() - start < 60


def test_an_input_that_fits_no_machine_is_refused(tmp_path: Path) -> None:
    assert "the input 'x'" in refusal(model([node("Neg", ["x"], ["y"])], shape=(2**20, 2**20)), tmp_path)


WEIGHT = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")


def matmul() -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], ["y"])], [WEIGHT], shape=(1, 8), out=(1, 4))


def edit(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    made = matmul()
    change(made)
    return made


def external(location: str) -> onnx.ModelProto:
    made = matmul()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    return made


def self_reading() -> onnx.ModelProto:
    inner = helper.make_graph([node("Add", ["x", "t"], ["t"])], "then", [], [value("t", [2])])
    other = helper.make_graph([node("Abs", ["x"], ["o"])], "else", [], [value("o", [2])])
    flag = numpy_helper.from_array(np.array(True), "c")
    return model([node("If", ["c"], ["y"], then_branch=inner, else_branch=other)], [flag])


def reading_its_holder() -> onnx.ModelProto:
    inner = helper.make_graph([node("Neg", ["y"], ["t"])], "then", [], [value("t", [2])])
    other = helper.make_graph([node("Abs", ["x"], ["o"])], "else", [], [value("o", [2])])
    flag = numpy_helper.from_array(np.array(True), "c")
    return model([node("If", ["c"], ["y"], then_branch=inner, else_branch=other)], [flag])


def with_reference() -> onnx.ModelProto:
    made = model([node("LeakyRelu", ["x"], ["y"], alpha=0.1)])
    made.graph.node[0].attribute[0].ref_attr_name = "alpha"
    return made


def sequence() -> onnx.ModelProto:
    made = model([node("SequenceConstruct", ["x", "x"], ["y"])])
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2]))
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (edit(lambda made: made.graph.initializer[0].dims.__setitem__(0, 2**40)), "what its shape"),
        (edit(lambda made: made.graph.initializer[0].dims.__setitem__(0, -8)), "negative size"),
        (edit(lambda made: setattr(made.graph.initializer[0], "data_type", 99)), "the type 99"),
        (edit(lambda made: setattr(made.graph.initializer[0], "data_type", 0)), "the type 0"),
        (edit(lambda made: setattr(made.graph.initializer[0], "data_type", TensorProto.DOUBLE)), "its shape"),
        (edit(lambda made: made.graph.node.append(node("Relu", ["y"], []))), "no output"),
        (external("a\0b"), "no file can be called"),
        (external("n" * 300), "is missing"),
        (external("../w.bin"), "outside the model's folder"),
        (self_reading(), "cycle"),
        (reading_its_holder(), "cycle"),
        (with_reference(), "from a call of a function"),
        (sequence(), "a list"),
    ],
)
def test_what_is_broken_is_one_sentence(tmp_path: Path, made: onnx.ModelProto, words: str) -> None:
    assert words in refusal(made, tmp_path)


def test_external_data_of_a_function_is_found_in_the_models_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "here").mkdir()
    np.full(2, 3, np.float32).tofile(tmp_path / "model" / "k.bin")
    np.full(2, 5, np.float32).tofile(tmp_path / "here" / "k.bin")
    np.full(2, 7, np.float32).tofile(tmp_path / "secret.bin")
    monkeypatch.chdir(tmp_path / "here")

    def calling(location: str) -> onnx.ModelProto:
        held = node("Constant", [], ["k"], value=numpy_helper.from_array(np.zeros(2, np.float32), "k"))
        tensor = held.attribute[0].t
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", location), ("length", "8")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, text
        body = function("F", [held, node("Mul", ["a", "k"], ["b"])])
        return model([node("F", ["x"], ["y"], domain="own")], functions=[body])

    graph = from_onnx(saved(calling("k.bin"), tmp_path / "model"))
    np.testing.assert_array_equal(graph.references[0]["y"], graph.examples[0]["x"] * 3)
    held = next(made for made in graph.model.graph if made.op_type == "Constant")
    np.testing.assert_array_equal(held.attributes["value"].as_tensor().numpy(), [3, 3])
    assert "outside the model's folder" in refusal(calling("../secret.bin"), tmp_path / "model")


@pytest.mark.parametrize("declared", [(), (1,), (1, 1, 4)])
def test_a_file_that_says_another_rank_than_it_computes(tmp_path: Path, declared: tuple[int, ...]) -> None:
    made = model([node("MatMul", ["x", "w"], ["y"])], [WEIGHT], shape=(1, 8), out=declared)
    graph = from_onnx(saved(made, tmp_path))
    assert graph.outputs[0].shape == (1, 4)
