"""A Scan written as a Loop, which may tell a vector of any length from each of its turns.

y = Scan(state, x) { s, a: … }   →   y = Loop(length of x, state) { i, s: a = x[i], … }
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_Nodes = list[onnx.NodeProto]


def as_loop(node: onnx.NodeProto, fresh: Callable[[], str]) -> tuple[_Nodes, onnx.NodeProto, _Nodes]:
    """A Scan of opset 9 or newer as a Loop that gathers the slices itself.

    Args:
        node: the Scan.
        fresh: makes names.

    Returns:
        nodes that come before the Loop, the Loop, and nodes that bring its outputs into place.

    Raises:
        ValueError: an output is stacked along another axis than the first, and its rank is not known.
    """
    held = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    body, scanned = held["body"], held["num_scan_inputs"]
    states = len(node.input) - scanned
    given, stacked = node.input[states:], len(body.output) - states
    axes = held.get("scan_input_axes") or [0] * scanned
    backwards = held.get("scan_input_directions") or [0] * scanned
    before, count, last = _count(given[0], axes[0], fresh)

    turn, going, gone = fresh(), fresh(), fresh()
    inside = onnx.GraphProto(name=body.name)
    inside.initializer.extend(body.initializer)
    inside.input.append(helper.make_tensor_value_info(turn, TensorProto.INT64, []))
    inside.input.append(helper.make_tensor_value_info(going, TensorProto.BOOL, []))
    inside.input.extend(body.input[:states])
    for place, value in enumerate(body.input[states:]):
        index = turn
        if backwards[place]:
            index = fresh()
            inside.node.append(helper.make_node("Sub", [last, turn], [index]))
        inside.node.append(helper.make_node("Gather", [given[place], index], [value.name], axis=axes[place]))
    inside.node.extend(body.node)
    inside.node.append(helper.make_node("Identity", [going], [gone]))
    inside.output.append(helper.make_tensor_value_info(gone, TensorProto.BOOL, []))
    inside.output.extend(body.output)

    out_axes = held.get("scan_output_axes") or [0] * stacked
    out_backwards = held.get("scan_output_directions") or [0] * stacked
    outputs = list(node.output[:states])
    behind: _Nodes = []
    for place, name in enumerate(node.output[states:]):
        shape = body.output[states + place].type.tensor_type.shape
        if name and out_axes[place]:
            if not shape.dim:
                raise ValueError(f"the rank of {name!r} is not known")
            order = list(range(1, len(shape.dim) + 1))
            order.insert(out_axes[place] % (len(shape.dim) + 1), 0)
            stack = fresh()
            behind.insert(0, helper.make_node("Transpose", [stack], [name], perm=order))
            name = stack
        if name and out_backwards[place]:
            stack, minus, places = fresh(), fresh(), fresh()
            behind[:0] = [
                _constant(minus, -1),
                helper.make_node("Range", [last, minus, minus], [places]),
                helper.make_node("Gather", [stack, places], [name]),
            ]
            name = stack
        outputs.append(name)
    loop = helper.make_node("Loop", [count, "", *node.input[:states]], outputs, node.name, body=inside)
    return before, loop, behind


def _count(scanned: str, axis: int, fresh: Callable[[], str]) -> tuple[_Nodes, str, str]:
    """Nodes that count the slices along an axis; the names of the count and of the last place."""
    shape, one, count, last, place = (fresh() for _ in range(5))
    nodes = [
        helper.make_node("Shape", [scanned], [shape]),
        _constant(place, axis),
        helper.make_node(
            "Gather", [shape, place], [count]
        ),  # a negative axis counts from the shape's end too
        _constant(one, 1),
        helper.make_node("Sub", [count, one], [last]),
    ]
    return nodes, count, last


def _constant(name: str, number: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(number, np.int64)))
