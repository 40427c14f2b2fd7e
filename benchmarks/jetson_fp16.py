"""fp16 with kept layers beside plain fp16, on models made to leave fp16's range.

    python benchmarks/jetson_fp16.py

Plain fp16 has every primitive op in fp16. Errors are root mean squares over the outputs' spread, on inputs
that the decision has not seen; `not finite` where an output is NaN or infinite and the fp32 graph's is not.
The zoo's ordinary models are in `jetson_zoo.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from tables import markdown, publish

from edgec.core.dialect import IR_VERSION, ONNX_OPSET
from edgec.core.evaluation import Evaluator
from edgec.passes.precision.errors import mean_error
from edgec.passes.precision.judge import evaluable, spelled_out
from edgec.passes.precision.plain import plain_half
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.precise import write_half
from edgec.targets.jetson.versions import dialects

WIDTH, LENGTH = 64, 32
VERSIONS = ("8.5", "10.3", "11.0")
CAPABILITY = 87

_NORM = "n = LayerNormalization <axis = -1> ({}, g, b) h = MatMul (n, w1)"

_HEADS = "k = MatMul (x, w2) u = Unsqueeze (l, one) v = Unsqueeze (k, one) s = Unsqueeze (x, one)"

_TAIL = "t = MatMul (h, w2) y = Add (t, b2)"

MODELS = {
    "norm of inputs near 1e3": f"z = Mul (x, k3) {_NORM.format('z')}",
    "norm of inputs near 1e6": f"z = Mul (x, k6) {_NORM.format('z')}",
    "root mean square of inputs near 1e3": "z = Mul (x, k3) n = RMSNormalization (z, g) h = MatMul (n, w1)",
    "residual stream that reaches 1e5": "a = MatMul (x, w1) c = Mul (a, k3) d = Mul (x, k5) "
    f"e = Add (c, d) {_NORM.format('e')}",
    "attention with logits near 1e5": f"q = MatMul (x, w1) l = Mul (q, k5) {_HEADS} "
    "o = Attention (u, v, s) h = Squeeze (o, one)",
    "softmax over logits near 1e5": "q = MatMul (x, w1) l = Mul (q, k5) p = Softmax (l) h = MatMul (p, w1)",
    "lengths of vectors near 1e3": "z = Mul (x, k3) l = ReduceL2 (z, last) n = Div (z, l) h = MatMul (n, w1)",
    "gated product that reaches 1e6": "a = MatMul (x, w1) c = Mul (a, k3) d = Mul (x, k3) e = Mul (c, d) "
    "n = Tanh (e) m = Mul (e, small) f = Add (n, m) h = MatMul (f, w1)",
}


def build(body: str) -> ir.Model:
    """A model from its body; weights are drawn."""
    rng = np.random.default_rng(0)
    shape = f"[1, {LENGTH}, {WIDTH}]"
    text = f"m (float{shape} x) => (float{shape} y) {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: {IR_VERSION}, opset_import: ["": {ONNX_OPSET}]>\n{text}')
    constants: dict[str, Any] = {f"k{power}": np.float32(10.0**power) for power in (3, 4, 5, 6)}
    constants |= {"small": np.float32(1e-6), "last": np.asarray([-1]), "one": np.asarray([1])}
    constants |= {
        name: (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32) for name in ("w1", "w2")
    }
    constants |= {name: rng.standard_normal(WIDTH).astype(np.float32) for name in ("g", "b", "b2")}
    for name, array in constants.items():
        if f" {name}" in body:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def row(name: str, version: str) -> list[object]:
    """One model in one dialect: plain and kept."""
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, LENGTH, WIDTH)).astype(np.float32)} for _ in range(6)]
    seen, unseen = feeds[:3], feeds[3:]

    def run(model: ir.Model) -> list[Any]:
        with Evaluator(model) as evaluator:
            return [evaluator.run(feed) for feed in unseen]

    model = build(f"{MODELS[name]} {_TAIL}")
    exact = lower(model, dialects()[version], native_attention=False)
    expected = run(evaluable(exact))
    plain = mean_error(expected, run(spelled_out(plain_half(exact))))
    half = lower(model, dialects()[version], native_attention=True)
    kept = write_half(half, seen, CAPABILITY)
    error = mean_error(expected, run(spelled_out(half)))
    shown = [one if math.isfinite(one) else "not finite" for one in (plain, error)]
    return [name, version, *shown, f"{len(kept.keep)} of {exact.graph.num_nodes()}"]


def main() -> None:
    rows = [row(name, version) for name in MODELS for version in VERSIONS]
    table = markdown(["model", "TensorRT", "plain fp16", "kept layers", "kept in fp32"], rows)
    lost = sum(not isinstance(one[2], float) or one[2] > 0.1 for one in rows)
    worst = max(one[3] for one in rows if isinstance(one[3], float))
    finite = sum(isinstance(one[3], float) for one in rows)
    body = (
        f"{table}\n\nPlain fp16 is lost (not finite, or off by more than a tenth of the spread) in {lost} of "
        f"{len(rows)}; with kept layers {finite} are finite, the worst off by {worst:.1e}."
    )
    publish("jetson_fp16", "fp16 for TensorRT on models made to overflow", body)


if __name__ == "__main__":
    main()
