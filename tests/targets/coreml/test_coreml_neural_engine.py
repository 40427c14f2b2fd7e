"""The Neural Engine's form: the same numbers, and transposes only where an axis order must change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgec.core.errors import RequestError, UnsupportedError
from edgec.core.evaluation import Evaluator
from edgec.targets.coreml.neural_engine.channels_first import Layout, channels_first
from edgec.targets.coreml.neural_engine.form import decide
from edgec.targets.coreml.neural_engine.storage import Factor, Stored, common, fresh, shape_of, volume
from edgec.targets.coreml.words import variant_named

node = helper.make_node


def check(model: ir.Model, *, tolerance: float = 2e-5, seed: int = 3) -> Layout:
    """The form computes what the graph computes, on two samples; returns the form."""
    layout = channels_first(model)
    rng = np.random.default_rng(seed)
    with Evaluator(model) as plain, Evaluator(layout.model) as shaped:
        for _ in range(2):
            feeds = {value.name: drawn(rng, value) for value in model.graph.inputs}
            expected, found = plain.run(feeds), shaped.run(feeds)
            assert list(found) == list(expected)
            for name, array in expected.items():
                assert found[name].shape == array.shape
                np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance)
    return layout


def drawn(rng: np.random.Generator, value: ir.Value) -> np.ndarray:
    shape = [int(size) for size in value.shape or ()]
    if value.dtype == ir.DataType.BOOL:
        found = rng.random(shape) < 0.7
        found[..., 0] = True
        return found
    if value.dtype == ir.DataType.INT64:
        return rng.integers(0, 7, shape)
    return rng.normal(size=shape).astype(np.float32)


class Writer:
    """Nodes and weights of a graph under construction."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(11)
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, op_type: str, inputs: Sequence[str], outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(
            node(op_type, list(inputs), names, name=f"{op_type}_{len(self.nodes)}", **attributes)
        )
        return names

    def one(self, op_type: str, *inputs: str, **attributes: object) -> str:
        return self.op(op_type, inputs, **attributes)[0]

    def weight(self, *shape: int, scale: float = 0.2) -> str:
        return self.constant((self.rng.normal(size=shape) * scale).astype(np.float32))

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def shape(self, *sizes: int) -> str:
        return self.constant(np.array(sizes, np.int64))

    def linear(self, x: str, rows: int, columns: int) -> str:
        return self.one("Add", self.one("MatMul", x, self.weight(rows, columns)), self.weight(columns))

    def norm(self, x: str, width: int) -> str:
        return self.one(
            "LayerNormalization", x, self.weight(width), self.weight(width), axis=-1, epsilon=1e-5
        )

    def attention(self, x: str, batch: int, tokens: int, width: int, heads: int, **masks: object) -> str:
        """Packed projections, heads split by Reshape and Transpose, as torch exports them."""
        size = width // heads
        packed = self.one(
            "Reshape", self.linear(x, width, 3 * width), self.shape(batch, tokens, 3, heads, size)
        )
        turned = self.one("Transpose", packed, perm=[2, 0, 3, 1, 4])
        parts = self.op("Split", [turned], 3, axis=0, num_outputs=3)
        flat = [self.one("Reshape", part, self.shape(batch, heads, tokens, size)) for part in parts]
        mask = [masks.pop("mask")] if "mask" in masks else []
        found = self.one("Attention", *flat, *mask, **masks)
        joined = self.one(
            "Reshape", self.one("Transpose", found, perm=[0, 2, 1, 3]), self.shape(batch, tokens, width)
        )
        return self.linear(joined, width, width)

    def block(self, x: str, batch: int, tokens: int, width: int, heads: int, **masks: object) -> str:
        x = self.one("Add", x, self.attention(self.norm(x, width), batch, tokens, width, heads, **masks))
        wide = self.one("Gelu", self.linear(self.norm(x, width), width, 2 * width))
        return self.one("Add", x, self.linear(wide, 2 * width, width))

    def model(self, inputs: dict, *outputs: str) -> ir.Model:
        named = dict.fromkeys(outputs, ("float32", None))
        return make_model(self.nodes, inputs, named, self.constants)


def vision(batch: int = 1, registers: int = 2) -> ir.Model:
    """A convolutional stem, register tokens, two blocks, the mean of the tokens, a head."""
    w, width, side = Writer(), 16, 5
    x = w.one("Conv", "image", w.weight(width, 3, 2, 2), w.weight(width), strides=[2, 2])
    x = w.one("Transpose", w.one("Reshape", x, w.shape(batch, width, side * side)), perm=[0, 2, 1])
    x = w.one("Concat", w.weight(batch, registers, width), x, axis=1)
    tokens = side * side + registers
    x = w.one("Add", x, w.weight(1, tokens, width))
    for _ in range(2):
        x = w.block(x, batch, tokens, width, 4)
    x = w.one("ReduceMean", w.norm(x, width), w.shape(1), keepdims=0)
    return w.model({"image": ("float32", (batch, 3, 10, 10))}, w.linear(x, width, 10))


def tokens_model(batch: int = 1, tokens: int = 7, width: int = 12, **masks: object) -> ir.Model:
    w = Writer()
    x = w.block("x", batch, tokens, width, 3, **masks)
    return w.model({"x": ("float32", (batch, tokens, width))}, x)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_vision_transformer_has_no_transpose(batch: int) -> None:
    layout = check(vision(batch))
    assert layout.moves == ()
    kinds = [item.op_type for item in layout.model.graph]
    assert kinds.count("Conv") == 1 + 2 * 4 + 1
    assert kinds.count("ChannelNorm") == 5
    assert not {"Attention", "MatMul"} & {item.op_type for item in layout.model.graph if len(item.inputs) < 2}
    assert kinds.count("Softmax") == 2 * 4


def test_the_package_of_a_vision_transformer(saved) -> None:
    model = vision()
    run = saved(channels_first(model).model)
    feeds = {"image": np.random.default_rng(5).normal(size=(1, 3, 10, 10)).astype(np.float32)}
    with Evaluator(model) as evaluator:
        [expected] = evaluator.run(feeds).values()
    np.testing.assert_allclose(run(feeds)[0], expected, rtol=1e-5, atol=2e-6)
    ops = ops_of(run.program)
    assert "transpose" not in ops
    assert "linear" not in ops
    assert ops.count("layer_norm") == 5
    half = saved(channels_first(model).model, precision="fp16")
    given = {"image": feeds["image"].astype(np.float16)}
    np.testing.assert_allclose(half(given)[0], expected, rtol=2e-2, atol=2e-2)
    assert "transpose" not in ops_of(half.program)


def test_tokens_at_both_ends_are_moved_once_each() -> None:
    assert len(check(tokens_model()).moves) == 2


def test_batches_of_tokens() -> None:
    assert len(check(tokens_model(batch=2)).moves) == 2


def test_causal_attention_is_masked_in_stored_order() -> None:
    assert len(check(tokens_model(is_causal=1)).moves) == 2


@pytest.mark.parametrize("shape", [(7, 7), (1, 1, 7, 7), (1, 3, 7, 7)])
def test_constant_masks(shape: tuple[int, ...]) -> None:
    w = Writer()
    mask = w.rng.normal(size=shape).astype(np.float32)
    mask[..., 2] = -np.inf
    x = w.block("x", 2, 7, 12, 3, mask=w.constant(mask))
    assert len(check(w.model({"x": ("float32", (2, 7, 12))}, x)).moves) == 2


def test_a_constant_boolean_mask() -> None:
    w = Writer()
    mask = np.tri(7, dtype=bool)
    x = w.block("x", 1, 7, 12, 3, mask=w.constant(mask))
    check(w.model({"x": ("float32", (1, 7, 12))}, x))


@pytest.mark.parametrize("kind", ["bool", "float32"])
def test_a_mask_known_at_run_time(kind: str) -> None:
    w = Writer()
    x = w.block("x", 2, 7, 12, 3, mask="m")
    inputs = {"x": ("float32", (2, 7, 12)), "m": (kind, (2, 1, 7, 7))}
    layout = check(w.model(inputs, x))
    assert len(layout.moves) == 3, "tokens in, tokens out, and the mask once"


def test_rows_that_see_no_key_are_left_to_the_general_form() -> None:
    w = Writer()
    mask = np.tri(7, dtype=bool)
    mask[3] = False
    x = w.block("x", 1, 7, 12, 3, mask=w.constant(mask))
    layout = channels_first(w.model({"x": ("float32", (1, 7, 12))}, x))
    assert "Attention" in [item.op_type for item in layout.model.graph]


def test_grouped_heads_and_rank_3() -> None:
    w = Writer()
    q, k, v = w.linear("x", 12, 12), w.linear("x", 12, 6), w.linear("x", 12, 6)
    y = w.one("Attention", q, k, v, q_num_heads=4, kv_num_heads=2, scale=0.3)
    layout = check(w.model({"x": ("float32", (2, 5, 12))}, w.linear(y, 12, 12)))
    assert len(layout.moves) == 2


def test_attention_in_parts_keeps_its_matrices_as_they_lie() -> None:
    w = Writer()
    split = [
        w.one("Reshape", w.linear("x", 12, 12), w.shape(2, 5, 3, 4)),
        w.one("Reshape", w.linear("x", 12, 12), w.shape(2, 5, 3, 4)),
        w.one("Reshape", w.linear("x", 12, 12), w.shape(2, 5, 3, 4)),
    ]
    q, v = (w.one("Transpose", part, perm=[0, 2, 1, 3]) for part in (split[0], split[2]))
    k = w.one("Transpose", split[1], perm=[0, 2, 3, 1])
    p = w.one("Softmax", w.one("MatMul", q, k), axis=-1)
    y = w.one("Transpose", w.one("MatMul", p, v), perm=[0, 2, 1, 3])
    y = w.linear(w.one("Reshape", y, w.shape(2, 5, 12)), 12, 12)
    assert len(check(w.model({"x": ("float32", (2, 5, 12))}, y)).moves) == 2


def test_windows_are_moved_in_and_out_only() -> None:
    """Swin's partition: rank 6 in between, so one move in front of the projections and one behind."""
    w, width = Writer(), 8
    x = w.one("Conv", "image", w.weight(width, 3, 1, 1))
    x = w.one("Transpose", x, perm=[0, 2, 3, 1])
    y = w.one("Reshape", w.norm(x, width), w.shape(1, 2, 4, 2, 4, width))
    y = w.one("Reshape", w.one("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), w.shape(4, 16, width))
    y = w.attention(y, 4, 16, width, 2)
    y = w.one("Transpose", w.one("Reshape", y, w.shape(1, 2, 2, 4, 4, width)), perm=[0, 1, 3, 2, 4, 5])
    x = w.one("Add", x, w.one("Reshape", y, w.shape(1, 8, 8, width)))
    x = w.one("ReduceMean", w.norm(x, width), w.shape(1, 2), keepdims=0)
    layout = check(w.model({"image": ("float32", (1, 3, 8, 8))}, w.linear(x, width, 5)))
    assert len(layout.moves) == 2


def test_root_mean_square_norms(saved) -> None:
    w = Writer()
    x = w.one("RMSNormalization", "x", w.weight(12), axis=-1, epsilon=1e-5)
    model = w.model({"x": ("float32", (1, 6, 12))}, w.linear(x, 12, 12))
    layout = check(model)
    assert "ChannelRMSNorm" in [item.op_type for item in layout.model.graph]
    feeds = {"x": np.random.default_rng(2).normal(size=(1, 6, 12)).astype(np.float32)}
    with Evaluator(model) as evaluator:
        [expected] = evaluator.run(feeds).values()
    np.testing.assert_allclose(saved(layout.model)(feeds)[0], expected, rtol=1e-5, atol=2e-6)


def test_a_tensor_that_meets_itself() -> None:
    w = Writer()
    x = w.linear("x", 6, 6)
    y = w.one("MatMul", x, w.one("Transpose", x, perm=[0, 2, 1]))
    z = w.one("Add", y, w.one("Transpose", y, perm=[0, 2, 1]))
    check(w.model({"x": ("float32", (2, 6, 6))}, z))


def test_sizes_that_do_not_divide_are_read_in_order() -> None:
    w = Writer()
    x = w.one("Reshape", w.linear("x", 4, 6), w.shape(2, 15))
    check(w.model({"x": ("float32", (1, 5, 4))}, w.one("Softmax", x, axis=1)))


def test_slices_and_gathers_in_stored_order() -> None:
    w = Writer()
    x = w.linear("x", 6, 8)
    back = w.one("Slice", x, w.shape(-1), w.shape(-100), w.shape(1), w.shape(-2))
    head = w.one("Slice", x, w.shape(1), w.shape(3), w.shape(1))
    picked = w.one("Gather", x, w.constant(np.array([4, 0, -1])), axis=1)
    token = w.one("Gather", x, w.constant(np.array(-2)), axis=1)
    joined = w.one("Concat", back, head, picked, w.weight(2, 1, 8), axis=1)
    check(w.model({"x": ("float32", (2, 5, 6))}, joined, w.linear(token, 8, 3)))


def test_an_outer_sum_falls_back() -> None:
    w = Writer()
    x = w.linear("x", 6, 8)
    column = w.one("ReduceMean", x, w.shape(2), keepdims=1)
    row = w.one("ReduceMax", x, w.shape(1), keepdims=1)
    check(w.model({"x": ("float32", (2, 5, 6))}, w.one("Add", column, row)))


def test_outputs_that_are_inputs_or_twice_the_same() -> None:
    w = Writer()
    x = w.linear("x", 6, 6)
    turned = w.one("Transpose", x, perm=[0, 2, 1])
    same = w.one("Transpose", "x", perm=[0, 1, 2])
    check(w.model({"x": ("float32", (1, 4, 6))}, x, turned, same))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_drawn_chains(data: st.DataObject) -> None:
    """Reshapes, transposes, slices, joins and sums in any order: the numbers stay."""
    w = Writer()
    values: list[tuple[str, tuple[int, ...]]] = [("x", (2, 6, 4)), (w.linear("x", 4, 8), (2, 6, 8))]
    for _ in range(data.draw(st.integers(2, 7))):
        name, shape = data.draw(st.sampled_from(values))
        kind = data.draw(
            st.sampled_from(["reshape", "transpose", "slice", "softmax", "linear", "add", "norm", "sum"])
        )
        axis = data.draw(st.integers(0, len(shape) - 1))
        if kind == "reshape":
            shape = data.draw(st.sampled_from(factorings(math.prod(shape))))
            name = w.one("Reshape", name, w.shape(*shape))
        elif kind == "transpose":
            perm = data.draw(st.permutations(range(len(shape))))
            name, shape = w.one("Transpose", name, perm=perm), tuple(shape[at] for at in perm)
        elif kind == "slice" and shape[axis] > 1:
            start = data.draw(st.integers(0, shape[axis] - 1))
            name = w.one("Slice", name, w.shape(start), w.shape(shape[axis]), w.shape(axis))
            shape = (*shape[:axis], shape[axis] - start, *shape[axis + 1 :])
        elif kind == "softmax":
            name = w.one("Softmax", name, axis=axis)
        elif kind == "linear" and len(shape) > 1:
            name, shape = w.linear(name, shape[-1], 4), (*shape[:-1], 4)
        elif kind == "norm" and len(shape) > 1:
            name = w.norm(name, shape[-1])
        elif kind == "sum":
            name = w.one("ReduceSum", name, w.shape(axis), keepdims=1)
            shape = (*shape[:axis], 1, *shape[axis + 1 :])
        elif kind == "add":
            others = [found for found, its in values if its == shape]
            name = w.one("Add", name, data.draw(st.sampled_from([*others, w.weight(shape[-1])])))
        values.append((name, shape))
    check(w.model({"x": ("float32", (2, 6, 4))}, w.one("Relu", values[-1][0])), tolerance=2e-4)


def factorings(count: int) -> list[tuple[int, ...]]:
    found = [(count,)]
    for first in range(1, count + 1):
        if count % first == 0:
            found.append((first, count // first))
            found += [
                (first, second, count // first // second)
                for second in range(1, count // first + 1)
                if (count // first) % second == 0
            ]
    return found


def test_open_shapes_are_refused() -> None:
    w = Writer()
    model = w.model({"x": ("float32", ("n", 5, 4))}, w.linear("x", 4, 6))
    with pytest.raises(UnsupportedError, match="open sizes"):
        channels_first(model)


def test_the_source_layers_are_kept() -> None:
    model = vision()
    names = {item.name for item in model.graph}
    for item in channels_first(model).model.graph:
        assert item.metadata_props["edgec.source"] in names


def test_the_rule() -> None:
    auto, asked, plain = (variant_named(text) for text in ("ios18:auto", "ios18:neural-engine", "ios18"))
    assert decide(asked, vision(), "fp32").taken
    assert not decide(plain, vision(), "fp16").taken
    found = decide(auto, vision(), "fp16")
    assert found.taken
    assert found.why == "no transpose stays"
    assert "fp16" in decide(auto, vision(), "fp32").why
    assert decide(auto, tokens_model(), "fp16").taken
    w = Writer()
    convolution = w.model({"x": ("float32", (1, 3, 4, 4))}, w.one("Conv", "x", w.weight(2, 3, 1, 1)))
    assert "no linear layer" in decide(auto, convolution, "fp16").why


def test_the_rule_declines_where_transposes_stay_inside() -> None:
    w = Writer()
    x = "x"
    for _ in range(3):
        x = w.one("CumSum", w.linear(x, 8, 8), w.constant(np.array(2)))
    model = w.model({"x": ("float32", (1, 5, 8))}, w.linear(x, 8, 8))
    found = decide(variant_named("auto"), model, "fp16")
    assert not found.taken
    assert "transposes would stay inside" in found.why


def test_a_misspelt_word() -> None:
    with pytest.raises(RequestError, match="neural-engine"):
        variant_named("ios18:neural-engin")


@given(st.lists(st.integers(2, 6), min_size=1, max_size=4), st.data())
def test_reshaped_storage_reads_the_same_elements(shape: list[int], data: st.DataObject) -> None:
    axes = fresh(shape)
    stored = Stored(ir.Value(name="x"), axes, axes)
    wanted = data.draw(st.sampled_from(factorings(math.prod(shape))))
    found = stored.reshaped(wanted)
    if found is None:
        return
    assert found.shape == tuple(wanted)
    assert shape_of(found.stored) == tuple(shape)
    assert found.as_read


@given(st.lists(st.integers(2, 5), max_size=4), st.lists(st.integers(2, 5), max_size=4))
def test_common_factors(first: list[int], second: list[int]) -> None:
    one, other = (tuple(Factor(size) for size in sizes) for sizes in (first, second))
    parts = common(one, other)
    if volume(one) != volume(other):
        assert parts is None
        return
    if parts is not None:
        flat = [
            [part for factor in side for part in split[factor]]
            for side, split in zip((one, other), parts, strict=True)
        ]
        assert flat[0] == flat[1]
