"""Reading the opset-23 `Attention` that an exporter already made."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute
from edgec.passes.fuse.attention_mask import MaskTerm
from edgec.passes.fuse.attention_match import Operand, Site, feature_atoms, over_axis
from edgec.passes.fuse.axes import Axes, Dim, dims
from edgec.passes.infra import Refusal


def read_native(node: ir.Node) -> Site:
    """The attention that an `Attention` node is.

    Raises:
        Refusal: it has a cache or hands out its logits, its heads are not given, or a shape is unknown.
    """
    if any(value is not None for value in node.inputs[4:]):
        raise Refusal("it has a cache of past keys and values, which has no form without one")
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        raise Refusal("its further outputs (cache or logits) are used")
    query, key, value = node.inputs[:3]
    if query is None or key is None or value is None:
        raise Refusal("an operand is missing")
    axes = Axes()
    ranks = len(dims(query))
    if ranks == 4:
        q_sizes, k_sizes, v_sizes = dims(query), dims(key), dims(value)
    else:
        q_heads, kv_heads = int(attribute(node, "q_num_heads", 0)), int(attribute(node, "kv_num_heads", 0))
        if not q_heads or not kv_heads:
            raise Refusal("its inputs are three-dimensional and the number of heads is not given")
        q_sizes = _by_heads(query, q_heads)
        k_sizes, v_sizes = _by_heads(key, kv_heads), _by_heads(value, kv_heads)
    batch, rows, depth = axes.fresh(q_sizes[0]), axes.fresh(q_sizes[2]), axes.fresh(q_sizes[3])
    columns, width = axes.fresh(k_sizes[2]), axes.fresh(v_sizes[3])
    heads = axes.fresh(q_sizes[1])
    q_head, kv_head = q_sizes[1], k_sizes[1]
    kv_heads_dim: Dim = heads
    if kv_head != q_head:
        if not isinstance(q_head, int) or not isinstance(kv_head, int):
            raise Refusal("it groups an open number of heads")
        kv_heads_dim = axes.reshape((heads,), (kv_head, q_head // kv_head))[0]

    def operand(tensor: ir.Value, head: Dim, sequence: Dim, features: Dim) -> Operand:
        if ranks == 4:
            return Operand(tensor, (batch, head, sequence, features))
        return Operand(tensor, (batch, sequence, head + features))

    q = operand(query, heads, rows, depth)
    k = operand(key, kv_heads_dim, columns, depth)
    size = q_sizes[3]
    scale = attribute(node, "scale")
    if scale is None:
        if not isinstance(size, int):
            raise Refusal("its scale follows an open head size")
        scale = float(1.0 / np.sqrt(size))
    terms = []
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None:
        whole = (batch, heads, rows, columns)
        fill = -np.inf if mask.dtype == ir.DataType.BOOL else None
        terms.append(MaskTerm(node, mask, whole, 1.0, fill))
    precision = attribute(node, "softmax_precision")
    return Site(
        node,
        node,
        axes,
        q,
        k,
        operand(value, kv_heads_dim, columns, width),
        operand(node.outputs[0], heads, rows, width),
        batch,
        heads,
        rows,
        columns,
        depth,
        width,
        float(scale),
        terms=terms,
        causal=bool(attribute(node, "is_causal", 0)),
        precision=query.dtype if precision is None else ir.DataType(int(precision)),
        softcap=float(attribute(node, "softcap", 0.0)),
        over=over_axis(axes, feature_atoms(axes, q), feature_atoms(axes, k), rows, columns, depth),
    )


def _by_heads(tensor: ir.Value, heads: int) -> tuple[int | str, ...]:
    batch, sequence, hidden = dims(tensor)
    if not isinstance(hidden, int):
        raise Refusal("its hidden size is open")
    return batch, heads, sequence, hidden // heads
