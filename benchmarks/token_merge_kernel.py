"""The CPU kernels of the token ops in OpenVINO: microseconds an op, all of OpenVINO's overhead included.

    python benchmarks/token_merge_kernel.py

One call of a network that is the op alone, everything that OpenVINO does around it included; the op in it by
OpenVINO's own counters; and the plain C entry on one thread, called from Python. 197 tokens, 384 channels,
keys of 6 heads of 64, one protected token, batch 1.
"""

from __future__ import annotations

import statistics

import numpy as np
import onnx
from tables import markdown, publish

from edgec.core.timing import measure
from edgec.plugins.bindings.openvino import openvino_library
from edgec.plugins.infra import plugins
from edgec.plugins.kernels.cpu import native
from edgec.runtime.openvino_core import new_core

LENGTH, CHANNELS, HEADS, DEPTH = 197, 384, 6, 64
CASES = (("TokenMerge", 13), ("TokenMerge", 49), ("TokenMergeEnergy", 13), ("TokenPrune", 13))
INPUTS = {"tokens": (1, LENGTH, CHANNELS), "score": (1, LENGTH), "metric": (1, HEADS, LENGTH, DEPTH)}


def network(op_type: str, r: int) -> onnx.ModelProto:
    """The op alone."""
    given = [name for name in INPUTS if name != "score" or op_type == "TokenPrune"]
    real = onnx.TensorProto.FLOAT
    inputs = [onnx.helper.make_tensor_value_info(name, real, INPUTS[name]) for name in given]
    merged = onnx.helper.make_tensor_value_info("merged", real, (1, LENGTH - r, CHANNELS))
    node = onnx.helper.make_node(
        op_type, [*given, "sizes"], ["merged", "after", "places"], domain="ai.edgec", r=r, protected=1
    )
    sizes = onnx.numpy_helper.from_array(np.ones((1, LENGTH, 1), np.float32), "sizes")
    graph = onnx.helper.make_graph([node], op_type, inputs, [merged], [sizes])
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.edgec", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=11)


def row(op_type: str, r: int) -> list[object]:
    import openvino

    core = new_core()
    core.add_extension(str(openvino_library()))
    rng = np.random.default_rng(0)
    read = core.read_model(network(op_type, r).SerializeToString())
    requests = []
    for counting in ("NO", "YES"):
        compiled = core.compile_model(read, "CPU", {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": counting})
        requests.append(compiled.create_infer_request())
        for port in compiled.inputs:
            tensor = openvino.Tensor(rng.normal(size=port.shape).astype(np.float32))
            requests[-1].set_tensor(port, tensor)
    whole = measure({"call": requests[0].infer}, blocks=9, block_seconds=0.2)["call"].p50 * 1e3
    counted = []
    for _ in range(500):
        requests[1].infer()
        times = [info.real_time.total_seconds() for info in requests[1].profiling_info]
        counted.append(max(times) * 1e6)
    each = statistics.median(counted)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in INPUTS.items()}
    arrays["sizes"] = np.ones((1, LENGTH, 1), np.float32)
    call, _ = native.prepare(plugins()[op_type], arrays, {"r": r, "protected": 1})
    plain = measure({"plain": call}, blocks=5, block_seconds=0.2)["plain"].p50 * 1e3
    return [op_type, r, f"{whole:.1f}", f"{each:.1f}", f"{plain:.1f}"]


def main() -> None:
    rows = [row(*case) for case in CASES]
    headers = ["op", "r", "µs a whole call", "µs of the op in it", "µs of the kernel"]
    body = (
        f"197 tokens, 384 channels, keys of 6 heads of 64, batch 1, float32, "
        f"{native.instructions()[0]} kernels.\n\n{markdown(headers, rows)}"
    )
    publish("token_merge_kernel", "The token kernels in OpenVINO", body)


if __name__ == "__main__":
    main()
