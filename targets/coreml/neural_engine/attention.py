"""The rule of attention: head by head, on matrices that lie channels first.

Apple's reference splits the heads apart, so that the scores of one head can stay in the engine's own
memory, and keeps every tensor channels first ("Deploying Transformers on the Apple Neural Engine",
principles 1 to 3; the same code is `SPLIT_EINSUM` in apple/ml-stable-diffusion, where the batched form is
"not recommended for ANE"). Its einsum needs the keys transposed once a layer; here the flag of `matmul`
does it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute
from edgec.targets.coreml.lowering.attention import MASKED
from edgec.targets.coreml.neural_engine.elementwise import aligned
from edgec.targets.coreml.neural_engine.ops import DOMAIN
from edgec.targets.coreml.neural_engine.registry import rule
from edgec.targets.coreml.neural_engine.storage import Axes, Factor, Factors, Stored, flat, shape_of
from edgec.targets.coreml.neural_engine.walk import Results, Walk, laid


@rule("Attention")
def attention(walk: Walk, node: ir.Node) -> Results:
    """softmax(scale · Q · Kᵀ + mask) · V, a product, a softmax and a product for each head.

    ::

        q (B, h·d, 1, S) ── (B, h, d, S) ── split ── q_i ──┐
        k  likewise ──────────────────────── k_i ── k_iᵀ · q_i ── + mask ── softmax over keys ── w_i
        v  likewise ──────────────────────── v_i ── v_i · w_i ── concat ── (B, h·d, 1, S)

    Scores lie (B, 1, keys, queries). Left to the general form: past keys and values, soft capping, windows,
    lengths, more outputs than one, rows whose mask hides every key.
    """
    if not _plain_enough(walk, node):
        return None
    query, key, value = (_heads(walk, node, index) for index in range(3))
    if query is None or key is None or value is None:
        return None
    together = _shared(query, key.refreshed(), value.refreshed())
    if together is None:
        return None
    query, key, value = together
    batch = tuple(factor for factor in query.order if factor in set(query.logical[0]))
    masks = _masks(walk, node, query, key, batch)
    if masks is None:
        return None
    heads = query.shape[1]
    scale = attribute(node, "scale") or 1 / math.sqrt(query.shape[3])
    queries = _each_head(walk, _scaled(walk, _laid_out(walk, query, batch), float(scale)))
    keys = _each_head(walk, _laid_out(walk, key, batch))
    values = _each_head(walk, _laid_out(walk, value, batch))
    group = heads // len(keys)
    results = []
    for head, one in enumerate(queries):
        mask = masks[head % len(masks)] if masks else None
        results.append(_one_head(walk, one, keys[head // group], values[head // group], mask))
    rows, width = query.logical[2], value.logical[3]
    made: Factors = (Factor(heads),) if heads > 1 else ()
    stored: Axes = (batch, made, width, rows)
    if heads == 1:
        [result] = results
    else:
        [result] = walk.emit.op("Concat", results, [shape_of(stored)], attributes={"axis": 1})
    logical: Axes = (query.logical[0], made, rows, width)
    if len(walk.tensor(node, 0).logical) == 3:  # type: ignore[union-attr]
        logical = (query.logical[0], rows, made + width)
    return [Stored(result, logical, stored)]


def _plain_enough(walk: Walk, node: ir.Node) -> bool:
    if any(walk.given(node, index) is not None for index in (4, 5, 6)):
        return False
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    if float(attribute(node, "softcap", 0.0)):
        return False
    if any(attribute(node, name, -1) != -1 for name in ("left_window_size", "right_window_size")):
        return False
    return int(attribute(node, "softmax_precision", 0) or 0) in (0, int(node.inputs[0].dtype or 0))  # type: ignore[union-attr]


def _heads(walk: Walk, node: ir.Node, index: int) -> Stored | None:
    """The operand as it is read with heads: (B, h, S, d)."""
    x = walk.tensor(node, index)
    if x is None or len(x.logical) == 4:
        return x
    heads = int(attribute(node, "q_num_heads" if index == 0 else "kv_num_heads", 0))
    if len(x.logical) != 3 or not heads:
        return None
    batch, length, width = x.shape
    apart = x.reshaped((batch, length, heads, width // heads))
    return None if apart is None else apart.read_as(tuple(apart.logical[axis] for axis in (0, 2, 1, 3)))


def _shared(query: Stored, key: Stored, value: Stored) -> list[Stored] | None:
    """The three with one batch; None where their batches differ."""
    if len({one.shape[0] for one in (query, key, value)}) > 1:
        return None
    operands = (query, key, value)
    together = aligned([one.read_as((one.logical[0],)) for one in operands], 1)
    if together is None:
        return None
    return [
        found.read_as((*found.logical, *one.logical[1:]))
        for found, one in zip(together, operands, strict=True)
    ]


def _laid_out(walk: Walk, x: Stored, batch: Factors) -> Stored:
    """(B, h, S, d) lying as (B, h, d, S), its heads and its sizes each in one run."""
    return walk.emit.arrange(x, (batch, x.logical[1], x.logical[3], x.logical[2]))


def _scaled(walk: Walk, x: Stored, scale: float) -> Stored:
    if scale == 1.0:
        return x
    dtype = np.float32 if x.value.dtype is None else x.value.dtype.numpy()
    factor = walk.emit.constant(np.asarray(scale, dtype), "scale")
    [value] = walk.emit.op("Mul", [x.value, factor], [shape_of(x.stored)])
    return Stored(value, x.logical, x.stored)


def _each_head(walk: Walk, x: Stored) -> list[ir.Value]:
    batch, heads, width, length = shape_of(x.stored)
    if heads == 1:
        return [x.value]
    sizes = walk.emit.constant(np.ones(heads, np.int64), "lengths")
    shapes = [(batch, 1, width, length)] * heads
    return walk.emit.op("Split", [x.value, sizes], shapes, attributes={"axis": 1})


def _one_head(walk: Walk, query: ir.Value, key: ir.Value, value: ir.Value, mask: ir.Value | None) -> ir.Value:
    batch, _, _, rows = (int(size) for size in query.shape or ())  # type: ignore[arg-type]
    keys, value_width = int(key.shape[3]), int(value.shape[2])  # type: ignore[index, arg-type]
    shape = (batch, 1, keys, rows)
    [scores] = walk.emit.op("LeftTransposedMatMul", [key, query], [shape], domain=DOMAIN)
    if mask is not None:
        [scores] = walk.emit.op("Add", [scores, mask], [shape])
    [weights] = walk.emit.op("Softmax", [scores], [shape], attributes={"axis": 2})
    [result] = walk.emit.op("MatMul", [value, weights], [(batch, 1, value_width, rows)])
    return result


def _masks(walk: Walk, node: ir.Node, query: Stored, key: Stored, batch: Factors) -> list[ir.Value] | None:
    """One additive mask a head, or one for all, or none; None where the rule does not take the mask."""
    rows, columns = query.shape[2], key.shape[2]
    dtype = np.dtype(np.float32 if query.value.dtype is None else query.value.dtype.numpy())
    causal = bool(attribute(node, "is_causal", 0))
    allowed = np.tri(rows, columns, dtype=bool) if causal else np.ones((rows, columns), bool)
    given = walk.given(node, 3)
    if isinstance(given, Stored):
        return None if causal else _computed(walk, given, query, key, batch, dtype)
    if given is None:
        if not causal:
            return []
        added = np.where(allowed, 0, MASKED).astype(dtype)
    else:
        if given.shape[-1] != columns:
            return None
        boolean = given.dtype == np.bool_
        seen = (given if boolean else given > MASKED) & allowed
        added = np.where(seen, 0 if boolean else given, MASKED)
        added = np.maximum(added, MASKED).astype(dtype)
        allowed = seen
    if not allowed.any(-1).all():
        return None
    added = added.reshape((1,) * (4 - added.ndim) + added.shape)
    logical: Axes = (query.logical[0], query.logical[1], query.logical[2], key.logical[2])
    stored: Axes = (batch, query.logical[1], key.logical[2], query.logical[2])
    array = laid(added, logical, stored)
    if array.ndim == 0:
        return [walk.emit.constant(array, "mask")]
    parts = np.split(array, array.shape[1], axis=1)
    return [walk.emit.constant(part, "mask") for part in parts]


def _computed(
    walk: Walk, mask: Stored, query: Stored, key: Stored, batch: Factors, dtype: np.dtype
) -> list[ir.Value] | None:
    """A mask known only at run time, clamped, and lying as the scores do."""
    if mask.shape[-1] != key.shape[2]:
        return None
    meant = Stored(query.value, (*query.logical[:3], key.logical[2]), ())
    mask = mask.refreshed()
    raised = mask.read_as(((),) * (4 - len(mask.logical)) + mask.logical)
    pair = aligned([meant, raised], 4)
    if pair is None or set(flat(pair[0].logical)) != set(flat(meant.logical)):
        return None
    mask = pair[1]
    order = (batch, query.logical[1], key.logical[2], query.logical[2])
    own = set(mask.order)
    placed = walk.emit.arrange(
        mask, tuple(tuple(factor for factor in axis if factor in own) for axis in order)
    )
    shape = shape_of(placed.stored)
    floor = walk.emit.constant(np.asarray(MASKED, dtype), "floor")
    if placed.value.dtype == ir.DataType.BOOL:
        zero = walk.emit.constant(np.asarray(0, dtype), "zero")
        [value] = walk.emit.op("Where", [placed.value, zero, floor], [shape], dtype=query.value.dtype)
    else:
        [value] = walk.emit.op("Max", [placed.value, floor], [shape])
    if shape[1] == 1:
        return [value]
    sizes = walk.emit.constant(np.ones(shape[1], np.int64), "lengths")
    shapes = [(shape[0], 1, *shape[2:])] * shape[1]
    return walk.emit.op("Split", [value, sizes], shapes, attributes={"axis": 1})
