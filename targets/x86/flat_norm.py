"""LayerNorm in the rank that OpenVINO has a kernel for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, sizes
from edgec.passes.infra import MatchLog, Pass, register


@register
class FlatNorm(Pass):
    """Normalise images as sequences.

    ::

        x [1,56,56,96] ── LayerNormalization ── y
        ⇒
        x ── Reshape [1,3136,96] ── LayerNormalization ── Reshape [1,56,56,96] ── y

    OpenVINO's CPU plugin normalises the last axis in one kernel up to rank 3, and above in four
    (a mean, a difference, a root mean square, a product). A Reshape there moves nothing.
    """

    name = "x86.flat_norm"
    after = ("decompose.norm_affine",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Reshape around every LayerNorm over the last axis of a tensor of known sizes and rank above 3."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            shape = sizes(node.inputs[0]) if is_op(node, "LayerNormalization") else None
            if shape is None or len(shape) <= 3 or attribute(node, "axis", -1) not in (-1, len(shape) - 1):
                continue
            known = [size for size in shape if size is not None]
            if len(known) < len(shape) or any(value.uses() for value in node.outputs[1:]):
                continue
            _flatten(editor, node, known)
            log.matched(node)
        editor.remove_dead()


def _flatten(editor: Editor, node: ir.Node, shape: list[int]) -> None:
    flat = [shape[0], int(np.prod(shape[1:-1])), shape[-1]]
    there, back = (
        editor.initializer(np.asarray(sizes_, np.int64), f"{node.name}/shape") for sizes_ in (flat, shape)
    )
    value = editor.node("Reshape", [node.inputs[0], there], like=node, shape=flat)  # type: ignore[list-item]
    attributes = {
        "axis": -1,
        "epsilon": attribute(node, "epsilon", 1e-5),
        "stash_type": attribute(node, "stash_type", 1),
    }
    normal = editor.node(
        "LayerNormalization", [value, *node.inputs[1:]], like=node, attributes=attributes, shape=flat
    )
    editor.replace(node.outputs[0], editor.node("Reshape", [normal, back], like=node, shape=shape))
