"""The CPU kernels of the token ops in OpenVINO: microseconds an op, all of OpenVINO's overhead included.

    python benchmarks/token_merge_kernel.py

A network of one op and a network of 17, on inputs of their own, in alternating blocks: the difference over 16
is what one more op costs. 197 tokens, 384 channels, keys of 6 heads of 64, one protected token, batch 1.
Beside it the plain C entry on one thread, called from Python.
"""

from __future__ import annotations

import statistics

import numpy as np
import onnx
from tables import markdown, publish

from edgec.core.timing import measure
from edgec.plugins import token_native
from edgec.plugins.native_build import openvino_library

LENGTH, CHANNELS, HEADS, DEPTH = 197, 384, 6, 64
MANY = 17
CASES = (("TokenMerge", 13), ("TokenMerge", 49), ("TokenMergeEnergy", 13), ("TokenPrune", 13))
INPUTS = {"tokens": (1, LENGTH, CHANNELS), "score": (1, LENGTH), "metric": (1, HEADS, LENGTH, DEPTH)}


def network(op_type: str, r: int, count: int) -> onnx.ModelProto:
    """`count` ops side by side, each on inputs of its own."""
    given = [name for name in INPUTS if name != "score" or op_type == "TokenPrune"]
    sizes = onnx.numpy_helper.from_array(np.ones((1, LENGTH, 1), np.float32), "sizes")
    nodes, inputs, outputs = [], [], []
    for place in range(count):
        made = [f"{name}{place}" for name in ("merged", "sizes_after", "assignment")]
        names = [f"{name}{place}" for name in given]
        attributes = {"r": r, "protected": 1}
        nodes.append(onnx.helper.make_node(op_type, [*names, "sizes"], made, domain="ai.edgec", **attributes))
        inputs += [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, INPUTS[kind])
            for name, kind in zip(names, given, strict=True)
        ]
        outputs.append(
            onnx.helper.make_tensor_value_info(made[0], onnx.TensorProto.FLOAT, (1, LENGTH - r, CHANNELS))
        )
    graph = onnx.helper.make_graph(nodes, op_type, inputs, outputs, [sizes])
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.edgec", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=11)


def row(op_type: str, r: int) -> list[object]:
    import openvino

    core = openvino.Core()
    core.add_extension(str(openvino_library()))
    rng = np.random.default_rng(0)
    calls = {}
    for count in (1, MANY):
        read = core.read_model(network(op_type, r, count).SerializeToString())
        compiled = core.compile_model(read, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        request = compiled.create_infer_request()
        for port in compiled.inputs:
            request.set_tensor(port, openvino.Tensor(rng.normal(size=port.shape).astype(np.float32)))
        calls[count] = request.infer
    found = measure(calls, blocks=9, block_seconds=0.2)
    pairs = zip(found[MANY].blocks, found[1].blocks, strict=True)
    each = statistics.median((many - one) / (MANY - 1) for many, one in pairs) * 1e3
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in INPUTS.items()}
    call, _ = token_native.prepare(
        op_type,
        arrays["tokens"],
        arrays["metric"],
        np.ones((1, LENGTH, 1), np.float32),
        r=r,
        protected=1,
        score=arrays["score"],
    )
    plain = measure({"plain": call}, blocks=5, block_seconds=0.2)["plain"].p50 * 1e3
    return [op_type, r, f"{each:.1f}", f"{plain:.1f}"]


def main() -> None:
    rows = [row(*case) for case in CASES]
    headers = ["op", "r", "µs an op in OpenVINO", "µs a call of the C entry"]
    body = (
        f"197 tokens, 384 channels, keys of 6 heads of 64, batch 1, float32, "
        f"{token_native.instructions()} kernels.\n\n{markdown(headers, rows)}"
    )
    publish("token_merge_kernel", "The token kernels in OpenVINO", body)


if __name__ == "__main__":
    main()
