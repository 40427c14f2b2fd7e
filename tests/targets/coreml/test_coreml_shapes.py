"""Open sizes: ranges and a few sizes in the package, one program for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model
from onnx import helper

from edgec.core.errors import RequestError, UnsupportedError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, OpenSize, Source, tensor_spec
from edgec.core.numerics import compare
from edgec.frontends.examples import within
from edgec.frontends.inputs import open_sizes, parse_input
from edgec.targets import target_named
from edgec.targets.coreml.engine import CheckedPackage
from edgec.targets.coreml.open_shapes import settled

WIDTH, HEADS = 8, 2
SIZES = (1, 5, 12)


def encoder(causal: bool = False) -> ir.Model:
    """Tokens with counted positions, one attention with a padding mask, shapes computed at run time."""
    rng = np.random.default_rng(2)
    weights = {
        "table": rng.normal(size=(20, WIDTH)).astype(np.float32),
        "places": rng.normal(size=(16, WIDTH)).astype(np.float32),
        "w": (rng.normal(size=(WIDTH, WIDTH)) / 2).astype(np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "row": np.array([1]),
        "apart": np.array([HEADS, WIDTH // HEADS]),
        "flat": np.array([WIDTH]),
        "hidden": np.array(-1e4, np.float32),
        "shown": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["ids"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "one"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["counted"]),
        helper.make_node("Gather", ["places", "counted"], ["position"]),
        helper.make_node("Gather", ["table", "ids"], ["token"]),
        helper.make_node("Add", ["token", "position"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("Concat", ["sizes", "apart"], ["apart_shape"], axis=0),
        helper.make_node("Reshape", ["q", "apart_shape"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["q4"], perm=[0, 2, 1, 3]),
        helper.make_node("Cast", ["mask"], ["allowed"], to=9),
        helper.make_node("Attention", ["q4", "q4", "q4", "allowed"], ["mixed"], is_causal=int(causal)),
        helper.make_node("Transpose", ["mixed"], ["mixed_t"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", ["sizes", "flat"], ["flat_shape"], axis=0),
        helper.make_node("Reshape", ["mixed_t", "flat_shape"], ["joined"]),
        helper.make_node("Where", ["allowed_column", "joined", "shown"], ["kept"]),
        helper.make_node("ReduceMean", ["kept", "row"], ["y"], keepdims=0),
    ]
    nodes.insert(11, helper.make_node("Squeeze", ["allowed", "squeezed"], ["allowed_row"]))
    nodes.insert(12, helper.make_node("Unsqueeze", ["allowed_row", "last"], ["allowed_column"]))
    weights |= {"squeezed": np.array([1, 2]), "last": np.array([2])}
    inputs = {"ids": ("int64", (1, "T")), "mask": ("int64", (1, 1, 1, "T"))}
    return make_model(
        nodes, inputs, {"y": ("float32", (1, WIDTH)), "joined": ("float32", (1, "T", WIDTH))}, weights
    )


def graph_of(model: ir.Model, sizes: OpenSize | None, lengths: tuple[int, ...] = SIZES) -> Graph:
    rng = np.random.default_rng(4)
    reference = _spread_mask(model)
    run = Evaluator(reference).run
    examples = []
    for length in lengths:
        mask = np.ones((1, 1, 1, length), np.int64)
        mask[..., max(1, length - 2) :] = 0
        examples.append({"ids": rng.integers(0, 20, (1, length)), "mask": mask})
    references = [run(feeds) for feeds in examples]
    specs = tuple(tensor_spec(value) for value in model.graph.inputs)
    bounds = {} if sizes is None else {"T": sizes}
    source = Source("m.onnx", "onnx", "m", "0")
    return Graph(model, source, specs, examples, references, run_source=run, open_sizes=bounds)


def _spread_mask(model: ir.Model) -> ir.Model:
    """ONNX Runtime wants a row of the mask for every query."""
    from edgec.judging.onnxruntime_masks import adapt_masks

    copy = model.clone()
    adapt_masks(copy)
    return copy


def build(graph: Graph, folder: Path, words: str = "ios18", precision: str = "fp32") -> CheckedPackage:
    target = target_named(f"coreml:{words}")
    [candidate] = target.candidates(graph, precision)
    target.build(target.lower(graph, candidate), candidate, folder)
    return CheckedPackage(folder)


@pytest.mark.parametrize("words", ["ios16", "ios18"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_range_is_one_program_for_all_sizes(tmp_path: Path, words: str, causal: bool) -> None:
    graph = target_named(f"coreml:{words}").prepared(graph_of(encoder(causal), OpenSize(1, 16)))
    package = build(graph, tmp_path, words)
    for item in package.interpreter.package.model.description.input:
        last = item.type.multiArrayType.shapeRange.sizeRanges[-1]
        assert (last.lowerBound, last.upperBound) == (1, 16)
    assert compare(graph.references, [package.run(feeds) for feeds in graph.examples]).scaled < 1e-5


def test_a_few_sizes_are_enumerated(tmp_path: Path) -> None:
    graph = target_named("coreml").prepared(graph_of(encoder(), OpenSize(1, 12, SIZES)))
    package = build(graph, tmp_path, precision="fp16")
    told = package.interpreter.package.model.description.input[0].type.multiArrayType
    assert sorted(list(shape.shape) for shape in told.enumeratedShapes.shapes) == [
        [1, size] for size in SIZES
    ]
    assert compare(graph.references, [package.run(feeds) for feeds in graph.examples]).scaled < 5e-3


def test_several_enumerated_inputs_need_ios_18() -> None:
    graph = target_named("coreml:ios17").prepared(graph_of(encoder(), OpenSize(1, 12, SIZES)))
    with pytest.raises(UnsupportedError, match=r"before iOS 18 only one input may.*give ranges"):
        target_named("coreml:ios17").candidates(graph, "fp32")


def test_an_open_size_without_bounds_is_refused_with_the_syntax() -> None:
    with pytest.raises(
        UnsupportedError, match=r"open dimensions \(T\).*T=1\.\.512 for a range, T=64\|128\|256"
    ):
        target_named("coreml").candidates(graph_of(encoder(), None), "fp32")


def test_settled_shapes_are_constants() -> None:
    model = settled(encoder())
    shapes = [node.inputs[1] for node in model.graph if node.op_type == "Reshape"]
    assert [
        value.const_value.numpy().tolist() for value in shapes if value is not None and value.const_value
    ] == [
        [1, -1, HEADS, WIDTH // HEADS],
        [1, -1, WIDTH],
    ]


def test_pictures_of_open_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "axes": np.array([2, 3])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("AveragePool", ["m"], ["a"], kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
        helper.make_node("ReduceMean", ["a", "axes"], ["y"], keepdims=0),
    ]
    model = make_model(nodes, {"x": ("float32", (1, 3, "H", "W"))}, {"y": ("float32", (1, 4))}, weights)
    run = Evaluator(model).run
    shapes = [(1, 3, 16, 24), (1, 3, 32, 17), (1, 3, 48, 48)]
    examples = [{"x": rng.normal(size=shape).astype(np.float32)} for shape in shapes]
    specs = (tensor_spec(model.graph.inputs[0]),)
    bounds = {"H": OpenSize(16, 48), "W": OpenSize(16, 48)}
    source = Source("m.onnx", "onnx", "m", "0")
    references = [run(feeds) for feeds in examples]
    graph = Graph(model, source, specs, examples, references, run_source=run, open_sizes=bounds)
    package = build(graph, tmp_path)
    assert compare(references, [package.run(feeds) for feeds in examples]).scaled < 1e-5


def test_bounds_are_read_from_the_option() -> None:
    assert parse_input("ids:1xT=1..512x384:float32").shape == (1, "T", 384)
    assert open_sizes(["x:1x3xH=32..64xW=32|64", "m:1xT"]) == {
        "H": OpenSize(32, 64),
        "W": OpenSize(32, 64, (32, 64)),
    }
    assert open_sizes(["a:B=1..4,T=1..9", "b:T=1..9"]) == {"B": OpenSize(1, 4), "T": OpenSize(1, 9)}


@pytest.mark.parametrize("text", ["a:1xT=5..4", "a:1xT=0..4", "a:1xT=3..3", "a:1xT=1..", "a:1xT=1-4"])
def test_bounds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(RequestError):
        open_sizes([text])


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(RequestError, match=r"T is 1\.\.8 here and 1\.\.4 before"):
        open_sizes(["a:1xT=1..4", "b:1xT=1..8"])


def test_examples_reach_both_ends() -> None:
    assert [within(24, OpenSize(2, 16), sample) for sample in range(4)] == [16, 16, 2, 16]
    assert [within(24, OpenSize(8, 64, (8, 32, 64)), sample) for sample in range(4)] == [64, 32, 8, 64]
    assert within(24, None, 0) == 24
