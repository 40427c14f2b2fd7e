"""One spelling for axes, and one node for the parts of a tensor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.op_traits import REDUCTION
from edgec.passes.editing import Editor, attribute, constant, consumers, rank, sizes
from edgec.passes.rules import Rules

_DEFAULT_AXIS = {
    "ArgMax": 0,
    "ArgMin": 0,
    "Concat": 0,
    "Gather": 0,
    "GatherElements": 0,
    "LogSoftmax": -1,
    "Softmax": -1,
    "Split": 0,
    "TopK": -1,
}


def positive_axis(editor: Editor, node: ir.Node) -> bool:
    """An `axis` counted from the end is counted from the front."""
    count = rank(node.outputs[0] if is_op(node, "Concat") else node.inputs[0])
    axis = int(attribute(node, "axis", _DEFAULT_AXIS[node.op_type]))
    if axis >= 0 or not count:
        return False
    node.attributes["axis"] = ir.AttrInt64("axis", axis + count)
    return True


def positive_axes(editor: Editor, node: ir.Node) -> bool:
    """The constant axes of a reduction are counted from the front, in order."""
    count = rank(node.inputs[0])
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or not count or axes.size == 0:
        return False
    wanted = np.array(sorted(int(axis) % count for axis in axes.reshape(-1)), np.int64)
    if np.array_equal(wanted, axes):
        return False
    node.replace_input_with(1, editor.initializer(wanted, f"{node.name or node.op_type}/axes"))
    return True


def split_sizes(editor: Editor, node: ir.Node) -> bool:
    """A Split into equal parts says the sizes of its parts."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return False
    shape = sizes(node.inputs[0])
    size = None if shape is None else shape[int(attribute(node, "axis", 0))]
    if size is None:
        return False
    part = -(-size // len(node.outputs))
    parts = [min(part, size - part * index) for index in range(len(node.outputs))]
    vector = editor.initializer(np.array(parts, np.int64), f"{node.name or node.op_type}/sizes")
    if len(node.inputs) < 2:
        node.resize_inputs(2)
    node.replace_input_with(1, vector)
    node.attributes.pop("num_outputs", None)
    return True


def parts_to_split(editor: Editor, node: ir.Node) -> bool:
    """Slices and single-index Gathers that together are all of a value become one Split.

    Looked at from the first of them; the others must read the same value along the same axis, each
    part once, without a gap.
    """
    source, graph = node.inputs[0], editor.graph
    if source is None or source.graph != graph:
        return False
    own = _part(node)
    shape = sizes(source)
    if own is None or shape is None:
        return False
    axis, size = own[0], shape[own[0]]
    parts: dict[int, tuple[int, list[ir.Node]]] = {}
    for reader in consumers(source):
        part = _part(reader) if reader.graph is graph and reader.inputs[0] is source else None
        if part is None or part[0] != axis:
            continue
        end, nodes = parts.setdefault(part[1], (part[2], []))
        if end != part[2]:
            return False
        nodes.append(reader)
    ordered = sorted(parts.items())
    edges = [0, *(end for _, (end, _) in ordered)]
    if len(ordered) < 2 or [start for start, _ in ordered] != edges[:-1] or edges[-1] != size:
        return False
    takers = {taker for _, (_, nodes) in ordered for taker in nodes}
    first = next(candidate for candidate in graph if candidate in takers)
    lengths = [end - start for start, (end, _) in ordered]
    vector = editor.initializer(np.array(lengths, np.int64), f"{node.name or node.op_type}/sizes")
    made = editor.node(
        "Split",
        [source, vector],
        like=node,
        before=first,
        attributes={"axis": axis},
        outputs=len(lengths),
        dtype=source.dtype,
    )
    split = made.producer()
    assert split is not None
    assert source.shape is not None
    for output, length, (_, (_, nodes)) in zip(split.outputs, lengths, ordered, strict=True):
        output.type = source.type
        output.shape = ir.Shape([*source.shape[:axis], length, *source.shape[axis + 1 :]])
        for old in nodes:
            result = output
            if is_op(old, "Gather") and rank(old.inputs[1]) == 0:
                axes = editor.initializer(np.array([axis], np.int64), f"{old.name or 'Gather'}/axis")
                result = editor.node(
                    "Squeeze", [output, axes], like=old, after=split, shape=old.outputs[0].shape
                )
            editor.replace(old.outputs[0], result)
            if old is not node:
                editor.prune(old)
    return True


def _part(node: ir.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of what a Slice or a Gather of one constant index takes out; None otherwise."""
    shape = sizes(node.inputs[0]) if node.inputs else None
    if shape is None:
        return None
    if is_op(node, "Gather"):
        index, axis = constant(node.inputs[1]), int(attribute(node, "axis", 0)) % len(shape)
        size = shape[axis]
        if index is None or index.size != 1 or index.ndim > 1 or size is None:
            return None
        start = int(index.reshape(())) % size if size else 0
        return axis, start, start + 1
    if not is_op(node, "Slice") or len(node.inputs) < 3:
        return None
    given = [None if value is None else constant(value) for value in node.inputs[1:]]
    starts, ends = given[0], given[1]
    axes = given[2] if len(given) > 2 else np.zeros(1, np.int64)
    steps = given[3] if len(given) > 3 else np.ones(1, np.int64)
    if starts is None or ends is None or axes is None or steps is None:
        return None
    if any(array.size != 1 for array in (starts, ends, axes, steps)) or int(steps[0]) != 1:
        return None
    axis = int(axes[0]) % len(shape)
    size = shape[axis]
    if size is None:
        return None
    start, end, _ = slice(int(starts[0]), int(ends[0])).indices(size)
    return (axis, start, end) if start < end else None


RULES: Rules = {
    **{op_type: [positive_axis] for op_type in _DEFAULT_AXIS},
    **{op_type: [positive_axes] for op_type in REDUCTION - {"ArgMax", "ArgMin"}},
    "Split": [positive_axis, split_sizes],
    "Slice": [parts_to_split],
    "Gather": [positive_axis, parts_to_split],
}
