"""What the reducing ops are given besides the tokens: their sizes, and how much attention each gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute, sizes
from edgec.passes.tokens.masks import PADDED_BELOW, attention_mask
from edgec.passes.tokens.sites import Site

if TYPE_CHECKING:
    from edgec.passes.tokens.reduce import Sweep


def initial_sizes(sweep: Sweep, site: Site) -> ir.Value:
    """Sizes before the first reduction, (B, N, 1): 1, or 0 where the attention's mask hides the token.

    A finite additive mask b counts as a size of exp(b), whose logarithm the later attentions add: it is kept.
    """
    stream, mask = site.stream, site.mask
    batch, length = sizes(stream)[0], site.length  # type: ignore[index]
    assert batch is not None
    shape = [batch, length, 1]
    like = site.attention
    if mask is None:
        return sweep.editor.initializer(np.ones(shape, np.float32), "token_sizes")
    known = sizes(mask)
    assert known is not None
    number = sweep.insert(
        "Cast", [mask], like=like, attributes={"to": 1}, shape=mask.shape, dtype=ir.DataType.FLOAT
    )
    if mask.dtype != ir.DataType.BOOL:
        weight = sweep.insert("Exp", [number], like=like, shape=mask.shape)
        bound = sweep.editor.initializer(np.array(PADDED_BELOW, np.float32), "padded_below")
        nothing = sweep.editor.initializer(np.array(0.0, np.float32), "no_size")
        visible = sweep.insert(
            "Greater", [number, bound], like=like, shape=mask.shape, dtype=ir.DataType.BOOL
        )
        number = sweep.insert(
            "Where", [visible, weight, nothing], like=like, shape=mask.shape, dtype=ir.DataType.FLOAT
        )
    own = known[0] if len(known) == 4 else 1
    assert own is not None
    column = sweep.insert(
        "Reshape", [number, sweep.ints([own, length, 1], "column")], like=like, shape=[own, length, 1]
    )
    if own == batch:
        return column
    return sweep.insert("Expand", [column, sweep.ints(shape, "shape")], like=like, shape=shape)


def attention_received(sweep: Sweep, site: Site, *, row: int | None) -> ir.Value:
    """(B, N): the attention that each token gets, mean over heads, from one token or from all.

    From all, queries are summed (Learned Token Pruning, arXiv 2107.00910), each as often as its size says, so
    that padding asks nothing and a merged token asks for all of its own. Queries that share keys (grouped
    heads) stand one group behind the other in the product with them.

    Args:
        sweep: inserts the nodes.
        site: whose attention.
        row: the token that asks, a class token; None for all.
    """
    node = site.attention
    query, key = node.inputs[0], node.inputs[1]
    bias = attention_mask(node)
    assert query is not None
    assert query.shape is not None
    assert key is not None
    batch, heads, _, depth = query.shape
    groups, length = (sizes(key) or ())[1], sweep.length(site)
    assert isinstance(heads, int)
    assert isinstance(depth, int)
    assert isinstance(groups, int)
    assert isinstance(length, int)
    rows = length
    if row is not None:
        rows = 1
        query = sweep.insert(
            "Slice",
            [query, sweep.ints([row], "start"), sweep.ints([row + 1], "end"), sweep.ints([2], "axis")],
            like=node,
            shape=[batch, heads, 1, depth],
        )
    together = heads // groups * rows
    if groups != heads:
        query = sweep.insert(
            "Reshape",
            [query, sweep.ints([0, groups, together, depth], "groups")],
            like=node,
            shape=[batch, groups, together, depth],
        )
    turned = sweep.insert(
        "Transpose", [key], like=node, attributes={"perm": [0, 1, 3, 2]}, shape=[batch, groups, depth, length]
    )
    logits = sweep.insert("MatMul", [query, turned], like=node, shape=[batch, groups, together, length])
    shape = [batch, heads, rows, length]
    if groups != heads:
        logits = sweep.insert(
            "Reshape", [logits, sweep.ints([0, heads, rows, length], "heads")], like=node, shape=shape
        )
    scale = attribute(node, "scale") or depth**-0.5
    numpy_type = logits.dtype.numpy() if logits.dtype else np.float32
    factor = sweep.editor.initializer(np.array(scale, numpy_type), "scale")
    logits = sweep.insert("Mul", [logits, factor], like=node, shape=shape)
    if bias is not None and bias.dtype == ir.DataType.BOOL:
        hidden = sweep.editor.initializer(np.array(-1e4, numpy_type), "hidden")
        logits = sweep.insert("Where", [bias, logits, hidden], like=node, shape=shape, dtype=logits.dtype)
    elif bias is not None:
        logits = sweep.insert("Add", [logits, bias], like=node, shape=shape)
    weights = sweep.insert("Softmax", [logits], like=node, attributes={"axis": -1}, shape=shape)
    mean = sweep.insert(
        "ReduceMean",
        [weights, sweep.ints([1], "axes")],
        like=node,
        attributes={"keepdims": 0},
        shape=[batch, rows, length],
    )
    if row is None:
        asked = sweep.insert(
            "Transpose",
            [sweep.sizes(site)],
            like=node,
            attributes={"perm": [0, 2, 1]},
            shape=[batch, 1, length],
            dtype=ir.DataType.FLOAT,
        )
        if mean.dtype != ir.DataType.FLOAT:
            asked = sweep.insert("CastLike", [asked, mean], like=node, shape=asked.shape, dtype=mean.dtype)
        mean = sweep.insert("MatMul", [asked, mean], like=node, shape=[batch, 1, length])
    return sweep.insert("Squeeze", [mean, sweep.ints([1], "axes")], like=node, shape=[batch, length])
