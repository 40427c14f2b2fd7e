"""Batch normalisation and per-channel factors folded into the layer beside them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, producer, sizes, sole_consumer
from edgec.passes.fuse.linear import (
    linear,
    output_channels,
    scale_convolution,
    scale_linear,
    scale_linear_inputs,
    weight_of,
)
from edgec.passes.fuse.matching import as_vector, refuse_other_readers, with_constant
from edgec.passes.infra import MatchLog, Pass, Refusal, register


@register
class ConvBatchNorm(Pass):
    """Fold batch normalisation, and constant factors and offsets a channel, into weights.

    ::

        x ── Conv(w, b) ── BatchNormalization ── Mul c ── Add d ── y     ⇒     x ── Conv(w', b') ── y

        x ── MatMul(w) ── Reshape ── BatchNormalization ── y
            ⇒      x ── MatMul(w') ── Add b' ── Reshape ── y

        x ── BatchNormalization ── Conv(no padding) ── y                 ⇒     x ── Conv(w', b') ── y

        x [rows, channels] ── BatchNormalization ── MatMul(w) ── y
            ⇒      x ── MatMul(w') ── Add b' ── y

    With s = γ / √(σ² + ε): w' = s·w and b' = s·(b - μ) + β, computed in fp64 and rounded once.
    Behind a padded convolution's input the fold would not be exact, because the border is padded
    with zeros after the normalisation, so it is left alone. A shared weight is copied, not changed.
    """

    name = "fuse.conv_batchnorm"
    after = ("canonicalize.constants", "canonicalize.identity", "canonicalize.exporter")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fold in place; a match is a node that went into a layer's weights."""
        editor = Editor(model, self.name, log)
        for node in editor.graph:
            if node.graph is None:
                continue
            try:
                if is_op(node, "BatchNormalization"):
                    folded = _batch_norm(editor, node)
                else:
                    folded = is_op(node, "Mul", "Add") and _per_channel(editor, node)
            except Refusal as refusal:
                log.missed(node, refusal)
                continue
            if folded:
                log.matched(node)


def normalisation(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of a BatchNormalization in inference, fp64; None where they are not constant."""
    arrays = [constant(value) for value in node.inputs[1:5]]
    if attribute(node, "training_mode", 0) or any(value.uses() for value in node.outputs[1:]):
        return None
    if len(arrays) != 4 or any(array is None for array in arrays):
        return None
    gamma, beta, average, variance = (np.asarray(array, np.float64) for array in arrays)
    scale = gamma / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))
    return scale, beta - average * scale


def _batch_norm(editor: Editor, node: ir.Node) -> bool:
    affine, source = normalisation(node), node.inputs[0]
    if affine is None or source is None:
        raise Refusal("its statistics are not constants, or it normalises by the batch")
    return (
        _into_convolution(editor, node, source, *affine)
        or _into_linear(editor, node, source, *affine)
        or _into_reader(editor, node, *affine)
    )


def _into_convolution(
    editor: Editor, node: ir.Node, source: ir.Value, scale: np.ndarray, shift: np.ndarray | None
) -> bool:
    """Into the convolution that makes the value, if one does."""
    made_by = producer(source, "Conv", "ConvTranspose")
    weight = None if made_by is None else weight_of(made_by)
    if made_by is None:
        return False
    if weight is None:
        raise Refusal(f"the weight of {made_by.name} is not a constant")
    if output_channels(made_by, weight) != scale.size:
        raise Refusal(f"{made_by.name} has {output_channels(made_by, weight)} channels, not {scale.size}")
    refuse_other_readers(source, node)
    scale_convolution(editor, made_by, scale, shift)
    _drop(editor, node, list(node.inputs).index(source))
    return True


def _into_linear(
    editor: Editor, node: ir.Node, source: ir.Value, scale: np.ndarray, shift: np.ndarray | None
) -> bool:
    """Into a linear layer, also through a Reshape that only flattens the rows (LeViT)."""
    layer, moved = linear(source), None
    if layer is None:
        moved = producer(source, "Reshape")
        layer = None if moved is None else linear(moved.inputs[0])
    if layer is None or len(source.shape or ()) != 2:
        return False
    columns = sizes(source)
    if columns is None or columns[-1] != scale.size or layer.weight.shape[1] != scale.size:
        return False
    steps = [*layer.nodes, *([] if moved is None else [moved]), node]
    for value_of, reader in itertools.pairwise(steps):
        refuse_other_readers(value_of.outputs[0], reader)
    scale_linear(editor, layer, scale, shift)
    _drop(editor, node, 0)
    return True


def _into_reader(editor: Editor, node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> bool:
    """Into the layer that alone reads the normalised value, by scaling the layer's inputs."""
    out = node.outputs[0]
    reader = sole_consumer(out)
    if is_op(reader, "Conv") and reader is not None and reader.inputs[0] is out:
        weight = weight_of(reader)
        if weight is None:
            raise Refusal(f"the weight of {reader.name} is not a constant")
        if _is_padded(reader):
            raise Refusal(f"{reader.name} pads its input with zeros, which the normalisation would shift")
        _scale_convolution_inputs(editor, reader, weight, scale, shift)
        _drop(editor, node, 0)
        return True
    if is_op(reader, "MatMul") and reader is not None and len(out.shape or ()) == 2:
        add = sole_consumer(reader.outputs[0])
        layer = linear(add.outputs[0]) if add is not None and is_op(add, "Add") else None
        layer = layer or linear(reader.outputs[0])
        if layer is None or reader.inputs[0] is not out:
            raise Refusal(f"the weight of {reader.name} is not a constant")
        scale_linear_inputs(editor, layer, scale, shift)
        _drop(editor, node, 0)
        return True
    raise Refusal(f"no convolution or linear layer with constant weights stands beside {out.name}")


def _is_padded(node: ir.Node) -> bool:
    mode = attribute(node, "auto_pad", "NOTSET")
    return mode.startswith("SAME") or any(attribute(node, "pads", ()) or ())


def _scale_convolution_inputs(
    editor: Editor, node: ir.Node, weight: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> None:
    groups = int(attribute(node, "group", 1))
    wide = weight.astype(np.float64)
    grouped = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    ones = [1] * (weight.ndim - 2)
    kernel = tuple(range(2, grouped.ndim))
    shifts = (grouped * shift.reshape(groups, 1, weight.shape[1], *ones)).sum(axis=kernel).reshape(-1)
    scaled = (grouped * scale.reshape(groups, 1, weight.shape[1], *ones)).reshape(weight.shape)
    stem = node.name or "Conv"
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    total = shifts if bias is None else shifts + bias
    node.replace_input_with(1, editor.initializer(scaled.astype(weight.dtype), f"{stem}/weight"))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, editor.initializer(total.astype(weight.dtype), f"{stem}/bias"))


def _per_channel(editor: Editor, node: ir.Node) -> bool:
    """A Mul or Add of one number a channel behind a convolution."""
    found = with_constant(node, "Mul", "Add")
    made_by = None if found is None else producer(found[0], "Conv", "ConvTranspose")
    weight = None if made_by is None else weight_of(made_by)
    if found is None or made_by is None or weight is None:
        return False
    array, channels = constant(found[1]), output_channels(made_by, weight)
    assert array is not None
    vector = as_vector(array, channels, axis=1 - weight.ndim, of_rank=weight.ndim)
    if vector is None:
        return False
    wide = vector.astype(np.float64)
    scale, shift = (wide, None) if is_op(node, "Mul") else (np.ones(channels), wide)
    return _into_convolution(editor, node, found[0], scale, shift)


def _drop(editor: Editor, node: ir.Node, index: int) -> None:
    value = node.inputs[index]
    assert value is not None
    editor.replace(node.outputs[0], value)
    editor.prune(node)
