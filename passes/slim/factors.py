"""One product of a linear layer as two thinner ones (low rank)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, sizes
from edgec.passes.slim.layers import is_pointwise


def weight_matrix(node: ir.Node) -> np.ndarray | None:
    """(inputs, outputs), the matrix that a linear layer multiplies its input by from the right.

    Returns:
        None where the node is no MatMul, Gemm or pointwise Conv with a constant matrix on the right.
    """
    if is_op(node, "MatMul", "Gemm"):
        array = constant(node.inputs[1])
        if array is None or array.ndim != 2:
            return None
        return array.T if is_op(node, "Gemm") and attribute(node, "transB", 0) else array
    if not is_op(node, "Conv") or not is_pointwise(node):
        return None
    array = constant(node.inputs[1])
    if array is None or any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    return array.reshape(array.shape[:2]).T


def factors(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The product of two matrices through `rank` that is nearest to one (Eckart and Young).

    Args:
        matrix: (inputs, outputs).
        rank: at most the smaller of the two.

    Returns:
        (inputs, rank) and (rank, outputs), each with the root of the singular values.
    """
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    root = np.sqrt(values[:rank])
    return (left[:, :rank] * root).astype(matrix.dtype), (root[:, None] * right[:rank]).astype(matrix.dtype)


def split_product(editor: Editor, node: ir.Node, left: np.ndarray, right: np.ndarray) -> None:
    """Let a linear layer multiply by `left` and then by `right`; its bias stays.

    Before::

        x ─ MatMul(inputs, outputs) ─ y

    After::

        x ─ MatMul(inputs, rank) ─ MatMul(rank, outputs) ─ y

    Args:
        editor: of the graph.
        node: a node that `weight_matrix` knows.
        left: (inputs, rank).
        right: (rank, outputs).
    """
    data, out = node.inputs[0], node.outputs[0]
    stem, width = str(node.inputs[1].name), left.shape[1]  # type: ignore[union-attr]
    shape = None if out.shape is None else list(out.shape)
    if shape is not None:
        shape[1 if is_op(node, "Conv") else -1] = width
    if is_op(node, "Conv"):
        left, right = left.T[..., None, None], right.T[..., None, None]
        left, right = (
            each.reshape(*each.shape[:2], *(sizes(node.inputs[1]) or ())[2:]) for each in (left, right)
        )
    thin = editor.initializer(left, f"{stem}_left")
    wide = editor.initializer(right, f"{stem}_right")
    first = {key: each.value for key, each in node.attributes.items()}
    second: dict[str, object] = {}
    if is_op(node, "Gemm"):
        second = {"alpha": attribute(node, "alpha", 1.0), "beta": attribute(node, "beta", 1.0)}
        first = {"transA": attribute(node, "transA", 0)}
    inner = editor.node(node.op_type, [data, thin], like=node, attributes=first, shape=shape)
    made = editor.node(
        node.op_type,
        [inner, wide, *node.inputs[2:]],
        like=node,
        attributes=second,
        shape=out.shape,
        dtype=out.dtype,
    )
    editor.replace(out, made)
    editor.prune(node)
