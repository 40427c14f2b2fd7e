"""The scale of attention, folded into the linear layer that makes the queries."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, consumers, sizes, sole_consumer

_MOVES = ("Reshape", "Transpose", "Split", "Slice", "Gather", "Squeeze", "Unsqueeze")
_LONGEST = 8
"""Moves between a projection and attention; exporters write at most five."""


def fold_scale(editor: Editor, query: ir.Value, scale: float) -> bool:
    """Multiply the columns of the linear layer that become the queries, and of its bias; say whether.

    ::

        x ── MatMul(W) ── Add(b) ── Split ── q ── Mul(scale)
                                    ├─ k
                                    └─ v
        ⇒
        x ── MatMul([scale·Wq Wk Wv]) ── Add([scale·bq bk bv]) ── Split ── q, k, v

    Which columns those are is found by moving the column numbers themselves along the path. Nothing
    is folded where another reader sees one of these columns. Exact up to the rounding of the weights.

    Args:
        editor: edits the graph.
        query: the queries, behind Reshape, Transpose, Split, Slice, Gather or Squeeze.
        scale: the factor.
    """
    path = _path_to_linear(query)
    if path is None:
        return False
    start, moves = path
    columns = _columns_of_query(start, moves)
    if columns is None:
        return False
    return _scale_columns(editor, start, columns, scale)


def _path_to_linear(query: ir.Value) -> tuple[ir.Value, list[ir.Value]] | None:
    """The output of the linear layer and the values from there to the queries."""
    values = [query]
    while len(values) <= _LONGEST:
        node = values[-1].producer()
        if node is None or values[-1].is_graph_output():
            return None
        if not is_op(node, *_MOVES):
            return (values[-1], values[-2::-1]) if is_op(node, "MatMul", "Add", "Gemm") else None
        if node.inputs[0] is None:
            return None
        values.append(node.inputs[0])
    return None


def _columns_of_query(start: ir.Value, moves: list[ir.Value]) -> np.ndarray | None:
    """Column numbers that only the queries see; None where others see them or a shape is unknown."""
    shape = sizes(start)
    if shape is None or None in shape:
        return None
    numbers = np.broadcast_to(np.arange(shape[-1]), shape)  # type: ignore[arg-type]
    seen_by_others: list[np.ndarray] = []
    value = start
    for following in moves:
        maker = following.producer()
        for reader in consumers(value):
            moved = _moved(reader, numbers) if reader.inputs[0] is value else None
            if moved is None:
                return None
            for output in reader.outputs:
                if output is not following and (output.uses() or output.is_graph_output()):
                    seen_by_others.append(moved[output.name])
            if reader is maker:
                kept = moved[following.name]
        value, numbers = following, kept
    if len(value.uses()) != 1:
        return None
    columns = np.unique(numbers)
    if any(np.isin(columns, others).any() for others in seen_by_others):
        return None
    return columns


def _moved(node: ir.Node, numbers: np.ndarray) -> dict[str | None, np.ndarray] | None:
    """What a moving op makes of an array, by output name; None for another op or unknown operands."""
    output = node.outputs[0]
    shape = sizes(output)
    if is_op(node, "Transpose"):
        return {output.name: np.transpose(numbers, attribute(node, "perm"))}
    if is_op(node, "Reshape", "Squeeze", "Unsqueeze"):
        if shape is None or None in shape:
            return None
        return {output.name: numbers.reshape(shape)}  # type: ignore[arg-type]
    if is_op(node, "Split"):
        axis, start, parts = attribute(node, "axis", 0), 0, {}
        for part in node.outputs:
            part_shape = sizes(part)
            if part_shape is None or part_shape[axis] is None:
                return None
            end = start + part_shape[axis]  # type: ignore[operator]
            parts[part.name] = np.take(numbers, range(start, end), axis)
            start = end
        return parts
    operands = [constant(value) for value in node.inputs[1:] if value is not None]
    if any(operand is None for operand in operands):
        return None
    if is_op(node, "Gather"):
        return {output.name: np.take(numbers, operands[0], attribute(node, "axis", 0))}  # type: ignore[arg-type]
    if is_op(node, "Slice"):
        starts, ends = operands[0].tolist(), operands[1].tolist()  # type: ignore[union-attr]
        axes = operands[2].tolist() if len(operands) > 2 else range(len(starts))  # type: ignore[union-attr]
        steps = operands[3].tolist() if len(operands) > 3 else [1] * len(starts)  # type: ignore[union-attr]
        index = [slice(None)] * numbers.ndim
        for axis, first, last, step in zip(axes, starts, ends, steps, strict=True):
            if step < 1:
                return None
            index[axis] = slice(first, last, step)
        return {output.name: numbers[tuple(index)]}
    return None


def _scale_columns(editor: Editor, output: ir.Value, columns: np.ndarray, scale: float) -> bool:
    node = output.producer()
    assert node is not None
    product, edits = node, []
    if is_op(node, "Add"):
        sides = [constant(value) for value in node.inputs]
        bias = next((index for index, side in enumerate(sides) if side is not None), None)
        if bias is None:
            return False
        edits.append((node, bias, sides[bias], 0))
        maker = node.inputs[1 - bias].producer()  # type: ignore[union-attr]
        if not is_op(maker, "MatMul") or sole_consumer(maker.outputs[0]) is not node:  # type: ignore[union-attr]
            return False
        assert maker is not None
        product = maker
    columns_axis = 1
    if is_op(product, "Gemm"):
        columns_axis = 0 if attribute(product, "transB", 0) else 1
        if len(product.inputs) > 2 and product.inputs[2] is not None:
            edits.append((product, 2, constant(product.inputs[2]), 0))
    edits.append((product, 1, constant(product.inputs[1]), columns_axis))
    width = sizes(output)[-1]  # type: ignore[index]
    if any(array is None for _, _, array, _ in edits) or edits[-1][2].ndim != 2:  # type: ignore[union-attr]
        return False
    factors = np.ones(width)  # type: ignore[arg-type]
    factors[columns] = scale
    for holder, index, array, axis in edits:
        assert array is not None
        if array.ndim == 2 and axis == 0 and holder is product:
            scaled = array * factors[:, None]
        else:
            scaled = array * factors
        stem = f"{holder.inputs[index].name}/scaled"  # type: ignore[union-attr]
        holder.replace_input_with(index, editor.initializer(scaled.astype(array.dtype), stem))
    return True
