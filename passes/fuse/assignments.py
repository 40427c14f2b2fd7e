"""`x[...] = y` over the whole of x: TorchScript writes it as a ScatterND, and it is y."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, producer, sizes
from edgec.passes.fuse.movement import MOVING, move


def drop_whole_assignments(editor: Editor) -> None:
    """Replace every ScatterND that overwrites all of its data, in order, by its updates.

    The logits of an attention whose bias was added in place would otherwise seem to be read twice.
    """
    for node in list(editor.graph):
        if is_op(node, "ScatterND") and _overwrites_all(node):
            updates = node.inputs[2]
            assert updates is not None
            editor.replace(node.outputs[0], updates)
            editor.prune(node)


def _overwrites_all(node: ir.Node) -> bool:
    data, updates = sizes(node.inputs[0]), sizes(node.inputs[2])
    if data is None or None in data or updates != data or attribute(node, "reduction", "none") != "none":
        return False
    columns = _columns(node.inputs[1])
    if len(columns) > len(data):
        return False
    grid = np.ogrid[tuple(slice(size) for size in data[: len(columns)])]
    return bool(columns) and all(
        column is not None and column.shape == data[: len(columns)] and bool((column == place).all())
        for column, place in zip(columns, grid, strict=True)
    )


def _columns(indices: ir.Value | None) -> list[np.ndarray | None]:
    """For each axis of the data, the index along it; large index tensors are often left unfolded."""
    node = producer(indices, "Concat")
    if node is not None and constant(indices) is None:
        columns = [_moved_constant(value) for value in node.inputs]
        return [None if column is None else column[..., 0] for column in columns]
    array = _moved_constant(indices)
    return [] if array is None else [array[..., axis] for axis in range(array.shape[-1])]


def _moved_constant(value: ir.Value | None) -> np.ndarray | None:
    array = constant(value)
    node = None if value is None else value.producer()
    if array is not None or node is None or value is None or not is_op(node, *MOVING):
        return array
    source = _moved_constant(node.inputs[0])
    return None if source is None else move(node, value, source)
