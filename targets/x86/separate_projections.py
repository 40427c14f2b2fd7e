"""Packed projections taken apart, for engines that copy to split."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, producer, rank, sizes, sole_consumer
from edgec.passes.infra import MatchLog, Pass, register


@register
class SeparateProjections(Pass):
    """Give each part of a packed linear layer a product of its own.

    ::

        x ── MatMul([Wq Wk Wv]) ── Add([bq bk bv]) ── Split ┬─ q
                                                            ├─ k
                                                            └─ v
        ⇒
        x ┬─ MatMul(Wq) ── Add(bq) ── q
          ├─ MatMul(Wk) ── Add(bk) ── k
          └─ MatMul(Wv) ── Add(bv) ── v

    OpenVINO's split along the last axis copies, and the copies cost more than the narrower products
    do: 1 to 3 % of the whole on DeiT-tiny and Swin-tiny. In int8 the copies are a quarter of the size, and on
    Swin-tiny one wide product takes 0.93 of the time: the form without this pass is tried there too.
    """

    name = "x86.separate_projections"
    after = ("decompose.attention", "decompose.norm_affine")
    before = ("x86.blocked_linear",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Take apart every linear layer that only a Split of its last axis reads."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if not is_op(node, "Split"):
                continue
            packed = _packed(node)
            if packed is not None:
                _separate(editor, node, packed)
                log.matched(node)
        editor.remove_dead()


def packed_projections(model: ir.Model) -> list[ir.Node]:
    """The splits of packed projections, which the pass would take apart."""
    return [node for node in model.graph if is_op(node, "Split") and _packed(node) is not None]


@dataclasses.dataclass(frozen=True)
class _Packed:
    linear: ir.Node
    features: ir.Value
    weight: np.ndarray
    bias: np.ndarray | None


def _packed(split: ir.Node) -> _Packed | None:
    value = split.inputs[0]
    dimensions = rank(value)
    if value is None or dimensions is None or sole_consumer(value) is not split:
        return None
    if attribute(split, "axis", 0) % dimensions != dimensions - 1:
        return None
    if any((known := sizes(part)) is None or known[-1] is None for part in split.outputs):
        return None
    bias = None
    added = producer(value, "Add")
    if added is not None:
        sides = [constant(side) for side in added.inputs]
        index = next((place for place, side in enumerate(sides) if side is not None), None)
        if index is None or sides[index].ndim != 1:  # type: ignore[union-attr]
            return None
        bias, value = sides[index], added.inputs[1 - index]
        if value is None or sole_consumer(value) is not added:
            return None
    product = producer(value, "MatMul")
    weight = constant(product.inputs[1]) if product is not None else None
    if product is None or weight is None or weight.ndim != 2 or product.inputs[0] is None:
        return None
    return _Packed(product, product.inputs[0], weight, bias)


def _separate(editor: Editor, split: ir.Node, packed: _Packed) -> None:
    start, linear = 0, packed.linear
    for part in list(split.outputs):
        end = start + sizes(part)[-1]  # type: ignore[index,operator]
        weight = editor.initializer(packed.weight[:, start:end], f"{linear.name}/weight")
        result = editor.node("MatMul", [packed.features, weight], like=linear, before=split, shape=part.shape)
        if packed.bias is not None:
            bias = editor.initializer(packed.bias[start:end], f"{linear.name}/bias")
            result = editor.node("Add", [result, bias], like=linear, before=split, shape=part.shape)
        editor.replace(part, result)
        start = end
