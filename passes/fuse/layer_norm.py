"""LayerNormalization from its primitives."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, producer
from edgec.passes.fuse.affine import absorb_affine
from edgec.passes.fuse.moments import Normalized, affine_shape, mean, normalized, trailing
from edgec.passes.infra import MatchLog, Pass, register

_SCALE_LIMIT = 65536
"""Elements of a scale of ones that a norm without one is given; a whole feature map is too much."""


@register
class LayerNorm(Pass):
    """Fuse layer normalisation into one `LayerNormalization` node (opset 17).

    ::

        x ──┬── ReduceMean ──┐
            └────────────── Sub ──┬── Mul(·,·) ── ReduceMean ── Add ε ── Sqrt ──┐
                                  └─────────────────────────────────────────── Div ── Mul w ── Add b ── y

            ⇒      x ── LayerNormalization(w, b) ── y

    The root may be a Reciprocal, a power of -½ or a quotient, the mean a sum over a count, the
    second Sub a node of its own (Ba et al., arXiv:1607.06450). A norm without an affine part gets a
    scale of ones. The normalised axes must be the last ones: over the channels of an NCHW map the
    primitives stay, because transposing there and back costs more than the fused node saves.
    LayerNormalization nodes that are there already count as matches, and constant factors and
    offsets behind them are folded in.
    """

    name = "fuse.layer_norm"
    enters = True
    after = ("canonicalize.constants", "canonicalize.identity", "canonicalize.exporter")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fuse in place; a match is a layer norm of the resulting graph."""
        editor = Editor(model, self.name, log)
        for node in editor.graph:
            if is_op(node, "Div", "Mul"):
                _fuse(editor, node)
        for node in editor.graph:
            if is_op(node, "LayerNormalization"):
                log.matched(node)
                assert node.inputs[0] is not None
                shape = affine_shape(node.inputs[0], int(attribute(node, "axis", -1)))
                while shape is not None and absorb_affine(editor, node, shape):
                    pass


def _fuse(editor: Editor, node: ir.Node) -> None:
    found = normalized(node)
    x = None if found is None else _centred(found)
    if found is None or x is None:
        return
    axis = trailing(found.axes, x)
    if axis is None:
        editor.log.missed(node, f"normalises axes {list(found.axes)} of {x.name}, not the last ones")
        return
    shape = affine_shape(x, axis)
    if shape is None or x.dtype is None:
        editor.log.missed(node, f"the normalised sizes of {x.name} are not known")
        return
    if math.prod(shape) > _SCALE_LIMIT:
        editor.log.missed(node, f"a scale over {list(shape)} would have {math.prod(shape)} elements")
        return
    out = node.outputs[0]
    scale = editor.initializer(np.ones(shape, x.dtype.numpy()), f"{node.name or node.op_type}/scale")
    made = editor.node(
        "LayerNormalization",
        [x, scale],
        like=node,
        attributes={"axis": axis, "epsilon": found.epsilon},
        shape=out.shape,
    )
    editor.replace(out, made)
    editor.prune(node)


def _centred(found: Normalized) -> ir.Value | None:
    """The x of `x - mean(x)`, if that is both the numerator and what is squared."""
    x = _uncentred(found.of, found.axes)
    if x is None or (found.of is not found.squares_of and _uncentred(found.squares_of, found.axes) is not x):
        return None
    return x


def _uncentred(value: ir.Value, axes: tuple[int, ...]) -> ir.Value | None:
    node = producer(value, "Sub")
    if node is None:
        return None
    x, average = node.inputs[0], mean(node.inputs[1])
    return x if average is not None and average.of is x and average.axes == axes else None
