"""What stays in fp32 by structure: each rule on a graph drawn for it, and numbers far beyond the samples."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.core.evaluation import Evaluator
from edgec.passes.manager import Pipeline
from edgec.passes.precision import structure
from edgec.passes.precision.decide import decide
from edgec.passes.precision.half import HalfPrecision
from edgec.passes.precision.judge import spelled_out
from edgec.passes.precision.structure import LONG, RULES, stays_full
from edgec.passes.precision.weights import RoundWeights


def drawn(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(np.float32)


W = drawn(64, 64, seed=1, scale=0.125)
CONSTANTS = {
    "w": W,
    "w2": drawn(64, 64, seed=2, scale=0.125),
    "wide": drawn(64, 20, seed=3, scale=0.125),
    "two": np.float32(2),
    "third": np.float32(0.3),
    "tiny": np.float32(1e-9),
    "small": np.float32(1e-3),
    "zero": np.float32(0),
    "k": np.asarray([3]),
    "axis1": np.asarray([1]),
    "same": np.asarray([4, 64]),
    "axis": np.int64(1),
    "last": np.asarray([-1]),
    "freq": (100 ** -(np.arange(16) / 16)).astype(np.float32).reshape(1, 16),
    "most": np.asarray([5]),
    "half": np.float32([0.5]),
    "grid": drawn(1, 6, 6, 2, seed=4, scale=0.5),
    "kernel": drawn(8, 1, 64, seed=5, scale=0.3),
    "dft_axis": np.int64(1),
}


def model(inputs, body, outputs, opset=20):
    text = f'<ir_version: 10, opset_import: ["": {opset}]>\nm ({inputs}) => ({outputs}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    for name in used & CONSTANTS.keys() - {value.name for value in proto.graph.input}:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(CONSTANTS[name]), name))
    for node in proto.graph.node:
        node.name = node.output[0]
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True, data_prop=True))


X = "float[4, 64] x"
Y = "float[4, 64] y"
CASES = {
    "an angle with what makes it, in front of it only": (
        "float[8, 1] t",
        "a = Mul (t, two) b = MatMul (a, freq) c = Concat <axis = -1> (b, b) s = Sin (c) y = Mul (s, two)",
        "float[8, 32] y",
        "a b c s",
        "y",
    ),
    "an angle behind features": (
        X, "a = MatMul (x, w) b = Mul (a, two) s = Cos (b) y = Relu (s)", Y, "b s", "a y",
    ),
    "an exponent": (X, "a = MatMul (x, w) b = Sub (a, two) e = Exp (b) y = MatMul (e, w2)", Y, "b e", "a y"),
    "an exponent behind a norm": (
        X, "a = Softmax (x) b = Mul (a, two) e = Exp (b) y = Neg (e)", Y, "b e", "a y",
    ),
    "a computed exponent of a power": (X, "a = Mul (x, third) y = Pow (two, a)", Y, "a y", ""),
    "a logarithm, with the product in front": (
        X, "h = MatMul (x, w2) a = MatMul (h, w) b = Abs (a) l = Log (b) y = MatMul (l, w)", Y,
        "a b l", "h y",
    ),
    "scores of a TopK through a softmax, with their product": (
        X,
        "h = MatMul (x, w) a = MatMul (h, w2) s = Softmax (a) r = Mul (s, two) v, i = TopK (r, k)"
        " y = GatherElements <axis = 1> (h, i)",
        "float[4, 3] y",
        "a s r v",
        "h y",
    ),
    "scores of an ArgMax": (
        X, "h = MatMul (x, w) a = MatMul (h, wide) b = Add (a, two) y = ArgMax <axis = 1> (b)",
        "int64[4, 1] y", "a b y", "h",
    ),
    "scores of an ArgMin": (
        X, "a = MatMul (x, wide) b = Add (a, two) y = ArgMin <axis = 1> (b)", "int64[4, 1] y", "a b y", "",
    ),
    "a one-hot maximum": (X, "a = MatMul (x, w) b = Add (a, two) y = Hardmax (b)", Y, "a b y", ""),
    "both products of a score, no further": (
        X,
        "h = MatMul (x, w) a = MatMul (h, w2) b = MatMul (h, w) s = Sigmoid (a) c = Sigmoid (b)"
        " r = Mul (s, c) v, i = TopK (r, k) y = Cast <to = 1> (i)",
        "float[4, 3] y",
        "a b s c r v",
        "h",
    ),
    "two sums of a residual stream, not all of it": (
        X,
        "a = MatMul (x, w) p = Add (x, a) b = MatMul (p, w) q = Add (p, b) c = MatMul (q, w) r = Add (q, c)"
        " d = MatMul (r, w) s = Add (r, d) v, i = TopK (s, k) y = Cast <to = 1> (i)",
        "float[4, 3] y",
        "v s d r c q",
        "a p",
    ),
    "boxes and scores of a suppression": (
        "float[1, 9, 64] x, float[64, 4] wb, float[64, 2] wc",
        "b0 = MatMul (x, wb) b = Sigmoid (b0) c0 = MatMul (x, wc) c = Transpose <perm = [0, 2, 1]> (c0)"
        " y = NonMaxSuppression (b, c, most, half, half)",
        "int64[n, 3] y",
        "b0 b c0 c y",
        "",
    ),
    "a threshold": (
        X, "a = MatMul (x, w) s = Sigmoid (a) y = Greater (s, half)", "bool[4, 64] y", "a s y", "",
    ),
    "no threshold at zero": (
        X, "a = MatMul (x, w) g = Greater (a, zero) y = Where (g, a, x)", Y, "", "a g y",
    ),
    "what is cut to whole numbers": (
        X, "a = MatMul (x, w) b = Mul (a, two) c = Floor (b) y = MatMul (c, w)", Y, "b c", "a y",
    ),
    "what becomes an integer": (
        X, "a = MatMul (x, w) b = Mul (a, two) y = Cast <to = 7> (b)", "int64[4, 64] y", "b y", "a",
    ),
    "a remainder": (X, "b = Mul (x, two) y = Mod <fmod = 1> (b, third)", Y, "b y", ""),
    "places in a picture": (
        "float[1, 3, 8, 8] x, float[1, 6, 6, 2] g",
        "a = Add (g, grid) p = Relu (x) y = GridSample (p, a)",
        "float[1, 3, 6, 6] y",
        "a y",
        "p",
    ),
    "boxes in a picture": (
        "float[1, 3, 8, 8] x, float[2, 4] r, int64[2] i",
        "a = Mul (r, two) y = RoiAlign (x, a, i)",
        "float[2, 3, 1, 1] y",
        "a y",
        "",
    ),
    "a running sum, and what is computed from it alone": (
        X, "a = Mul (x, third) c = CumSum (a, axis) d = Sub (c, two) e = Mul (d, x) y = Tanh (d)",
        f"{Y}, float[4, 64] e", "a c d", "e y",
    ),
    "lengths": (X, "a = Relu (x) n = ReduceL2 (a, last) y = Div (a, n)", Y, "n", "a"),
    "sums of squares": (X, "a = Relu (x) y = ReduceSumSquare (a, last)", "float[4, 1] y", "y", "a"),
    "normalised lengths": (X, "a = Relu (x) y = LpNormalization (a)", Y, "y", "a"),
    "sums of exponentials": (
        X, "a = MatMul (x, w) y = ReduceLogSumExp (a, last)", "float[4, 1] y", "a y", "",
    ),
    "a spectrum": (
        "float[1, 64, 1] x", "a = Mul (x, third) y = DFT (a, , dft_axis)", "float[1, 64, 2] y", "a y", "",
    ),
    "a square alone": (
        X, "a = MatMul (x, w) r = Relu (a) q = Mul (r, r) y = MatMul (q, w2)", Y, "q", "a r y",
    ),
    "a variance": (
        X,
        "f = Relu (x) h = MatMul (f, w) q = Mul (h, h) v = ReduceMean (q, last) e = Add (v, third)"
        " d = Sqrt (e) n = Div (h, d) y = MatMul (n, w)",
        Y,
        "q v e d n",
        "f h y",
    ),
    "no square in a cube": (X, "q = Mul (x, x) c = Mul (q, x) y = Tanh (c)", Y, "", "q c y"),
    "a signal's energy with its filters": (
        X,
        "f = Mul (x, third) a = MatMul (f, w) q = Mul (a, a) m = MatMul (q, w2) e = Add (m, two)"
        " y = MatMul (e, w)",
        Y,
        "f a q m",
        "e y",
    ),
    "a signal's energy by a convolution": (
        "float[1, 1, 256] x",
        "a = Conv <strides = [32]> (x, kernel) q = Mul (a, a) y = Relu (q)",
        "float[1, 8, 7] y",
        "a q y",
        "",
    ),
    "no signal behind an activation": (
        X, "r = Relu (x) a = MatMul (r, w) q = Mul (a, a) y = MatMul (q, w)", Y, "q", "r a y",
    ),
    "a signal's energy until it normalises": (
        X, "q = Mul (x, x) m = ReduceMean (q, last) d = Sqrt (m) n = Div (x, d) y = MatMul (n, w)", Y,
        "q m d n", "y",
    ),
    "a long sum of what is fed": (
        f"float[2, {LONG}, 8] x, float[2, {LONG}, 1] m",
        "a = Mul (x, m) y = ReduceSum <keepdims = 0> (a, axis1)",
        "float[2, 8] y",
        "a y",
        "",
    ),
    "a long sum of features": (
        f"float[2, {LONG}, 64] x, float[2, {LONG}, 1] m",
        "h = MatMul (x, w) a = Mul (h, m) y = ReduceSum <keepdims = 0> (a, axis1)",
        "float[2, 64] y",
        "y",
        "h a",
    ),
    "a short sum": (X, "a = Mul (x, x) y = ReduceSum (x, last)", "float[4, 1] y, float[4, 64] a", "a", "y"),
    "a mean over an open axis": (
        "float[2, N, 8] x", "y = ReduceMean <keepdims = 0> (x, axis1)", "float[2, 8] y", "y", "",
    ),
    "a mean over a picture": (
        "float[1, 3, 20, 20] x", "a = Relu (x) y = GlobalAveragePool (a)", "float[1, 3, 1, 1] y", "a y", "",
    ),
    "a mean written as a product": (
        "float[2, 8, 1000] m, float[2, 1000, 16] x, int64[2, 8, 1] n",
        "s = MatMul (m, x) c = Cast <to = 1> (n) y = Div (s, c)",
        "float[2, 8, 16] y",
        "s y",
        "",
    ),
    "counts and places": (
        "int64[1, 8] i, float[1, 8] x",
        "f = Cast <to = 1> (i) g = Sub (f, two) h = Mul (g, third) m = Mul (h, x) y = Relu (m)",
        "float[1, 8] y",
        "g h",
        "m y",
    ),
    "a floor that fp16 has not, and what is divided by it": (
        X, "m = MatMul (x, w) n = Add (m, tiny) r = Sqrt (n) u = Reshape (r, same) y = Div (x, u)",
        Y, "n r u y", "m",
    ),
    "a floor that fp16 has": (
        X, "m = MatMul (x, w) n = Add (m, small) r = Sqrt (n) y = Div (x, r)",
        Y, "", "m n r y",
    ),
    "no counts in bytes": (
        "uint8[1, 8] i", "f = Cast <to = 1> (i) g = Sub (f, two) y = Mul (g, third)",
        "float[1, 8] y", "", "g y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_stays_in_fp32_and_what_does_not(case):
    inputs, body, outputs, kept, free = CASES[case]
    found = stays_full(model(inputs, body, outputs))
    assert set(kept.split()) <= set(found), {name: found.get(name) for name in kept.split()}
    assert not set(free.split()) & set(found), {name: found.get(name) for name in free.split()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.ops[0])
def test_without_a_rule_some_case_loses_what_it_keeps(rule, monkeypatch):
    monkeypatch.setattr(structure, "RULES", tuple(one for one in RULES if one is not rule))
    cases = [(stays_full(model(*case[:3])), case[3].split()) for case in CASES.values()]
    assert any(not set(kept) <= set(found) for found, kept in cases)


def test_nodes_inside_one_attention_kernel_are_passed_over():
    built = model(X, "a = MatMul (x, w) b = Sub (a, two) e = Exp (b) y = Neg (e)", Y)
    assert set(stays_full(built, fused={"b"})) == {"e"}
    assert not stays_full(built, fused={"b", "e"})


WIDE = {
    "angles at positions in the thousands": (
        "float[1, 8, 32] q, int64[1, 8] p",
        "f = Cast <to = 1> (p) u = Unsqueeze (f, last) a = Mul (u, freq) b = Concat <axis = -1> (a, a)"
        " c = Cos (b) s = Sin (b) d = Mul (q, c) e = Mul (q, s) y = Add (d, e)",
        "float[1, 8, 32] y",
        lambda far: {"q": drawn(1, 8, 32), "p": np.arange(8)[None] + (4000 if far else 0)},
    ),
    "a power spectrum of 16-bit audio": (
        X,
        "a = MatMul (x, w) q = Mul (a, a) e = Add (q, third) l = Log (e) y = MatMul (l, w2)",
        Y,
        lambda far: {"x": drawn(4, 64, scale=20000 if far else 1)},
    ),
    "a magnitude spectrum of 16-bit audio, by mel bands": (
        X,
        "a = MatMul (x, w) b = MatMul (x, w2) q = Mul (a, a) r = Mul (b, b) s = Add (q, r) m = Sqrt (s)"
        " n = MatMul (m, bands) l = Log (n) y = MatMul (l, w2)",
        Y,
        lambda far: {"x": drawn(4, 64, scale=32000 if far else 1)},
    ),
    "a mean over many frames far from zero": (
        "float[1, 3000, 8] x, int64[1, 3000] m",
        "u = Unsqueeze (m, last) f = Cast <to = 1> (u) a = Mul (x, f) s = ReduceSum <keepdims = 0> (a, axis1)"
        " n = ReduceSum <keepdims = 0> (f, axis1) y = Div (s, n)",
        "float[1, 8] y",
        lambda far: {"x": drawn(1, 3000, 8) + np.float32(100 * far), "m": np.ones((1, 3000), np.int64)},
    ),
    "a mean over few frames of which all are hidden": (
        "float[2, 16, 8] x, float[2, 16, 1] m",
        "a = Mul (x, m) s = ReduceSum <keepdims = 0> (a, axis1) n = ReduceSum <keepdims = 0> (m, axis1)"
        " c = Clip (n, tiny) y = Div (s, c)",
        "float[2, 8] y",
        lambda far: {"x": drawn(2, 16, 8), "m": np.float32([[[1]], [[not far]]]) * np.ones((1, 16, 1), "f")},
    ),
    "distances of far places": (
        "int64[1, 8] i, int64[1, 8] j, float[1, 8] x",
        "f = Cast <to = 1> (i) g = Cast <to = 1> (j) d = Sub (f, g) m = Mul (d, third) y = Add (x, m)",
        "float[1, 8] y",
        lambda far: {
            "i": np.arange(8)[None] + (30001 if far else 1),
            "j": np.arange(8)[None] * 2 + (30000 if far else 0),
            "x": drawn(1, 8),
        },
    ),
}
CONSTANTS["bands"] = np.abs(drawn(64, 64, seed=6, scale=0.1)) + np.float32(0.01)


@pytest.mark.parametrize("case", WIDE)
def test_fp16_is_right_far_beyond_its_samples(case):
    """Decided on narrow feeds, judged on wide ones: within some roundings of fp16, relative to the spread."""
    inputs, body, outputs, feeds = WIDE[case]
    built = model(inputs, body, outputs)
    decision = decide(built, [feeds(False)])
    half = built.clone()
    keep = frozenset(decision.keep)
    Pipeline([RoundWeights(decision.weights, keep), HalfPrecision(keep)]).run(half)
    with Evaluator(built) as exact, Evaluator(spelled_out(half)) as rounded:
        expected, found = exact.run(feeds(True))["y"], rounded.run(feeds(True))["y"]
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() / expected.std() < 1e-2


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_features_they_are_given(seed):
    """What a TopK reads is computed without rounding from fp16 features: their order is theirs."""
    built = model(
        "float[300, 64] x",
        "h = MatMul (x, w) a = MatMul (h, wide) s = Sigmoid (a) b = ReduceMax <keepdims = 0> (s, last)"
        " v, i = TopK (b, k) z = Identity (h)",
        "float[3] v, int64[3] i, float[300, 64] z",
    )
    decision = decide(built, [{"x": drawn(300, 64, seed=seed)}])
    half = built.clone()
    Pipeline([HalfPrecision(frozenset(decision.keep))]).run(half)
    with Evaluator(spelled_out(half)) as rounded:
        found = rounded.run({"x": drawn(300, 64, seed=seed + 10)})
    scores = 1 / (1 + np.exp(-(found["z"].astype(np.float64) @ CONSTANTS["wide"]).max(axis=1)))
    np.testing.assert_allclose(found["v"], np.sort(scores)[::-1][:3], rtol=1e-6)
