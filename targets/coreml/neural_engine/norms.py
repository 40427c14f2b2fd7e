"""Rules of ops that work along one axis or several: norms, softmax, reductions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute
from edgec.targets.coreml.neural_engine.ops import DOMAIN
from edgec.targets.coreml.neural_engine.products import channels_first
from edgec.targets.coreml.neural_engine.registry import rule
from edgec.targets.coreml.neural_engine.storage import Axes, Factors, Stored, shape_of
from edgec.targets.coreml.neural_engine.walk import Results, Walk


@rule("LayerNormalization", "RMSNormalization")
def channel_norm(walk: Walk, node: ir.Node) -> Results:
    """The norm over the last axis becomes one over axis 1 of (B, C, 1, S)."""
    x, scale, bias = walk.tensor(node, 0), walk.array(node, 1), walk.array(node, 2)
    if x is None or scale is None or any(value.uses() for value in node.outputs[1:]):
        return None
    if len(node.inputs) > 2 and walk.tensor(node, 2) is not None:
        return None
    rank, axis = len(x.logical), int(attribute(node, "axis", -1))
    if axis not in (-1, rank - 1) or rank < 2 or not x.logical[-1]:
        return None
    channels = x.shape[-1]
    if scale.size != channels or (bias is not None and bias.size != channels):
        return None
    x = channels_first(walk, x)
    constants = [scale.reshape(-1)]
    op_type = "ChannelRMSNorm" if node.op_type == "RMSNormalization" else "ChannelNorm"
    if op_type == "ChannelNorm":
        constants.append(np.zeros_like(constants[0]) if bias is None else bias.reshape(-1))
    [value] = walk.emit.op(
        op_type,
        [x.value, *(walk.emit.constant(array, "affine") for array in constants)],
        [shape_of(x.stored)],
        domain=DOMAIN,
        attributes={"epsilon": float(attribute(node, "epsilon", 1e-5))},
    )
    return [Stored(value, x.logical, x.stored)]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(walk: Walk, node: ir.Node) -> Results:
    """Along whichever stored axis holds the one that is meant."""
    x = walk.tensor(node, 0)
    if x is None:
        return None
    axis = int(attribute(node, "axis", -1)) % len(x.logical)
    x, at = walk.isolated(x, x.logical[axis])
    [value] = walk.emit.op(node.op_type, [x.value], [shape_of(x.stored)], attributes={"axis": at})
    return [Stored(value, x.logical, x.stored)]


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceProd")
def reduce(walk: Walk, node: ir.Node) -> Results:
    """Over the stored axes that hold the reduced ones."""
    x, axes = walk.tensor(node, 0), walk.array(node, 1)
    if x is None or axes is None or axes.size == 0:
        return None
    rank = len(x.logical)
    reduced = sorted({int(axis) % rank for axis in axes.reshape(-1)})
    chosen = {factor for axis in reduced for factor in x.logical[axis]}
    stored = walk.split_groups(x, chosen)
    if not chosen or stored is None:
        return None
    x = walk.emit.arrange(x, stored)
    places = [at for at, axis in enumerate(stored) if axis and axis[0] in chosen]
    left: Axes = tuple(() if at in places else axis for at, axis in enumerate(stored))
    over = walk.emit.constant(np.asarray(places, np.int64), "axes")
    [value] = walk.emit.op(node.op_type, [x.value, over], [shape_of(left)], attributes={"keepdims": 1})
    empty: Factors = ()
    if int(attribute(node, "keepdims", 1)):
        logical: Axes = tuple(empty if axis in reduced else found for axis, found in enumerate(x.logical))
    else:
        logical = tuple(found for axis, found in enumerate(x.logical) if axis not in reduced)
    return [Stored(value, logical, left)]
