"""RMSNormalization from its primitives."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, producer, sole_consumer
from edgec.passes.fuse.affine import absorb_affine
from edgec.passes.fuse.moments import affine_shape, normalized, trailing
from edgec.passes.infra import MatchLog, Pass, register

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@register
class RmsNorm(Pass):
    """Fuse root-mean-square normalisation into one `RMSNormalization` node (opset 23).

    ::

        x ──┬── Mul(·,·) ── ReduceMean ── Add ε ── Sqrt ── Reciprocal ──┐
            └───────────────────────────────────────────────────────── Mul ── Mul w ── y

            ⇒      x ── RMSNormalization(w) ── y

    The root is spelled in every way that `fuse.layer_norm` knows (Zhang and Sennrich,
    arXiv:1910.07467). Where a half-precision x is cast to fp32 for the norm and back before the
    weight, as LLaMA does, both casts go into the node: its `stash_type` computes in fp32.
    RMSNormalization nodes that are there already count as matches.
    """

    name = "fuse.rms_norm"
    enters = True
    after = ("canonicalize.constants", "canonicalize.identity", "canonicalize.exporter", "fuse.layer_norm")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fuse in place; a match is an RMS norm of the resulting graph."""
        editor = Editor(model, self.name, log)
        for node in editor.graph:
            if is_op(node, "Div", "Mul"):
                _fuse(editor, node)
        for node in editor.graph:
            if is_op(node, "RMSNormalization"):
                log.matched(node)
                assert node.inputs[0] is not None
                shape = affine_shape(node.inputs[0], int(attribute(node, "axis", -1)))
                while shape is not None and absorb_affine(editor, node, shape):
                    pass


def _fuse(editor: Editor, node: ir.Node) -> None:
    found = normalized(node)
    if found is None or found.of is not found.squares_of:
        return
    x, last = found.of, node
    axis = trailing(found.axes, x)
    if axis is None:
        editor.log.missed(node, f"normalises axes {list(found.axes)} of {x.name}, not the last ones")
        return
    shape = affine_shape(x, axis)
    if shape is None or x.dtype is None:
        editor.log.missed(node, f"the normalised sizes of {x.name} are not known")
        return
    widened = producer(x, "Cast")
    narrowed = sole_consumer(node.outputs[0])
    origin = widened.inputs[0] if widened is not None else None
    if (
        origin is not None
        and origin.dtype in _HALVES
        and x.dtype == ir.DataType.FLOAT
        and is_op(narrowed, "Cast")
        and narrowed is not None
        and narrowed.outputs[0].dtype == origin.dtype
    ):
        x, last = origin, narrowed
    assert x.dtype is not None
    out = last.outputs[0]
    scale = editor.initializer(np.ones(shape, x.dtype.numpy()), f"{node.name or node.op_type}/scale")
    made = editor.node(
        "RMSNormalization",
        [x, scale],
        like=node,
        before=last,
        attributes={"axis": axis, "epsilon": found.epsilon},
        shape=out.shape,
    )
    editor.replace(out, made)
    editor.prune(last)
