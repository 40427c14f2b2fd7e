"""The definition of VarlenAttention in ONNX Runtime, and attention within sequences in float64."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

import edgec.plugins.ops.varlen_attention.op  # noqa: F401 - registers the op
from edgec.plugins.infra import plugins

FLOATS = ("query", "key", "value")


@functools.cache
def _session(scale: float) -> onnxruntime.InferenceSession:
    function = ir.to_proto(plugins()["VarlenAttention"].function())
    element = onnx.TensorProto.FLOAT
    inputs = [onnx.helper.make_tensor_value_info(name, element, ["t", "h", "d"]) for name in FLOATS]
    inputs.append(onnx.helper.make_tensor_value_info("cu_seqlens", onnx.TensorProto.INT32, ["ends"]))
    node = onnx.helper.make_node(
        "VarlenAttention", [*FLOATS, "cu_seqlens"], ["output"], domain="ai.edgec", scale=scale
    )
    output = onnx.helper.make_tensor_value_info("output", element, None)
    graph = onnx.helper.make_graph([node], "varlen", inputs, [output])
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.edgec", 1)]
    made = onnx.helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=11)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_body(feeds: dict[str, np.ndarray], *, scale: float = 0.0) -> np.ndarray:
    """The output that the definition gives, (tokens, heads, depth) float32."""
    return _session(scale).run(None, feeds)[0]


def exact_attention(
    feeds: dict[str, np.ndarray], scale: float, window: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention within sequences in float64; in a window of `places` where one is given.

    Returns:
        the output, the same weights' mean of the values' magnitudes, and for each of its numbers the largest
        sum of magnitudes that a logit of its head and sequence is made of; all (tokens, heads, depth).
    """
    query, key, value = (feeds[name].astype(np.float64) for name in FLOATS)
    output, mixed, terms = (np.zeros_like(query) for _ in range(3))
    for begin, end in itertools.pairwise(feeds["cu_seqlens"]):
        for head in range(query.shape[1]) if end > begin else ():
            here = slice(begin, end), head
            q, k, v = query[here] * scale, key[here], value[here]
            logits = q @ k.T
            if window is not None:
                places = feeds["places"][begin:end]
                logits[np.abs(places[:, None] - places) > window] = -np.inf
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            output[here], mixed[here] = weights @ v, weights @ np.abs(v)
            terms[here] = (np.abs(q) @ np.abs(k).T).max()
    return output, mixed, terms
