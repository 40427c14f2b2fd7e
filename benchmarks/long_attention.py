"""Attention over long sequences by edgec's kernel, beside OpenVINO's own, in time and in memory.

    python benchmarks/long_attention.py [--precisions fp32,bf16]

Self-attention of 6 heads × 64, from and to (1, N, 6, 64), as projections leave it; batch 1, in alternating
blocks. OpenVINO's own is the faster of product–softmax–product and its ScaledDotProductAttention. Memory is
what attention adds: what a process's peak grows by from in front of compiling to behind the first run, each
in a process of its own, less the same for a network that only sums the three inputs. Both hold OpenVINO's
own copies of inputs and output, which any network has; what they grow by in all stands in brackets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tables import markdown, publish

from edgec.core.timing import measure

HEADS, DEPTH = 6, 64
LENGTHS = (256, 512, 1024, 2048, 4096)
OWN, PARTS, FUSED, SUM = "edgec", "products", "sdpa", "sum"


def model(kind: str, length: int, precision: str) -> Any:
    """An OpenVINO model from (1, N, H, D) queries, keys and values to (1, N, H, D)."""
    import openvino
    import openvino.opset13 as ops

    if kind == OWN:
        return _own(length, precision)
    inputs = [ops.parameter([1, length, HEADS, DEPTH], np.float32, name=name) for name in "qkv"]
    if kind == SUM:
        return openvino.Model([ops.add(ops.add(inputs[0], inputs[1]), inputs[2])], inputs)
    heads_first = [ops.transpose(value, np.array([0, 2, 1, 3])) for value in inputs]
    if kind == FUSED:
        mixed = ops.scaled_dot_product_attention(*heads_first, causal=False)
    else:
        logits = ops.matmul(heads_first[0], heads_first[1], False, True)
        weights = ops.softmax(ops.multiply(logits, np.float32(DEPTH**-0.5)), -1)
        mixed = ops.matmul(weights, heads_first[2], False, False)
    return openvino.Model([ops.transpose(mixed, np.array([0, 2, 1, 3]))], inputs)


def _own(length: int, precision: str) -> Any:
    """What edgec's lowering makes of a neutral `Attention` in the form `blocked attention`."""
    import onnx
    import onnx_ir as ir

    from edgec.passes.infra import MatchLog
    from edgec.plugins.bindings.openvino import openvino_library
    from edgec.runtime.openvino_core import new_core
    from edgec.targets.x86.bf16 import kernels_in_bf16
    from edgec.targets.x86.blocked_attention import BlockedAttention

    shape = [1, length, HEADS, DEPTH]
    swap = {"perm": [0, 2, 1, 3]}
    nodes = [onnx.helper.make_node("Transpose", [name], [f"{name}h"], **swap) for name in "qkv"]
    nodes.append(onnx.helper.make_node("Attention", ["qh", "kh", "vh"], ["mixed"]))
    nodes.append(onnx.helper.make_node("Transpose", ["mixed"], ["y"], **swap))
    element = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "attention",
        [onnx.helper.make_tensor_value_info(name, element, shape) for name in "qkv"],
        [onnx.helper.make_tensor_value_info("y", element, shape)],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)
    lowered = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    log = MatchLog()
    BlockedAttention().apply(lowered, log)
    assert log.matches
    lowered.opset_imports["ai.edgec"] = 1
    core = new_core()
    core.add_extension(str(openvino_library()))
    read = core.read_model(ir.to_proto(lowered).SerializeToString())
    if precision == "bf16":
        kernels_in_bf16(read)
    return read


def feeds(length: int) -> list[np.ndarray]:
    drawn = np.random.default_rng(length)
    return [drawn.standard_normal((1, length, HEADS, DEPTH)).astype(np.float32) for _ in "qkv"]


def request(kind: str, length: int, precision: str, arrays: list[np.ndarray], output: np.ndarray) -> Any:
    """A compiled model's request, its tensors on the given arrays, which must outlive it."""
    import openvino

    from edgec.plugins.bindings.openvino import openvino_library
    from edgec.runtime.openvino_core import new_core

    core = new_core()
    core.add_extension(str(openvino_library()))
    hint = {"fp32": "f32"}.get(precision, precision)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    made = core.compile_model(model(kind, length, precision), "CPU", settings).create_infer_request()
    for index, array in enumerate(arrays):
        made.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
    made.set_output_tensor(openvino.Tensor(output, shared_memory=True))
    return made


def memory(kind: str, length: int, precision: str) -> float:
    """MB that the process's peak grows by while it compiles and runs once."""
    arrays, output = feeds(length), np.ones((1, length, HEADS, DEPTH), np.float32)
    # Everything that does not depend on the length is loaded before the count begins.
    few, few_output = feeds(16), np.ones((1, 16, HEADS, DEPTH), np.float32)
    request(kind, 16, precision, few, few_output).infer()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    request(kind, length, precision, arrays, output).infer()
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    """A field of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def measured_memory(kind: str, length: int, precision: str) -> float:
    """`memory` in a process of its own, the middle of three."""
    command = [sys.executable, __file__, "--memory", kind, str(length), precision]
    found = [subprocess.run(command, check=True, capture_output=True).stdout for _ in range(3)]
    return statistics.median(float(json.loads(one)) for one in found)


def row(length: int, precision: str) -> list[object]:
    arrays = feeds(length)
    outputs = {kind: np.empty_like(arrays[0]) for kind in (OWN, PARTS, FUSED)}
    requests = {kind: request(kind, length, precision, arrays, outputs[kind]) for kind in outputs}
    latencies = measure({kind: each.infer for kind, each in requests.items()}, blocks=11, block_seconds=0.4)
    expected = _exactly(arrays)
    off = {kind: np.abs(output - expected).max() / np.std(expected) for kind, output in outputs.items()}
    theirs = min((PARTS, FUSED), key=lambda kind: latencies[kind].p50)
    grown = {kind: measured_memory(kind, length, precision) for kind in (OWN, theirs, SUM)}
    added = {kind: max(grown[kind] - grown[SUM], 0.0) for kind in (OWN, theirs)}
    return [
        precision, str(length), f"{latencies[OWN].p50:.2f}", f"{latencies[PARTS].p50:.2f}",
        f"{latencies[FUSED].p50:.2f}", f"{latencies[OWN].ratio_to(latencies[theirs]):.3f}",
        f"{latencies[OWN].spread:.0%}", *(f"{added[kind]:.1f} ({grown[kind]:.1f})" for kind in (OWN, theirs)),
        f"{added[OWN] / added[theirs]:.2f}", f"{off[OWN]:.1e}", f"{off[theirs]:.1e}",
    ]  # fmt: skip


def _exactly(arrays: list[np.ndarray]) -> np.ndarray:
    """In float64, (1, N, H, D)."""
    query, key, value = (array[0].astype(np.float64) for array in arrays)
    output = np.empty_like(query)
    for head in range(HEADS):
        logits = query[:, head] @ key[:, head].T * DEPTH**-0.5
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        output[:, head] = weights / weights.sum(-1, keepdims=True) @ value[:, head]
    return output[None]


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps(memory(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", default="fp32")
    precisions = parser.parse_args().precisions.split(",")
    headers = [
        "precision", "tokens", "edgec ms", "OpenVINO products ms", "OpenVINO sdpa ms", "over the faster",
        "spread", "edgec MB", "OpenVINO MB", "ratio", "edgec off by", "OpenVINO off by",
    ]  # fmt: skip
    rows = [row(length, precision) for precision in precisions for length in LENGTHS]
    note = "Off by: the largest difference from float64, in units of the output's spread."
    publish("long_attention", "Attention over long sequences", f"{markdown(headers, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
