"""fp16 in the graph: its types, its roundings, and what stays in fp32."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.core.evaluation import Evaluator
from edgec.passes.manager import Pipeline
from edgec.passes.precision.decide import decide
from edgec.passes.precision.errors import mean_error, rms_error
from edgec.passes.precision.half import MASKED, HalfPrecision, clamp_masks
from edgec.passes.precision.judge import spelled_out
from edgec.passes.precision.plain import plain_half
from edgec.passes.precision.ranges import calibrate
from edgec.passes.precision.weights import RoundWeights

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT


def drawn(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(np.float32)


def model(text, **constants):
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = node.output[0]
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def half(built, keep=()):
    copy = built.clone()
    Pipeline([HalfPrecision(frozenset(keep))]).run(copy)
    copy.graph.sort()
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    return copy


def run(built, **feeds):
    with Evaluator(built) as evaluator:
        return evaluator.run(feeds)


def types(built):
    return {node.name: node.outputs[0].dtype for node in built.graph}


CHAIN = (
    "chain (float[4, 8] x) => (float[4, 8] y) { a = Mul (x, w) b = Erf (a) c = Add (b, x) y = Mul (c, c) }"
)


def test_each_node_rounds_to_fp16():
    w, x = drawn(8, seed=1), drawn(4, 8, seed=2)
    found = run(spelled_out(half(model(CHAIN, w=w))), x=x)["y"]

    def r(array):
        return array.astype(np.float16).astype(np.float32)

    a = r(r(x) * r(w))
    b = r(np.vectorize(math.erf)(a).astype(np.float32))
    c = r(b + r(x))
    np.testing.assert_array_equal(found, r(c * c))


def test_inputs_outputs_and_kept_nodes_stay_fp32():
    typed = half(model(CHAIN, w=drawn(8)), keep=["b"])
    assert types(typed)["a"] == HALF
    assert types(typed)["b"] == FULL
    assert typed.graph.inputs[0].dtype == FULL
    assert typed.graph.outputs[0].dtype == FULL
    assert typed.graph.outputs[0].name == "y"
    casts = [node for node in typed.graph if node.op_type == "Cast"]
    # x and b go to fp16 once each, a back to fp32 for b, y back at the end.
    assert len(casts) == 4


def test_keeping_all_is_the_fp32_graph():
    built = model(CHAIN, w=drawn(8))
    x = drawn(4, 8, seed=3)
    np.testing.assert_array_equal(
        run(spelled_out(half(built, keep=["a", "b", "c", "y"])), x=x)["y"], run(built, x=x)["y"]
    )


def test_counts_and_positions_stay_exact():
    text = """places (float[1, 3000] x, int64[1, 3000] i) => (float[1, 3000] y, int64[1] n) {
        f = Cast <to = 1> (i)
        h = Mul (f, two)
        g = Cast <to = 7> (h)
        y = GatherElements <axis = 1> (x, i)
        n = ReduceMax <keepdims = 0> (g, axis)
    }"""
    built = model(text, two=np.float32(2), axis=np.asarray([1], np.int64))
    typed = half(built, keep=["h"])
    index = np.arange(3000, dtype=np.int64)[None]
    assert run(spelled_out(typed), x=drawn(1, 3000), i=index)["n"] == 5998
    assert types(typed)["f"] == FULL


def test_scales_of_a_resize_stay_fp32_and_bodies_read_what_they_read():
    text = """mixed (float[1, 1, 2, 2] x, bool[1] c) => (float[1, 1, 4, 4] y) {
        a = Mul (x, x)
        b = Resize <mode = "nearest"> (a, , scales)
        y = If (c) <then_branch = t () => (float[1, 1, 4, 4] p) { p = Neg (b) },
                    else_branch = e () => (float[1, 1, 4, 4] q) { q = Identity (b) }>
    }"""
    built = model(text, scales=np.asarray([1, 1, 2, 2], np.float32))
    typed = half(built)
    x = drawn(1, 1, 2, 2)
    expected = run(built, x=x, c=np.asarray([True]))["y"]
    np.testing.assert_allclose(run(spelled_out(typed), x=x, c=np.asarray([True]))["y"], expected, rtol=2e-3)


def test_masks_of_minus_infinity_become_finite():
    text = "m (float[1, 4] x, bool[1, 4] c) => (float[1, 4] y) "
    text += "{ b = Where (c, zero, low) s = Add (x, b) y = Softmax (s) }"
    for low in (-3.4e38, -np.inf, -1e30):
        built = model(text, zero=np.float32(0), low=np.float32(low))
        clamp_masks(built)
        assert {float(one.const_value.numpy()) for one in built.graph.initializers.values()} == {0.0, MASKED}
        found = run(spelled_out(half(built)), x=drawn(1, 4), c=np.asarray([[True, False, True, False]]))["y"]
        assert np.isfinite(found).all()
        assert (found[0, [1, 3]] == 0).all()


NORM = """norm (float[2, 5, 16] x) => (float[2, 5, 4] y) {
    big = Mul (x, factor)
    n = LayerNormalization <axis = -1> (big, g, b)
    y = MatMul (n, w)
}"""


def norm(factor):
    return model(NORM, factor=np.float32(factor), g=1 + drawn(16, scale=0.1), b=drawn(16), w=drawn(16, 4))


@pytest.mark.parametrize("factor", [1e3, 1e5, 1e7])
def test_large_inputs_of_a_norm_stay_finite_where_plain_fp16_does_not(factor):
    built = norm(factor)
    feeds = [{"x": drawn(2, 5, 16, seed=seed)} for seed in range(2)]
    decision = decide(built, feeds)
    expected = [run(built, **feed) for feed in feeds]
    plain = [run(spelled_out(plain_half(built)), **feed) for feed in feeds]
    kept = [run(spelled_out(half(built, decision.keep)), **feed) for feed in feeds]
    # In plain fp16 the squares pass 65504: the variance is infinite and every row comes out as zeros or NaN.
    assert mean_error(expected, plain) > 0.5
    assert mean_error(expected, kept) < 2e-3
    assert ("big" in decision.keep) == (factor >= 1e5)


def test_large_logits_stay_finite_where_plain_fp16_gives_nan():
    text = """attend (float[2, 6, 16] q, float[2, 16, 6] k, float[2, 6, 16] v) => (float[2, 6, 16] y) {
        wide = Mul (q, factor)
        s = MatMul (wide, k)
        p = Softmax (s)
        y = MatMul (p, v)
    }"""
    built = model(text, factor=np.float32(3e4))
    feed = {"q": drawn(2, 6, 16), "k": drawn(2, 16, 6), "v": drawn(2, 6, 16, seed=1)}
    decision = decide(built, [feed], fused={"s", "p", "y"})
    expected = run(built, **feed)
    assert rms_error(expected, run(spelled_out(plain_half(built)), **feed)) == math.inf
    assert rms_error(expected, run(spelled_out(half(built, decision.keep)), **feed)) < 2e-3
    assert {"s", "p"} <= set(decision.keep)
    assert "65504" in decision.keep["s"]


def test_what_sinks_under_fp16_and_weights_beyond_it_are_kept():
    text = "tiny (float[4, 8] x) => (float[4, 8] y) { a = Mul (x, small) b = Mul (a, large) y = Tanh (b) }"
    built = model(text, small=np.float32(1e-7), large=np.float32(1e7))
    feed = {"x": drawn(4, 8)}
    decision = decide(built, [feed], measure=False)
    assert {"a", "b"} <= set(decision.keep)
    assert rms_error(run(built, **feed), run(spelled_out(half(built, decision.keep)), **feed)) < 2e-3


def test_norms_in_parts_are_kept_whole():
    text = """parts (float[2, 16] x) => (float[2, 16] y) {
        m = ReduceMean (x, axis)
        c = Sub (x, m)
        s = Mul (c, c)
        v = ReduceMean (s, axis)
        e = Add (v, epsilon)
        d = Sqrt (e)
        n = Div (c, d)
        y = Mul (n, g)
    }"""
    built = model(text, axis=np.asarray([-1], np.int64), epsilon=np.float32(1e-5), g=drawn(16))
    decision = decide(built, [{"x": drawn(2, 16)}], measure=False)
    assert set("mcsvedn") <= set(decision.keep)
    assert "y" not in decision.keep


def test_measured_error_halves_plain_fp16s():
    rng = np.random.default_rng(0)
    layers = "".join(
        f"n{i} = LayerNormalization <axis = -1> (r{i}, g, b) p{i} = MatMul (n{i}, w{i}) "
        f"t{i} = Gelu (p{i}) o{i} = MatMul (t{i}, u{i}) r{i + 1} = Add (r{i}, o{i}) "
        for i in range(4)
    )
    text = f"deep (float[2, 9, 32] r0) => (float[2, 9, 32] r4) {{ {layers} }}"
    constants = {"g": np.ones(32, np.float32), "b": np.zeros(32, np.float32)}
    for i in range(4):
        constants[f"w{i}"] = (rng.standard_normal((32, 64)) / 32**0.5).astype(np.float32)
        constants[f"u{i}"] = (rng.standard_normal((64, 32)) / 64**0.5).astype(np.float32)
    built = model(text, **constants)
    feeds = [{"r0": drawn(2, 9, 32, seed=seed, scale=8.0)} for seed in range(6)]
    decision = decide(built, feeds[:3])
    unseen = feeds[3:]
    expected = [run(built, **feed) for feed in unseen]
    written = built.clone()
    Pipeline([RoundWeights(decision.weights, decision.keep)]).run(written)
    kept = mean_error(expected, [run(spelled_out(half(written, decision.keep)), **feed) for feed in unseen])
    plain = mean_error(expected, [run(spelled_out(plain_half(built)), **feed) for feed in unseen])
    assert kept <= 0.5 * plain
    # The heavy products are what fp16 is for.
    assert not {f"p{i}" for i in range(4)} & set(decision.keep)


def test_ranges_cover_all_feeds():
    found = calibrate(
        model(CHAIN, w=np.ones(8).astype(np.float32)),
        [{"x": np.full((4, 8), v, np.float32)} for v in (1, -3)],
    )
    assert found["a"].largest == 3
    assert found["a"].low == -3
    assert found["a"].high == 1
    assert found["x"].largest == 3


UNARY = ("Neg", "Abs", "Tanh", "Sigmoid", "Erf", "Relu", "Exp", "Sqrt", "Floor", "Softplus")
BINARY = ("Add", "Sub", "Mul", "Max", "Min")


STEP = st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 20), st.integers(0, 20), st.booleans())


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=9))
def test_any_chain_types_and_stays_near(steps):
    names, keep, lines = ["x"], [], []
    for place, (op_type, one, other, kept) in enumerate(steps):
        name = f"v{place}"
        operands = [names[one % len(names)]]
        if op_type in BINARY:
            operands.append(names[other % len(names)])
        if op_type in ("Exp", "Sqrt"):
            lines.append(f"s{place} = Sigmoid ({operands[0]})")
            operands = [f"s{place}"]
        lines.append(f"{name} = {op_type} ({', '.join(operands)})")
        names.append(name)
        if kept:
            keep.append(name)
    text = f"any (float[3, 5] x) => (float[3, 5] {names[-1]}) {{ {' '.join(lines)} }}"
    built = model(text)
    typed = half(built, keep)
    for node in typed.graph:
        if node.name in keep:
            assert node.outputs[0].dtype == FULL
    x = drawn(3, 5, seed=len(steps))
    expected, found = run(built, x=x)[names[-1]], run(spelled_out(typed), x=x)[names[-1]]
    if not any(step[0] == "Floor" for step in steps):
        scale = max(1.0, float(np.abs(expected).max()))
        # Nine roundings of 5e-4, each grown by at most the largest magnitude of the chain's products.
        assert np.abs(expected - found).max() <= 0.1 * scale
