"""Bringing a model to edgec's opset, without touching its weights.

The rules below are the whole list of what changed meaning in the default domain between opsets 9
and 23 (onnx/docs/Changelog.md); `tests/frontends/test_opset.py` compares the schemas of both ends and
fails when an op lost an attribute, changed a default or moved an input without a rule here. onnx's own
converter works on protobufs, which end at 2 GB, and loses node metadata; onnxscript's starts at opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import ONNX_OPSET, SOURCE_KEY
from edgec.core.errors import RequestError

OLDEST = 9
"""The oldest opset a file may have."""

Rule = Callable[["_Step", ir.Node], None]
_RULES: dict[tuple[str, int], Rule] = {}


def _rule(opset: int, *op_types: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            _RULES[op_type, opset] = rule
        return rule

    return register


def changed_ops() -> set[tuple[str, int]]:
    """The ops that have a rule, each with the opset that changed it."""
    return set(_RULES)


def convert(model: ir.Model, where: str) -> None:
    """Bring a model without functions to opset `dialect.ONNX_OPSET`, in place.

    Args:
        model: the model; ranks must be known where a Softmax of opset 12 or older needs them.
        where: the file, for messages.

    Raises:
        RequestError: the opset is too old, or it is too new and an op of the model needs that.
    """
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    model.opset_imports.pop("ai.onnx", None)
    if opset is None:
        opset = ONNX_OPSET  # nothing of the default domain is used
    if opset < OLDEST:
        raise RequestError(
            f"the file has opset {opset}, older than {OLDEST}",
            where=where,
            fix="export it again with a newer opset, or convert it with onnx.version_converter",
        )
    if opset > ONNX_OPSET:
        _refuse_newer_ops(model, opset, where)
    names = {value.name for node in model.graph.all_nodes() for value in node.outputs}
    for graph in model.graphs():
        names.update(value.name for value in [*graph.inputs, *graph.initializers.values()])
    for version in range(opset + 1, ONNX_OPSET + 1):
        for node in list(model.graph.all_nodes()):
            rule = _RULES.get((node.op_type, version)) if node.domain in ("", "ai.onnx") else None
            if rule is not None:
                rule(_Step(names, where), node)
    for node in model.graph.all_nodes():
        node.version = None
        if node.domain == "ai.onnx":
            node.domain = ""
    model.opset_imports[""] = ONNX_OPSET


def _refuse_newer_ops(model: ir.Model, opset: int, where: str) -> None:
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue
        since = onnx.defs.get_schema(node.op_type, opset, "").since_version
        if since > ONNX_OPSET:
            raise RequestError(
                f"node {node.name or node.outputs[0].name!r} is {node.op_type} as opset {since} defines it, "
                f"and edgec reads up to opset {ONNX_OPSET}",
                where=where,
                fix=f"export the model with opset {ONNX_OPSET} or older",
            )


class _Step:
    """Editing one node: new constants and nodes beside it."""

    def __init__(self, names: set[str | None], where: str) -> None:
        self._names = names
        self.where = where

    def fresh(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def constant(self, node: ir.Node, values: list[int], role: str) -> ir.Value:
        """A vector of int64 in the node's graph."""
        return self._initializer(node, np.asarray(values, np.int64), role)

    def number(self, node: ir.Node, value: float, role: str) -> ir.Value:
        """A scalar of the type of the node's first input, in its graph."""
        source = node.inputs[0]
        dtype = ir.DataType.FLOAT if source is None or source.dtype is None else source.dtype
        return self._initializer(node, np.asarray(value, dtype.numpy()), role)

    def _initializer(self, node: ir.Node, array: np.ndarray, role: str) -> ir.Value:
        name = self.fresh(f"{node.outputs[0].name}_{role}")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        graph.register_initializer(value)
        return value

    def before(
        self, node: ir.Node, op_type: str, inputs: list[ir.Value | None], **attributes: Any
    ) -> ir.Value:
        """A new node in front of the node; its first output."""
        return self._beside(node, op_type, inputs, attributes, after=False)

    def after(
        self, node: ir.Node, op_type: str, inputs: list[ir.Value | None], **attributes: Any
    ) -> ir.Value:
        """A new node behind the node; its first output."""
        return self._beside(node, op_type, inputs, attributes, after=True)

    def _beside(
        self,
        node: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        attributes: dict[str, Any],
        *,
        after: bool,
    ) -> ir.Value:
        new = ir.Node("", op_type, inputs, ir.convenience.convert_attributes(attributes))
        stem = f"{node.name or node.outputs[0].name}/{op_type}"
        new.name = self.fresh(stem)
        new.outputs[0].name = self.fresh(f"{stem}_out")
        if node.inputs and node.inputs[0] is not None:
            new.outputs[0].type = node.inputs[0].type
        if SOURCE_KEY in node.metadata_props:
            new.metadata_props[SOURCE_KEY] = node.metadata_props[SOURCE_KEY]
        graph = node.graph
        assert graph is not None
        if after:
            graph.insert_after(node, new)
        else:
            graph.insert_before(node, new)
        return new.outputs[0]


def _int(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def _axes_to_input(step: _Step, node: ir.Node, attribute: str) -> None:
    """Before: `Op[axes]`(x). After: `Op`(x, axes)."""
    given = node.attributes.pop(attribute, None)
    if given is not None:
        node.resize_inputs(2)
        node.replace_input_with(1, step.constant(node, list(given.as_ints()), attribute))


def _attributes_to_inputs(step: _Step, node: ir.Node, *names: str) -> None:
    """Before: `Op[starts, ends]`(x). After: `Op`(x, starts, ends); what is not given is left out."""
    node.resize_inputs(1 + len(names))
    for place, name in enumerate(names, start=1):
        given = node.attributes.pop(name, None)
        if given is not None:
            node.replace_input_with(place, step.constant(node, list(given.as_ints()), name))


@_rule(10, "Slice")
def _slice_10(step: _Step, node: ir.Node) -> None:
    _attributes_to_inputs(step, node, "starts", "ends", "axes")


@_rule(10, "TopK")
def _top_k_10(step: _Step, node: ir.Node) -> None:
    """Before: `TopK[k]`(x). After: `TopK`(x, k)."""
    count = _int(node, "k", 0)
    node.attributes.pop("k", None)
    node.resize_inputs(2)
    node.replace_input_with(1, step.constant(node, [count], "k"))


@_rule(10, "Upsample")
def _upsample_10(step: _Step, node: ir.Node) -> None:  # noqa: ARG001
    node.op_type = "Resize"


@_rule(11, "Resize")
def _resize_11(step: _Step, node: ir.Node) -> None:  # noqa: ARG001
    """Before: `Resize`(x, scales). After: `Resize[asymmetric, floor]`(x, , scales), which it meant."""
    scales = node.inputs[1]
    node.resize_inputs(3)
    node.replace_input_with(1, None)
    node.replace_input_with(2, scales)
    name = "coordinate_transformation_mode"
    node.attributes[name] = ir.AttrString(name, "asymmetric")
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")


@_rule(11, "Clip")
def _clip_11(step: _Step, node: ir.Node) -> None:
    """Before: `Clip[min, max]`(x). After: `Clip`(x, min, max)."""
    node.resize_inputs(3)
    for place, name in enumerate(("min", "max"), start=1):
        given = node.attributes.pop(name, None)
        if given is not None:
            node.replace_input_with(place, step.number(node, given.as_float(), name))


@_rule(11, "Pad")
def _pad_11(step: _Step, node: ir.Node) -> None:
    """Before: `Pad[pads, value]`(x). After: `Pad`(x, pads, value)."""
    given = node.attributes.pop("value", None)
    _attributes_to_inputs(step, node, "pads")
    node.resize_inputs(3)
    node.replace_input_with(2, step.number(node, 0.0 if given is None else given.as_float(), "value"))


@_rule(11, "Scatter")
def _scatter_11(step: _Step, node: ir.Node) -> None:  # noqa: ARG001
    node.op_type = "ScatterElements"


@_rule(12, "Dropout")
def _dropout_12(step: _Step, node: ir.Node) -> None:  # noqa: ARG001
    # The ratio became an input; without training_mode it changes nothing.
    node.attributes.pop("ratio", None)


@_rule(13, "Squeeze", "Unsqueeze", "ReduceSum")
def _axes_13(step: _Step, node: ir.Node) -> None:
    _axes_to_input(step, node, "axes")


@_rule(13, "Split")
def _split_13(step: _Step, node: ir.Node) -> None:
    _axes_to_input(step, node, "split")


@_rule(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax_13(step: _Step, node: ir.Node) -> None:
    """Up to opset 12 the axis says where the tensor is cut into a matrix; its rows are normalised.

    Before: `Softmax[axis]`(x). After: `Softmax[-1]`(x) where the axis is the last one, else
    `Reshape`(`Softmax[-1]`(`Flatten[axis]`(x)), `Shape`(x)).
    """
    source = node.inputs[0]
    assert source is not None
    axis = _int(node, "axis", 1)
    rank = None if source.shape is None else len(source.shape)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    if axis == -1 or (rank is not None and axis % max(rank, 1) == rank - 1):
        return
    flat = step.before(node, "Flatten", [source], axis=axis)
    shape = step.before(node, "Shape", [source])
    shape.type = ir.TensorType(ir.DataType.INT64)
    node.replace_input_with(0, flat)
    _behind(step, node, "Reshape", [shape])


def _behind(step: _Step, node: ir.Node, op_type: str, others: list[ir.Value | None]) -> None:
    """Put `op_type`(output, …) between the node and its readers; the name stays at the readers' end."""
    old = node.outputs[0]
    new = step.after(node, op_type, [old, *others])
    new.shape, new.type = old.shape, old.type
    maker = new.producer()
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    assert maker is not None
    maker.replace_input_with(0, old)
    name, old.shape = old.name, None
    old.name = step.fresh(f"{name}_flat")
    new.name = name


@_rule(13, "Resize")
def _resize_13(step: _Step, node: ir.Node) -> None:
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() == "tf_half_pixel_for_nn":
        raise RequestError(
            f"node {node.name or node.outputs[0].name!r} is a Resize with tf_half_pixel_for_nn, "
            "which ONNX removed in opset 13",
            where=step.where,
            fix="export the model again with opset 13 or newer",
        )


@_rule(14, "BatchNormalization")
def _batch_normalization_14(step: _Step, node: ir.Node) -> None:
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        raise RequestError(
            f"node {node.name or node.outputs[0].name!r} is a BatchNormalization in training mode",
            where=step.where,
            fix="export the model in evaluation mode",
        )
    node.resize_outputs(1)


@_rule(16, "RoiAlign")
def _roi_align_16(step: _Step, node: ir.Node) -> None:  # noqa: ARG001
    mode = "coordinate_transformation_mode"
    node.attributes[mode] = ir.AttrString(mode, "output_half_pixel")


@_rule(
    18,
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
def _axes_18(step: _Step, node: ir.Node) -> None:
    _axes_to_input(step, node, "axes")


@_rule(18, "Split")
def _split_18(step: _Step, node: ir.Node) -> None:  # noqa: ARG001
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


@_rule(20, "GridSample")
def _grid_sample_20(step: _Step, node: ir.Node) -> None:  # noqa: ARG001
    mode = node.attributes.get("mode")
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    if mode is not None and mode.as_string() in renamed:
        node.attributes["mode"] = ir.AttrString("mode", renamed[mode.as_string()])


@_rule(20, "DFT")
def _dft_20(step: _Step, node: ir.Node) -> None:
    axis = _int(node, "axis", 1)
    node.attributes.pop("axis", None)
    vector = step.constant(node, [axis], "axis")
    scalar = ir.tensor(np.asarray(axis, np.int64), name=vector.name)
    vector.const_value, vector.shape = scalar, ir.Shape([])
    node.resize_inputs(3)
    node.replace_input_with(2, vector)


@_rule(21, "GroupNormalization")
def _group_normalization_21(step: _Step, node: ir.Node) -> None:
    """Scale and bias had one value a group, and have one a channel.

    Before: `GroupNormalization`(x, scale, bias). After, for both:
    `Reshape`(`Expand`(`Reshape`(scale, [-1, 1]), [1, channels / groups]), [-1]).
    """
    source = node.inputs[0]
    channels = None if source is None or source.shape is None else source.shape[1]
    if not isinstance(channels, int):
        raise RequestError(
            f"node {node.name or node.outputs[0].name!r} is a GroupNormalization of opset 18 whose number of "
            "channels is not known",
            where=step.where,
            fix="export the model with opset 21 or newer",
        )
    groups = _int(node, "num_groups", 1)
    for index in (1, 2):
        column = step.before(node, "Reshape", [node.inputs[index], step.constant(node, [-1, 1], "column")])
        wide = step.before(node, "Expand", [column, step.constant(node, [1, channels // groups], "repeats")])
        node.replace_input_with(
            index, step.before(node, "Reshape", [wide, step.constant(node, [-1], "flat")])
        )


def softmaxes_without_rank(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes that need shape inference before `convert`: old Softmax and GroupNormalization."""
    for node in model.graph.all_nodes():
        if node.op_type in ("Softmax", "LogSoftmax", "Hardmax", "GroupNormalization") and node.inputs:
            source = node.inputs[0]
            if source is not None and source.shape is None:
                yield node
