"""Attentions of a single query, written without products of matrices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, consumers, rank, sizes
from edgec.passes.infra import MatchLog, Pass, register

_BETWEEN = ("Add", "Cast", "Clip", "Div", "Max", "Min", "Mul", "Sub", "Where")
"""What may stand between the first product and the softmax: scales and masks, element by element."""


@register
class OneQuery(Pass):
    """Write both products of an attention with one query as multiplications and sums.

    ::

        q [B,H,1,D] ── MatMul(kᵀ) ── Add(mask) ── Softmax ── MatMul(v) ── y

            ⇒      qᵀ ── Mul(kᵀ) ── ReduceSum ── Add(mask) ── Softmax ── pᵀ ── Mul(v) ── ReduceSum ── y

    TensorRT 8.6 computes such an attention wrongly in some graphs and says nothing: in the last block of a
    ViT of width 192, in fp16 at batch 1, and at batch 8 with a mask of its own for each sample in fp32 too,
    where all samples but the first come out otherwise. Written like this it was right in each of these
    (`benchmarks/results/tensorrt_gpu.md`). One row times a matrix reads the matrix once either way.

    Args:
        wrong: whether the release gets them wrong; nothing is rewritten where it does not.
    """

    name = "jetson.one_query"

    def __init__(self, *, wrong: bool = False) -> None:
        self.wrong = wrong

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place."""
        if not self.wrong:
            return
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if not is_op(node, "Softmax") or not _is_one_row(node):
                continue
            products = [*_scores(node.inputs[0]), *_readers(node.outputs[0])]
            for product in products:
                _write_out(editor, product)
            if products:
                log.matched(node)


def _is_one_row(softmax: ir.Node) -> bool:
    shape = sizes(softmax.inputs[0])
    if shape is None or len(shape) < 3:
        return False
    return shape[-2] == 1 and attribute(softmax, "axis", -1) in (-1, len(shape) - 1)


def _scores(value: ir.Value | None) -> list[ir.Node]:
    """The products that a softmax's scores come from."""
    found: dict[ir.Node, None] = {}
    seen: set[ir.Value] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        maker = None if one is None or one in seen else one.producer()
        if one is None or maker is None:
            continue
        seen.add(one)
        if is_op(maker, "MatMul") and _multiplies_row(maker):
            found[maker] = None
        elif is_op(maker, *_BETWEEN):
            pending += maker.inputs
    return list(found)


def _readers(probabilities: ir.Value) -> list[ir.Node]:
    """The products that read a softmax's result, behind casts too."""
    found = []
    for reader in consumers(probabilities):
        if is_op(reader, "Cast"):
            found += _readers(reader.outputs[0])
        elif is_op(reader, "MatMul") and _multiplies_row(reader):
            found.append(reader)
    return found


def _multiplies_row(product: ir.Node) -> bool:
    """Whether a product is of one row with a matrix, both computed."""
    row = sizes(product.inputs[0])
    others = rank(product.inputs[1])
    computed = all(constant(operand) is None for operand in product.inputs)
    return (
        computed and row is not None and len(row) > 1 and row[-2] == 1 and others is not None and others > 1
    )


def _write_out(editor: Editor, product: ir.Node) -> None:
    """Before: MatMul(row, matrix). After: ReduceSum(Mul(Transpose(row), matrix)) over the matrix's rows."""
    row, matrix = product.inputs
    assert row is not None
    assert matrix is not None
    assert row.shape is not None
    size, whole = len(row.shape), max(len(row.shape), rank(matrix) or 0)
    order = [*range(size - 2), size - 1, size - 2]
    column = editor.node(
        "Transpose",
        [row],
        like=product,
        attributes={"perm": order},
        shape=[row.shape[axis] for axis in order],
    )
    terms = editor.node("Mul", [column, matrix], like=product)
    if product.outputs[0].shape is not None and matrix.shape is not None:
        terms.shape = ir.Shape([*list(product.outputs[0].shape)[:-2], *list(matrix.shape)[-2:]])
    axes = editor.initializer(np.array([whole - 2], np.int64), f"{product.name}/axes")
    summed = editor.node("ReduceSum", [terms, axes], like=product, attributes={"keepdims": 1})
    editor.replace(product.outputs[0], summed)
    editor.prune(product)
