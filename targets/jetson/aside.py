"""Previewing around a node: it is taken out, what it reads becomes an output and what it makes an input."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from edgec.passes.editing import constant, consumers
from edgec.targets.jetson.plan import ShapeProfile, ShapeRange

LACKING = {
    "DeformConv": "TensorRT-RTX has no plugins, and TensorRT runs it as one",
    "NonMaxSuppression": "TensorRT-RTX has no kernel for it",
    "NonZero": "TensorRT-RTX has no plugins, and its parser wants one for it",
    "RoiAlign": "TensorRT-RTX has no plugins, and TensorRT runs it as one",
}
"""Ops that the versions' table grants and tensorrt-rtx 1.7.1 lacks, with the reason."""

STAND_IN = 16
"""What stands for a size that only the node itself would know, as of the boxes that a suppression leaves."""


def around(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy of a lowered model without the named nodes; itself where there are none.

    ::

        boxes, scores ── NonMaxSuppression ── chosen ── Gather ── y
        ⇒
        boxes, scores (outputs)              chosen (input) ── Gather ── y

    A size of a new input is open where an input of the model has that open size too, else `STAND_IN`. Inputs
    that nothing reads any more are left out; a model may come out without nodes.
    """
    if not names:
        return model
    copy = model.clone()
    graph = copy.graph
    open_sizes = {
        str(size) for value in graph.inputs for size in value.shape or () if not isinstance(size, int)
    }
    for node in [node for node in graph if node.name in names]:
        read = [value for value in node.inputs if value is not None and constant(value) is None]
        for value in node.outputs:
            _become_input(graph, value, open_sizes)
        graph.remove(node, safe=True)
        for value in read:
            if value.producer() is not None and not value.is_graph_output():
                graph.outputs.append(value)
    unread = [value for value in graph.inputs if not value.uses()]
    for value in unread:
        graph.inputs.remove(value)
    return copy


def _become_input(graph: ir.Graph, value: ir.Value, open_sizes: Collection[str]) -> None:
    given = ir.Value(name=value.name, type=value.type)
    if value.shape is not None:
        given.shape = ir.Shape(
            [size if isinstance(size, int) or str(size) in open_sizes else STAND_IN for size in value.shape]
        )
    while value in graph.outputs:
        graph.outputs.remove(value)
    read = bool(consumers(value))
    ir.convenience.replace_all_uses_with(value, given)
    value.name = f"{value.name}/aside"
    if read:
        graph.inputs.append(given)


def with_new_inputs(model: ir.Model, profiles: Sequence[ShapeProfile]) -> list[ShapeProfile]:
    """Shape profiles for what `around` made: new inputs by the open sizes that they share with others."""
    return [_profile(model, profile) for profile in profiles]


def _profile(model: ir.Model, profile: ShapeProfile) -> ShapeProfile:
    ranges: dict[str, tuple[int, int, int]] = {}
    for value in model.graph.inputs:
        known = profile.inputs.get(value.name or "")
        if known is not None:
            sizes = zip(known.min, known.opt, known.max, strict=True)
            ranges |= {str(size): range_ for size, range_ in zip(value.shape or (), sizes, strict=True)}
    return ShapeProfile({value.name or "": _range(value, profile, ranges) for value in model.graph.inputs})


def _range(value: ir.Value, profile: ShapeProfile, ranges: Mapping[str, tuple[int, int, int]]) -> ShapeRange:
    known = profile.inputs.get(value.name or "")
    if known is not None:
        return known
    sizes = [(size,) * 3 if isinstance(size, int) else ranges[str(size)] for size in value.shape or ()]
    low, best, high = zip(*sizes, strict=True) if sizes else ((), (), ())
    return ShapeRange(low, best, high)
