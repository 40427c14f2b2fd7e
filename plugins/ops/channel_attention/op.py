"""`ai.edgec::ChannelAttention`: its softmax runs over channels, its query-key product sums over tokens."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, ONNX_OPSET
from edgec.plugins.infra import Plugin, register

OP_TYPE = "ChannelAttention"


def _function() -> ir.Function:
    query, key, value, temperature = (ir.Value(name=name) for name in ("Q", "K", "V", "temperature"))
    transposed = ir.node("Transpose", [key], attributes={"perm": [0, 1, 3, 2]}, name="transpose")
    product = ir.node("MatMul", [query, transposed.outputs[0]], name="product")
    logits = ir.node("Mul", [product.outputs[0], temperature], name="logits")
    weights = ir.node("Softmax", [logits.outputs[0]], attributes={"axis": -1}, name="weights")
    result = ir.node("MatMul", [weights.outputs[0], value], name="result")
    nodes = [transposed, product, logits, weights, result]
    for node in nodes:
        node.outputs[0].name = f"{node.name}_out"
    graph = ir.Graph(
        [query, key, value, temperature],
        [result.outputs[0]],
        nodes=nodes,
        opset_imports={"": ONNX_OPSET},
        name=OP_TYPE,
    )
    return ir.Function(EDGEC_DOMAIN, OP_TYPE, graph=graph, attributes=[])


def _infer(node: ir.Node) -> Sequence[tuple[ir.Shape, ir.DataType]]:
    query, value = node.inputs[0], node.inputs[2]
    if query is None or value is None or query.dtype is None:
        return []
    if query.shape is None or value.shape is None:
        return []
    return [(ir.Shape([*query.shape[:3], value.shape[3]]), query.dtype)]


PLUGIN = register(
    Plugin(
        OP_TYPE,
        _function,
        _infer,
        "softmax(temperature * Q K^T) V over channels: Q (B, H, Cq, N), K (B, H, Ck, N), V (B, H, Ck, M) "
        "and a temperature that broadcasts to (B, H, Cq, Ck) give (B, H, Cq, M); the cross-covariance "
        "attention of XCiT (El-Nouby et al., 2021, arXiv 2106.09681) and the channel attention of DaViT "
        "(Ding et al., 2022, arXiv 2204.03645)",
    )
)
"""Q and K have their tokens last, so their product is one (channels, channels) matrix a head."""
