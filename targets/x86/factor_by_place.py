"""Factors that differ from place to place in front of a convolution."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant, sizes
from edgec.passes.infra import MatchLog, Pass, register


@register
class FactorByPlace(Pass):
    """Keep OpenVINO from folding a factor that differs from place to place into a convolution's weights.

    ::

        x [1,2,7,7] ── Div(counts [7,7]) ── Conv(7×7)
        ⇒
        x ── Reshape [1,2,49] ── Div(counts [49]) ── Reshape [1,2,7,7] ── Conv(7×7)

    OpenVINO 2026.4 multiplies the weights by any constant that fits them, so also by one that varies over a
    picture of the kernel's own size, or along one axis of it: a mean over windows that overlap (CSATv2) is
    then off by as much as it varies. It looks for the product right in front of the convolution; the
    Reshapes move nothing.
    """

    name = "x86.factor_by_place"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a product or quotient."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if not is_op(node, "Mul", "Div") or not any(
                is_op(use.node, "Conv") and use.idx == 0 for use in node.outputs[0].uses()
            ):
                continue
            for index in (0, 1) if node.op_type == "Mul" else (1,):
                factor = constant(node.inputs[index])
                shape = sizes(node.outputs[0])
                if factor is None or shape is None or sizes(node.inputs[1 - index]) != shape:
                    continue
                places = len(shape) - 2
                if all(size == 1 for size in factor.shape[-places:]):
                    continue
                if None in shape[2:]:
                    log.missed(node, f"the sizes of {node.outputs[0].name} are open")
                    continue
                _flatten(editor, node, index, factor, shape)
                log.matched(node)
                break


def _flatten(
    editor: Editor, node: ir.Node, index: int, factor: np.ndarray, shape: tuple[int | None, ...]
) -> None:
    declared = [ir.SymbolicDim(None) if size is None else size for size in shape]
    places = [int(size) for size in shape[2:] if size is not None]
    lead = factor.shape[: max(0, factor.ndim - len(places))]
    flat = np.ascontiguousarray(np.broadcast_to(factor, (*lead, *places))).reshape(*lead, -1)
    whole = node.inputs[1 - index]
    assert whole is not None
    stem, count = node.name or node.op_type, flat.shape[-1]
    there, back = (
        editor.initializer(np.array([0, 0, *numbers], np.int64), f"{stem}/shape")
        for numbers in ([count], places)
    )
    row = editor.node("Reshape", [whole, there], like=node, shape=[*declared[:2], count], dtype=whole.dtype)
    pair = [row, editor.initializer(flat, f"{stem}/factor")]
    made = editor.node(
        node.op_type,
        pair if index == 1 else pair[::-1],
        like=node,
        shape=[*declared[:2], count],
        dtype=whole.dtype,
    )
    editor.replace(
        node.outputs[0], editor.node("Reshape", [made, back], like=node, shape=declared, dtype=whole.dtype)
    )
    editor.prune(node)
