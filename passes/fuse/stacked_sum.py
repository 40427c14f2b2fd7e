"""Sums over a stack of tensors, without the stack."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, producer, same_shape, sizes
from edgec.passes.fuse.matching import reduced_axes, refuse_other_readers
from edgec.passes.infra import MatchLog, Pass, Refusal, register

_MOST = 4
"""Tensors that are added one by one; more of them are read in fewer passes by the reduction."""


@register
class StackedSum(Pass):
    """Add tensors instead of stacking them and summing over the stack.

    ::

        a ── Unsqueeze ── Concat ── ReduceSum(axis of the stack) ── y      ⇒      a ── Add ── y
        b ── Unsqueeze ─────┘                                                     b ────┘

    How frameworks write a sum of a list: the parallel blocks of Three Things (arXiv 2203.09795). No engine
    sees through the copy. Exact up to the order of summation.
    """

    name = "fuse.stacked_sum"
    after = ("canonicalize.shapes", "canonicalize.exporter")
    before = ("fuse.conv_batchnorm", "fuse.matmul_add")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place."""
        editor = Editor(model, self.name, log)
        for node in list(editor.graph):
            stack = producer(node.inputs[0], "Concat") if is_op(node, "ReduceSum") else None
            if stack is None or not _is_over_the_stack(node, stack):
                continue
            try:
                _rewrite(editor, node, stack)
            except Refusal as refusal:
                log.missed(node, refusal)
            else:
                log.matched(node)


def _is_over_the_stack(node: ir.Node, stack: ir.Node) -> bool:
    """Whether it sums over the axis of the Concat, and that alone, and every part is one layer of it."""
    shape = sizes(stack.outputs[0])
    if shape is None or node.outputs[0].shape is None:
        return False
    axis = int(attribute(stack, "axis", 0)) % len(shape)
    parts = [sizes(value) for value in stack.inputs]
    return reduced_axes(node) == (axis,) and all(part is not None and part[axis] == 1 for part in parts)


def _rewrite(editor: Editor, node: ir.Node, stack: ir.Node) -> None:
    if len(stack.inputs) > _MOST:
        raise Refusal(f"it sums {len(stack.inputs)} tensors, more than {_MOST}")
    refuse_other_readers(stack.outputs[0], node)
    out = node.outputs[0]
    values: list[ir.Value] = []
    for part in stack.inputs:
        assert part is not None
        view = producer(part, "Reshape", "Unsqueeze")
        inner = part if view is None else view.inputs[0]
        flat = next((each for each in (part, inner) if each is not None and same_shape(each, out)), None)
        if flat is None:
            raise Refusal(f"{part.name} is no view of a tensor of the sum's shape")
        values.append(flat)
    total = values[0]
    for value in values[1:]:
        total = editor.node("Add", [total, value], like=node, shape=out.shape)
    editor.replace(out, total)
    editor.prune(node)
