"""Rows are followed through every op that keeps them apart, and where they are not it is said."""

import numpy as np
import pytest
from pass_graphs import apply, build, check, i64, reasons, weight
from test_sink_slice import NAME, SINK

from edgec.core.op_traits import BROADCASTING, UNARY
from edgec.passes.editing import sizes

# 12 rows of 8 features, of which the head reads one: x ── MatMul ── the op ── MatMul ── row 5 ── y.
ROWS, WIDTH = 12, 8
GRAPH = """(float[1,12,8] x) => (y) {{ a = MatMul(x, w)\n {step}\n c = MatMul(b, v)
    r = Gather<axis=1>(c, row)\n y = MatMul(r, h) }}"""


def network(step, **numbers):
    return build(
        GRAPH.format(step=step),
        w=weight(WIDTH, WIDTH),
        v=weight(WIDTH, WIDTH, seed=1),
        h=weight(WIDTH, 5, seed=2),
        row=np.array(5),
        **numbers,
    )


def rows_of(model, op_type):
    """How many rows each node of the op makes."""
    return [sizes(node.outputs[0])[1] for node in model.graph if node.op_type == op_type]


BOOLEAN = {"IsInf", "IsNaN", "Not"}
# Ops that ONNX Runtime has no fp32 kernel for on this graph, or that want something else than floats.
OTHER_TYPES = {"BitwiseNot", "Cast", "CastLike", "Acosh", "Swish"} | BOOLEAN
STEPS = {name: f"b = {name}(a)" for name in UNARY - OTHER_TYPES}
STEPS |= {
    "Cast": "i = Cast<to=7>(a)\n b = Cast<to=1>(i)",
    "CastLike": "b = CastLike(a, one)",
    "Clip": "b = Clip(a, low)",
    "Dropout": "b = Dropout(a)",
    "Identity": "b = Identity(a)",
    "Acosh": "m = Exp(a)\n n = Add(m, one)\n b = Acosh(n)",
    **{name: f"m = {name}(a)\n b = Cast<to=1>(m)" for name in ("IsInf", "IsNaN")},
    "Not": "m = IsNaN(a)\n n = Not(m)\n b = Cast<to=1>(n)",
}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_elementwise_op_works_on_the_rows_that_are_read(name):
    model = network(STEPS[name], one=np.float32(1), low=np.float32(-0.5))
    for each in ("Acos", "Asin", "Atanh", "Log", "Sqrt"):
        if name == each:  # defined on part of the line only: nan is nan on either side
            model = network(f"s = Sigmoid(a)\n b = {name}(s)")
    report = check(model, *SINK)[NAME]
    assert rows_of(model, "MatMul")[:2] == [1, 1]
    assert report.missed == ()


PAIRS = {name: f"b = {name}(a, column)" for name in BROADCASTING}
PAIRS |= {name: f"m = {name}(a, column)\n b = Cast<to=1>(m)" for name in BROADCASTING if "e" in name[1:]}
PAIRS |= {
    **{name: f"m = {name}(a, column)\n b = Cast<to=1>(m)" for name in ("Equal", "Greater", "GreaterOrEqual")},
    **{name: f"m = {name}(a, column)\n b = Cast<to=1>(m)" for name in ("Less", "LessOrEqual")},
    **{
        name: f"p = Greater(a, column)\n q = Less(a, full)\n m = {name}(p, q)\n b = Cast<to=1>(m)"
        for name in ("And", "Or", "Xor")
    },
    "Mean": "b = Mean(a, column)",
    "Mod": "b = Mod<fmod=1>(a, column)",
    "Pow": "s = Sigmoid(a)\n b = Pow(s, column)",
    "PRelu": "b = PRelu(a, column)",
    "Where": "p = Greater(a, column)\n b = Where(p, a, full)",
}
INTEGERS = {"BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}


@pytest.mark.parametrize("name", sorted(set(PAIRS) - INTEGERS))
def test_every_broadcasting_op_takes_the_rows_of_each_operand(name):
    model = network(PAIRS[name], column=np.abs(weight(ROWS, 1)) + 0.5, full=weight(1, ROWS, WIDTH, seed=5))
    report = check(model, *SINK)[NAME]
    assert rows_of(model, "MatMul")[:2] == [1, 1]
    assert report.missed == ()


@pytest.mark.parametrize(
    "step",
    [
        "b = LogSoftmax<axis=-1>(a)",
        "b = Hardmax<axis=2>(a)",
        "b = LpNormalization<axis=2>(a)",
        "b = CumSum(a, last)",
        "m = ReduceMean<keepdims=1>(a, axes)\n b = Sub(a, m)",
        "m = ReduceMax<keepdims=0>(a, axes)\n n = Unsqueeze(m, axes)\n b = Sub(a, n)",
        "m = ArgMax<axis=2, keepdims=0>(a)\n f = Cast<to=1>(m)\n n = Unsqueeze(f, axes)\n b = Add(a, n)",
        "m = Unsqueeze(a, axes)\n n = Relu(m)\n b = Squeeze(n, axes)",
        "b = Gather<axis=2>(a, order)",
        "b = Slice(a, zero, eight, axes)",
        "s, t = Split<axis=2, num_outputs=2>(a)\n g = Gelu(s)\n p = Mul(g, t)\n b = Concat<axis=2>(p, p)",
        "s, t = Split<axis=2, num_outputs=2>(a)\n g = Gelu(t)\n b = Concat<axis=2>(g, g)",
        "q = QuantizeLinear(a, scale, point)\n b = DequantizeLinear(q, scale, point)",
        "b = BatchNormalization(a, many, many, many, many)",
        "b = LayerNormalization<axis=-1>(a, rows_scale)",
        "b = RotaryEmbedding<num_heads=2>(a, cos, sin)",
        "b = RotaryEmbedding<num_heads=2>(a, cos_table, cos_table, places)",
    ],
)
def test_ops_that_keep_rows_apart(step):
    model = network(
        step,
        last=np.array(2),
        axes=i64(2),
        order=np.array([7, 1, 2, 3, 4, 5, 6, 0]),
        zero=i64(0),
        eight=i64(8),
        scale=np.float32(0.1),
        point=np.uint8(128),
        many=np.abs(weight(ROWS)) + 0.5,
        rows_scale=weight(1, ROWS, WIDTH, seed=3),
        cos=weight(1, ROWS, 2, seed=4),
        sin=weight(1, ROWS, 2, seed=6),
        cos_table=weight(20, 2, seed=4),
        places=np.arange(3, 3 + ROWS).reshape(1, ROWS),
    )
    report = check(model, *SINK)[NAME]
    assert rows_of(model, "MatMul")[:2] == [1, 1]
    assert report.missed == ()


def test_rows_of_a_table_are_looked_up_alone():
    model = build(
        "(int64[1,12] ids) => (y) { j = Add(ids, ids)\n a = Gather(table, j)\n b = Relu(a)\n"
        "c = MatMul(b, v)\n r = Gather<axis=1>(c, first)\n y = Neg(r) }",
        table=weight(9, WIDTH),
        v=weight(WIDTH, WIDTH),
        first=np.array(0),
    )
    check(model, *SINK)
    assert rows_of(model, "MatMul") == [1]
    assert [rows_of(model, name) for name in ("Add", "Relu")] == [[1], [1]]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("b, i = TopK<axis=2>(a, eight)", "TopK is not known to keep its rows apart"),
        ("b = Trilu(a)", "Trilu is not known to keep its rows apart"),
        ("b = CumSum(a, axis)", "its axis is computed"),
        ("m = Reshape(a, joined)\n n = Relu(m)\n b = Reshape(n, parted)", "joins them with another axis"),
        (
            "q = QuantizeLinear<axis=2>(a, scales, points)\n b = DequantizeLinear<axis=2>(q, scales, points)",
            "its scales differ along an axis",
        ),
    ],
)
def test_where_rows_stop_it_is_said(step, reason):
    model = network(
        step,
        eight=i64(8),
        joined=i64(4, 24),
        parted=i64(1, ROWS, WIDTH),
        scales=np.abs(weight(WIDTH)) + 0.1,
        points=np.full(WIDTH, 128, np.uint8),
    )
    if "axis)" in step:
        text = GRAPH.format(step=step).replace("x) =>", "x, int64 axis) =>", 1)
        numbers = {"w": weight(WIDTH, WIDTH), "v": weight(WIDTH, WIDTH), "h": weight(WIDTH, 5)}
        model = build(text, row=np.array(5), **numbers)
    report = check(model, *SINK)[NAME]
    assert "rows are read" in reasons(report)
    assert reason in reasons(report)
    assert rows_of(model, "MatMul")[0] == ROWS


@pytest.mark.parametrize(
    "step",
    [
        "b = Softmax<axis=1>(a)",
        "b = LogSoftmax<axis=1>(a)",
        "b = CumSum(a, rows)",
        "b = LayerNormalization<axis=1>(a, scale)",
        "t = Conv<kernel_shape=[3], pads=[1,1]>(a, taps)\n b = Identity(t)",
        "b = InstanceNormalization(a, many, many)",
    ],
)
def test_an_op_that_mixes_rows_ends_them_and_nothing_is_wrong(step):
    model = network(
        step,
        rows=np.array(1),
        scale=weight(ROWS, WIDTH),
        taps=weight(ROWS, ROWS, 3),
        many=weight(ROWS),
    )
    report = check(model, *SINK)[NAME]
    assert report.missed == ()
    assert rows_of(model, "MatMul")[:2] == [ROWS, 1]


def test_causal_attention_with_more_keys_than_queries_is_a_near_miss():
    """Its last query sees the keys up to its own place, not all of them."""
    model = build(
        "(float[1,1,2,4] q, float[1,1,6,4] k, float[1,1,6,4] v) => (float[1,1,1,4] y) "
        "{ p = Neg(q)\n a = Attention<is_causal=1>(p, k, v)\n y = Slice(a, one, two, axis) }",
        one=i64(1),
        two=i64(2),
        axis=i64(2),
    )
    report = check(model, *SINK)[NAME]
    assert "it is causal, so a row's keys depend on its place" in reasons(report)
    assert report.matched == 0


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        ("a, p1, v1 = Attention(q, k, v, none, pk, pv)", "it keeps a cache"),
        ("a, p1, v1, s = Attention(q, k, v)\n z = Neg(s)", "another of its outputs is read"),
    ],
)
def test_an_attention_that_keeps_or_hands_out_more_is_a_near_miss(attention, reason):
    shapes = "float[1,2,6,4] q, float[1,2,6,4] k, float[1,2,6,4] v, float[1,2,3,4] pk, float[1,2,3,4] pv"
    outputs = "(float[1,2,1,4] y, z)" if "z =" in attention else "(float[1,2,1,4] y)"
    model = build(
        f"({shapes}) => {outputs} {{ {attention.replace('none', '')}\n y = Slice(a, one, two, axis) }}",
        one=i64(1),
        two=i64(2),
        axis=i64(2),
    )
    report = check(model, NAME)[NAME]
    assert reason in reasons(report)


def test_a_custom_op_is_a_near_miss():
    model = build(
        "(float[1,12,8] x, float[1,12,1] s) => (y) { m, n, k = ai.edgec.TokenMerge<r=0>(x, x4, s)\n"
        "y = Gather<axis=1>(m, first) }".replace("x4", "t").replace("{ m", "{ t = Unsqueeze(x, axes)\n m"),
        axes=i64(1),
        first=np.array(0),
    )
    report = apply(model, "canonicalize.shapes", NAME)[NAME]
    assert "it is a custom op" in reasons(report)
