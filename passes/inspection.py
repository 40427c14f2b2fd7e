"""What a model is made of: ops, parameters, multiply-accumulates and attention sites."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.passes.editing import attribute, sizes

_FLOATING = {
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
}


@dataclasses.dataclass(frozen=True)
class AttentionSite:
    """One attention of the neutral graph.

    Attributes:
        source: the layer of the user's model.
        kind: `attention` or `channel attention`.
        heads: query heads.
        queries: query tokens, or channels of a channel attention; None where open.
        keys: key tokens likewise.
        head_size: width of a head of the queries.
        masked: whether it takes a mask or bias.
    """

    source: str
    kind: str
    heads: int | None
    queries: int | None
    keys: int | None
    head_size: int | None
    masked: bool


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a graph is made of.

    Attributes:
        ops: how many nodes of each op, most frequent first.
        parameters: elements of all floating initializers with more than one element.
        macs: multiply-accumulates of one run, over matrix products, convolutions and attention.
        uncounted: nodes whose work is not in `macs` because a size is open.
        attention: the attention sites.
    """

    ops: dict[str, int]
    parameters: int
    macs: int
    uncounted: tuple[str, ...]
    attention: tuple[AttentionSite, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)


def inspect_model(model: ir.Model) -> Inspection:
    """Count a model's ops, parameters, multiply-accumulates and attention sites."""
    counts = collections.Counter(_op_name(node) for node in model.graph.all_nodes())
    macs = 0
    uncounted = []
    for node in model.graph.all_nodes():
        work = _macs(node)
        if work is None:
            uncounted.append(node.name or node.op_type)
        else:
            macs += work
    parameters = sum(
        math.prod(value.shape.numpy())
        for value in model.graph.initializers.values()
        if value.dtype in _FLOATING and value.shape is not None and math.prod(value.shape.numpy()) > 1
    )
    sites = [_attention_site(node) for node in model.graph if _is_attention(node)]
    return Inspection(dict(counts.most_common()), parameters, macs, tuple(uncounted), tuple(sites))


def _op_name(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _is_attention(node: ir.Node) -> bool:
    return is_op(node, "Attention") or is_op(node, "ChannelAttention", domain=EDGEC_DOMAIN)


def _attention_site(node: ir.Node) -> AttentionSite:
    query, key = sizes(node.inputs[0]) or (), sizes(node.inputs[1]) or ()
    masked = node.op_type == "Attention" and len(node.inputs) > 3 and node.inputs[3] is not None
    kind = "attention" if node.op_type == "Attention" else "channel attention"
    if len(query) != 4 or len(key) != 4:
        heads = attribute(node, "q_num_heads")
        return AttentionSite(source_layer(node), kind, heads, None, None, None, masked)
    return AttentionSite(source_layer(node), kind, query[1], query[2], key[2], query[3], masked)


def _macs(node: ir.Node) -> int | None:
    """Multiply-accumulates of one node, 0 for ops that do none, None where a size is open."""
    if is_op(node, "MatMul", "Gemm", "FusedMatMul"):
        return _product_macs(node)
    if is_op(node, "Conv"):
        return _times(_count(node.outputs[0]), sizes(node.inputs[1]), skip=1)
    if is_op(node, "ConvTranspose"):
        return _times(_count(node.inputs[0]), sizes(node.inputs[1]), skip=1)
    if _is_attention(node):
        return _attention_macs(node)
    return 0


def _count(value: ir.Value | None) -> int | None:
    shape = sizes(value)
    return None if shape is None or None in shape else math.prod(size or 0 for size in shape)


def _times(count: int | None, weight: tuple[int | None, ...] | None, *, skip: int) -> int | None:
    if count is None or weight is None or None in weight:
        return None
    return count * math.prod(size or 0 for size in weight[skip:])


def _product_macs(node: ir.Node) -> int | None:
    left = sizes(node.inputs[0])
    if left is None:
        return None
    axis = -2 if is_op(node, "Gemm") and attribute(node, "transA", 0) else -1
    inner, count = left[axis], _count(node.outputs[0])
    return None if inner is None or count is None else count * inner


def _attention_macs(node: ir.Node) -> int | None:
    query, key, value = (sizes(node.inputs[index]) for index in range(3))
    if query is None or key is None or value is None:
        return None
    if any(None in shape or len(shape) != 4 for shape in (query, key, value)):
        return None
    scores = math.prod(size or 0 for size in query[:3]) * (key[2] or 0)
    return scores * ((query[3] or 0) + (value[3] or 0))
