"""Writing a graph in an older ONNX opset, for parsers that know no newer one.

The way up is in `edgec.frontends.opset`; these rules are its reverse for what changed between opsets 17 and
23 (onnx/docs/Changelog.md) and a graph in the neutral dialect can hold. What has no older form is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.passes.editing import Editor, attribute, constant, rank, sizes

Rule = Callable[[Editor, ir.Node], str | None]
"""Rewrites a node for the opset before the one it is registered for; says what has no older form."""

OLDEST = 17

_RULES: dict[int, dict[str, Rule]] = {}

_REDUCTIONS = (
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

_NEW: dict[int, frozenset[str]] = {
    18: frozenset(
        {"BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im", "Mish"}
        | {"GroupNormalization"}
    ),
    19: frozenset({"DeformConv"}),
    20: frozenset({"AffineGrid", "Gelu", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringSplit"}),
    23: frozenset({"Attention", "RMSNormalization", "RotaryEmbedding"}),
}
"""Ops by the opset that brought them."""


def lower_opset(model: ir.Model, opset: int) -> list[str]:
    """Write a model of the neutral dialect's opset in an older one, in place.

    Args:
        model: the model, without the ops that the older opset lacks.
        opset: the opset wanted, at least `OLDEST`.

    Returns:
        what has no form there, one line a node with its source layer; the model is then not to be used.
    """
    if opset < OLDEST:
        raise ValueError(f"opset {opset} is older than {OLDEST}")
    editor = Editor(model, "jetson.opset")
    obstacles: list[str] = []
    for version in range(model.opset_imports.get("", opset), opset, -1):
        rules, new = _RULES.get(version, {}), _NEW.get(version, frozenset())
        for node in list(model.graph.all_nodes()):
            if node.domain != "":
                continue
            said = f"it came with opset {version}" if node.op_type in new else None
            rule = rules.get(node.op_type)
            if said is None and rule is not None:
                said = rule(editor, node)
            if said is not None:
                obstacles.append(f"{node.op_type} {node.name!r} (layer {source_layer(node)}): {said}")
    model.opset_imports[""] = opset
    for node in model.graph.all_nodes():
        node.version = None
    editor.remove_dead()
    return obstacles


def _rule(opset: int, *op_types: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            _RULES.setdefault(opset, {})[op_type] = rule
        return rule

    return register


def _without(node: ir.Node, name: str, default: object) -> str | None:
    """Drop an attribute that says nothing new; refuse one that does."""
    if attribute(node, name, default) != default:
        return f"its {name} is {attribute(node, name)!r}"
    node.attributes.pop(name, None)
    return None


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


@_rule(23, "QuantizeLinear")
def _quantize_23(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    return _without(node, "precision", 0)


@_rule(21, "QuantizeLinear", "DequantizeLinear")
def _quantize_21(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    return _without(node, "block_size", 0) or _without(node, "output_dtype", 0)


@_rule(20, "GridSample")
def _grid_sample_20(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    if rank(node.inputs[0]) != 4:
        return f"its input has rank {rank(node.inputs[0]) or 'unknown'}, not 4"
    older = {"linear": "bilinear", "cubic": "bicubic"}
    mode = attribute(node, "mode", "linear")
    node.attributes["mode"] = ir.AttrString("mode", older.get(mode, mode))
    return None


@_rule(20, "ReduceMax", "ReduceMin")
def _boolean_reduction_20(editor: Editor, node: ir.Node) -> str | None:
    """Before: ReduceMax(bool). After: Cast(bool) of ReduceMax(Cast(int32))."""
    source = node.inputs[0]
    assert source is not None
    if source.dtype != ir.DataType.BOOL:
        return None
    number = ir.DataType.INT32
    wide = editor.node(
        "Cast", [source], like=node, attributes={"to": int(number)}, dtype=number, shape=source.shape
    )
    node.replace_input_with(0, wide)
    output = node.outputs[0]
    output.type = ir.TensorType(number)
    back = editor.node(
        "Cast",
        [output],
        like=node,
        after=node,
        attributes={"to": int(ir.DataType.BOOL)},
        dtype=ir.DataType.BOOL,
        shape=output.shape,
    )
    maker = back.producer()
    assert maker is not None
    editor.replace(output, back)
    back.type, output.type = ir.TensorType(ir.DataType.BOOL), ir.TensorType(number)
    maker.replace_input_with(0, output)
    return None


@_rule(19, "Cast", "CastLike", "QuantizeLinear")
def _saturate_19(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    node.attributes.pop("saturate", None)  # of float8 only
    return None


@_rule(19, "AveragePool")
def _average_pool_19(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    dilations = attribute(node, "dilations", ())
    if any(step != 1 for step in dilations):
        return f"its dilations are {list(dilations)}"
    node.attributes.pop("dilations", None)
    return None


@_rule(19, "Pad")
def _pad_19(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    return "it pads by wrapping" if attribute(node, "mode", "constant") == "wrap" else None


@_rule(19, "Resize")
def _resize_19(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    return f"its coordinates are {mode}" if mode == "half_pixel_symmetric" else None


@_rule(18, *_REDUCTIONS)
def _reduction_18(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    """Before: ReduceMean(x, axes). After: ReduceMean[axes](x)."""
    given = _input(node, 1)
    axes = constant(given)
    if given is not None and axes is None:
        return "its axes are computed"
    node.resize_inputs(1)
    empty = attribute(node, "noop_with_empty_axes", 0)
    node.attributes.pop("noop_with_empty_axes", None)
    if axes is None or not axes.size:
        return "it has no axes and does nothing" if empty else None
    node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes])
    return None


@_rule(18, "Split")
def _split_18(editor: Editor, node: ir.Node) -> str | None:
    """Before: Split[num_outputs](x). After: Split(x, sizes)."""
    node.attributes.pop("num_outputs", None)
    if _input(node, 1) is not None:
        return None
    known = sizes(node.inputs[0])
    axis = attribute(node, "axis", 0)
    length = None if known is None else known[axis]
    if length is None:
        return "the size of the axis it splits is not known"
    parts = len(node.outputs)
    part = -(-length // parts)
    lengths = [part] * (parts - 1) + [length - part * (parts - 1)]
    node.resize_inputs(2)
    node.replace_input_with(1, editor.initializer(np.asarray(lengths, np.int64), f"{node.name}/lengths"))
    return None


@_rule(18, "Pad")
def _pad_18(editor: Editor, node: ir.Node) -> str | None:
    """Before: Pad(x, pads, value, axes). After: Pad(x, pads of all axes, value)."""
    given = _input(node, 3)
    if given is None:
        return None
    axes, pads, size = constant(given), constant(node.inputs[1]), rank(node.inputs[0])
    if axes is None or pads is None or size is None:
        return "its axes or its amounts are computed"
    whole = np.zeros((2, size), np.int64)
    whole[:, [int(axis) % size for axis in axes]] = pads.reshape(2, -1)
    node.replace_input_with(1, editor.initializer(whole.reshape(-1), f"{node.name}/pads"))
    node.resize_inputs(3)
    return None


@_rule(18, "Resize")
def _resize_18(editor: Editor, node: ir.Node) -> str | None:
    """Before: Resize[axes](x, roi, scales | sizes). After: the same over all axes."""
    said = _without(node, "antialias", 0)
    if said is not None:
        return said
    axes, shape = attribute(node, "axes"), sizes(node.inputs[0])
    policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
    node.attributes.pop("keep_aspect_ratio_policy", None)
    node.attributes.pop("axes", None)
    scales, wanted = constant(_input(node, 2)), constant(_input(node, 3))
    if axes is None and policy == "stretch":
        return None
    if shape is None or None in shape:
        return "it resizes some axes of a tensor whose shape is not known"
    places = [int(axis) % len(shape) for axis in (range(len(shape)) if axes is None else axes)]
    if wanted is not None and wanted.size:
        if policy != "stretch":
            return f"its aspect ratio policy is {policy}"
        whole = [int(size or 0) for size in shape]
        for place, size in zip(places, wanted, strict=True):
            whole[place] = int(size)
        node.replace_input_with(3, editor.initializer(np.asarray(whole, np.int64), f"{node.name}/sizes"))
        return None
    if scales is None or not scales.size:
        return "its scales are computed"
    factors = np.ones(len(shape), np.float32)
    factors[places] = scales
    node.replace_input_with(2, editor.initializer(factors, f"{node.name}/scales"))
    return None


@_rule(18, "ScatterElements", "ScatterND")
def _scatter_18(editor: Editor, node: ir.Node) -> str | None:  # noqa: ARG001
    reduction = attribute(node, "reduction", "none")
    return f"its reduction is {reduction}" if reduction in ("max", "min") else None
