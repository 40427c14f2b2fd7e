"""Several rearrangements of rows as one Gather."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, sizes, sole_consumer
from edgec.passes.infra import MatchLog, Pass, register


@register
class GatheredRows(Pass):
    """Move rows once, where a network cuts, joins and turns them in turn.

    ::

        x [1,56,56,96] ── Split ── Concat ── Split ── Concat ── Reshape ── Transpose ── Reshape [64,49,96]
        ⇒
        x ── Reshape [3136,96] ── Gather(rows) ── Reshape [64,49,96]

    Swin's shifted windows (arXiv 2103.14030): two rolls and the partition in front of attention, and all
    of it back behind it. Each step copies the whole tensor; where each row ends up is known beforehand. The
    last axis must stay whole: rows are what is moved. For ONNX Runtime; OpenVINO's Gather takes as long as
    the steps that it would replace.
    """

    name = "x86.gathered_rows"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place, the longest chains; a match is a chain."""
        editor = Editor(model, self.name, log)
        for node in reversed(list(model.graph)):
            if node.graph is None or not is_op(node, "Reshape", "Transpose", "Concat"):
                continue
            rows = _Trace().rows(node.outputs[0], end=True)
            if rows is None or rows.joins == 0 or rows.joins + rows.turns < 2:
                continue
            _gather(editor, node, rows)
            log.matched(node)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows of a value as rows of another.

    Attributes:
        root: where the rows come from.
        index: for each row, its place among the root's; of the value's shape without the last axis.
        joins: Concats on the longest way.
        turns: Transposes on the longest way.
    """

    root: ir.Value
    index: np.ndarray
    joins: int = 0
    turns: int = 0


class _Trace:
    """Follows rows backwards through what only moves them, and nobody else reads."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, _Rows | None] = {}

    def rows(self, value: ir.Value, *, end: bool = False) -> _Rows | None:
        """The rows of a value; None where its sizes are open."""
        if value not in self._known:
            self._known[value] = self._follow(value, end)
        return self._known[value]

    def _follow(self, value: ir.Value, end: bool) -> _Rows | None:
        shape = sizes(value)
        if shape is None or None in shape or len(shape) < 2:
            return None
        node = value.producer()
        if node is not None and (end or sole_consumer(value) is not None):
            found = self._through(node, value, shape)  # type: ignore[arg-type]
            if found is not None:
                return found
        count = int(np.prod(shape[:-1]))  # type: ignore[arg-type]
        return _Rows(value, np.arange(count).reshape(shape[:-1]))  # type: ignore[arg-type]

    def _through(self, node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> _Rows | None:
        """The rows of what a node moves; None where it does more, or they come from several values."""
        first = node.inputs[0] if node.inputs else None
        if first is None or not is_op(node, "Reshape", "Transpose", "Split", "Concat"):
            return None
        last = len(shape) - 1
        if is_op(node, "Concat"):
            axis = int(attribute(node, "axis")) % len(shape)
            parts = [None if each is None else self.rows(each) for each in node.inputs]
            known = [part for part in parts if part is not None]
            if axis == last or len(known) < len(parts) or len({part.root for part in known}) > 1:
                return None
            joined = np.concatenate([part.index for part in known], axis=axis)
            joins, turns = (
                max(each) for each in zip(*((part.joins, part.turns) for part in known), strict=True)
            )
            return _Rows(known[0].root, joined, joins + 1, turns)
        source = self.rows(first)
        before = sizes(first)
        if source is None or before is None:
            return None
        if is_op(node, "Reshape"):
            if before[-1] != shape[-1]:
                return None
            return dataclasses.replace(source, index=source.index.reshape(shape[:-1]))
        if is_op(node, "Transpose"):
            order = attribute(node, "perm")
            if order is None or order[last] != last:
                return None
            return dataclasses.replace(
                source, index=source.index.transpose(order[:last]), turns=source.turns + 1
            )
        axis = int(attribute(node, "axis", 0)) % len(shape)
        lengths = [sizes(each) for each in node.outputs]
        if axis == last or any(each is None or each[axis] is None for each in lengths):
            return None
        place = list(node.outputs).index(value)
        start = sum(each[axis] for each in lengths[:place])  # type: ignore[index,misc]
        cut = np.take(source.index, range(start, start + shape[axis]), axis=axis)
        return dataclasses.replace(source, index=cut)


def _gather(editor: Editor, node: ir.Node, rows: _Rows) -> None:
    out, stem = node.outputs[0], node.name or node.op_type
    shape, before = sizes(out), sizes(rows.root)
    assert shape is not None
    assert before is not None
    width, count = shape[-1], rows.index.size
    whole = int(np.prod(before[:-1]))  # type: ignore[arg-type]
    ints = [
        editor.initializer(np.array(numbers, np.int64), f"{stem}/shape")
        for numbers in ([whole, width], shape)
    ]
    index = editor.initializer(rows.index.reshape(-1).astype(np.int64), f"{stem}/rows")
    flat = editor.node("Reshape", [rows.root, ints[0]], like=node, shape=[whole, width])  # type: ignore[list-item]
    moved = editor.node("Gather", [flat, index], like=node, attributes={"axis": 0}, shape=[count, width])  # type: ignore[list-item]
    editor.replace(out, editor.node("Reshape", [moved, ints[1]], like=node, shape=out.shape))
    editor.prune(node)
