"""Axes followed through drawn movement, and the fewest steps from one layout to another."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from attention_graphs import Graph
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper as h

from edgec.passes.fuse.attention_product import lay, read_product
from edgec.passes.fuse.attention_views import plan
from edgec.passes.fuse.axes import Axes
from edgec.passes.fuse.features import feature_index
from edgec.passes.infra import Refusal


def factorings(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes with this many elements, with some axes of size one."""

    @st.composite
    def shape(draw) -> tuple[int, ...]:
        left, sizes = size, []
        while left > 1:
            factor = draw(st.sampled_from([d for d in range(2, left + 1) if left % d == 0]))
            sizes.append(factor)
            left //= factor
        for _ in range(draw(st.integers(0, 2))):
            sizes.insert(draw(st.integers(0, len(sizes))), 1)
        return tuple(sizes)

    return shape()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_planned_steps_do_what_the_movement_did(data):
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=5))
    axes = Axes()
    start = layout = tuple(axes.fresh(size) for size in sizes)
    first = array = np.arange(int(np.prod(sizes))).reshape(sizes)
    for _ in range(data.draw(st.integers(0, 5))):
        if data.draw(st.booleans()):
            perm = tuple(data.draw(st.permutations(range(array.ndim))))
            array, layout = array.transpose(perm), tuple(layout[axis] for axis in perm)
        else:
            shape = data.draw(factorings(array.size))
            try:
                layout = axes.reshape(layout, shape)
            except Refusal:
                continue  # the shape mixes axes; nothing is followed then
            array = array.reshape(shape)
    steps = plan(axes, start, layout)
    assert len(steps) <= 3
    moved = first
    for op_type, argument in steps:
        moved = moved.transpose(argument) if op_type == "Transpose" else moved.reshape(argument)
    np.testing.assert_array_equal(moved, array)
    if array.shape == first.shape and (array == first).all() and array.size > 1 and 1 not in array.shape:
        assert steps == []


def test_reshapes_split_axes_once_for_everyone():
    axes = Axes()
    heads = axes.fresh(6)
    other = (heads, axes.fresh(5))
    split = axes.reshape((heads,), (2, 3))
    assert axes.resolve(other[0]) == split[0] + split[1]
    assert axes.size(other[0]) == 6


@pytest.mark.parametrize(("before", "after"), [((4, 6), (6, 4)), ((2, 3), (3, 2)), ((4, 9), (6, 6))])
def test_a_reshape_that_mixes_axes_is_refused(before, after):
    axes = Axes()
    with pytest.raises(Refusal, match="mixes axes"):
        axes.reshape(tuple(axes.fresh(size) for size in before), after)


def test_open_sizes_are_followed_by_name():
    axes = Axes()
    layout = (axes.fresh("batch"), axes.fresh("tokens"), axes.fresh(12))
    split = axes.reshape(layout, ("batch", "tokens", 3, 4))
    assert [axes.size(dim) for dim in split] == ["batch", "tokens", 3, 4]
    merged = axes.reshape(split, ("merged", 3, 4))
    assert merged[0] == layout[0] + layout[1]
    assert axes.size(axes.reshape(merged, ("batch", "tokens", 12))[2]) == 12


@pytest.mark.parametrize(
    ("equation", "left", "right", "contracted", "free"),
    [
        ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5), ("d",), (("i",), ("j",))),
        ("bihd, bjd -> bhij", (2, 4, 3, 5), (2, 6, 5), ("d",), (("h", "i"), ("j",))),
        ("...id,...jd->...ij", (2, 3, 4, 5), (2, 3, 6, 5), ("d",), (("i",), ("j",))),
    ],
)
def test_einsum_reads_like_a_matmul(equation, left, right, contracted, free):
    g = Graph()
    g.op("Einsum", g.input(g.draw(*left)), g.input(g.draw(*right)), equation=equation)
    model = ir.from_proto(g.proto("t0_0"))
    product = read_product(next(iter(model.graph)))
    assert product is not None
    assert product.contracted == contracted
    assert (product.free(0), product.free(1)) == free
    axes = Axes()
    bound = product.bind(axes)
    shape = [axes.size(dim) for dim in lay(product.out, bound)]
    assert shape == list(model.graph.outputs[0].shape)


@pytest.mark.parametrize("equation", ["bii,bij->bij", "bij,bjk->bk", "bij->bij"])
def test_other_einsums_are_no_products(equation):
    count = equation.count(",") + 1
    node = h.make_node("Einsum", [f"x{i}" for i in range(count)], ["y"], equation=equation)
    inputs = [h.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, (2, 3, 3)) for i in range(count)]
    graph = h.make_graph([node], "g", inputs, [h.make_tensor_value_info("y", 1, None)])
    model = ir.from_proto(h.make_model(graph, opset_imports=[h.make_opsetid("", 23)]))
    assert read_product(next(iter(model.graph))) is None


def test_features_are_followed_through_any_movement():
    g = Graph()
    x = g.linear(g.input(g.draw(1, 4, 6)), 6, 12)
    parts = g.op("Split", x, g.const([4, 8], np.int64), outputs=2, axis=-1)
    moved = g.op("Relu", g.transpose(g.reshape(parts[1], 1, 4, 2, 4), 0, 2, 3, 1))
    picked = g.op("Gather", moved, g.const([3, 0], np.int64), axis=2)
    model = ir.from_proto(g.proto(picked))
    index = feature_index(model.graph.outputs[0])
    assert index is not None
    assert index.shape == (1, 2, 2, 4)
    expected = np.array([[7, 4], [11, 8]])
    np.testing.assert_array_equal(index, np.broadcast_to(expected[None, :, :, None], index.shape))


def test_features_of_convolutions_are_on_axis_one():
    g = Graph()
    x = g.op("Conv", g.input(g.draw(1, 2, 3, 3)), g.const(g.draw(4, 2, 1, 1)))
    model = ir.from_proto(g.proto(g.transpose(g.reshape(x, 1, 4, 9), 0, 2, 1)))
    index = feature_index(model.graph.outputs[0])
    assert index is not None
    assert (index == np.arange(4)).all()


def test_features_of_graph_inputs_are_unknown():
    g = Graph()
    model = ir.from_proto(g.proto(g.op("Relu", g.input(g.draw(1, 2, 3)))))
    assert feature_index(model.graph.outputs[0]) is None
