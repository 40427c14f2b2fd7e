"""One spelling for matrix products."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.editing import Editor, attribute, constant, consumers, sizes
from edgec.passes.rules import Rules

_COPIED_BYTES = 2**20
"""A shared weight up to this size may be copied transposed."""


def gemm(editor: Editor, node: ir.Node) -> bool:
    """Gemm becomes MatMul and Add, the form that a linear layer over tokens has anyway."""
    a, b = node.inputs[:2]
    c = node.inputs[2] if len(node.inputs) > 2 else None
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    bias, weight = constant(c), constant(b)
    if (alpha != 1.0 and weight is None) or (c is not None and beta != 1.0 and bias is None):
        editor.log.missed(node, "alpha or beta scales a product that is not of constants")
        return False
    assert a is not None
    assert b is not None
    if attribute(node, "transA", 0):
        a = _transposed(editor, node, a)
    if attribute(node, "transB", 0):
        if weight is None:
            b = _transposed(editor, node, b)
        elif len(consumers(b)) > 1 and weight.nbytes > _COPIED_BYTES:
            editor.log.missed(node, f"the weight {b.name} is shared and would be copied transposed")
            return False
        else:
            weight = weight.T
    if weight is not None and (attribute(node, "transB", 0) or alpha != 1.0):
        scaled = weight if alpha == 1.0 else (weight * alpha).astype(weight.dtype)
        b = editor.initializer(scaled, f"{b.name}_transposed")
    out = node.outputs[0]
    made = editor.node("MatMul", [a, b], like=node, shape=out.shape, dtype=out.dtype)
    if c is not None and beta != 0.0:
        if bias is not None and beta != 1.0:
            c = editor.initializer((bias * beta).astype(bias.dtype), f"{c.name}_scaled")
        made = editor.node("Add", [made, c], like=node, shape=out.shape)
    editor.replace(out, made)
    return True


def _transposed(editor: Editor, node: ir.Node, value: ir.Value) -> ir.Value:
    shape = None if value.shape is None else list(value.shape)[::-1]
    return editor.node("Transpose", [value], like=node, attributes={"perm": [1, 0]}, shape=shape)


def einsum(editor: Editor, node: ir.Node) -> bool:
    """A product of two tensors over one letter, one free letter each, becomes MatMul between Transposes."""
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    if len(node.inputs) != 2 or "->" not in equation or "." in equation:
        return False
    operands, result = equation.split("->")
    left, right = operands.split(",")
    shapes = [sizes(value) for value in node.inputs]
    letters = [left, right, result]
    if any(len(set(term)) != len(term) for term in letters) or None in shapes:
        return False
    batch = [letter for letter in result if letter in left and letter in right]
    summed = [letter for letter in left if letter in right and letter not in result]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]
    if (len(summed), len(rows), len(columns)) != (1, 1, 1):
        return False
    if set(result) != {*batch, *rows, *columns}:
        return False
    for letter in (*batch, *summed):
        one, two = (shape[term.index(letter)] for shape, term in zip(shapes, (left, right), strict=True))  # type: ignore[index]
        if one is None or one != two:
            return False
    a = _permuted(editor, node, node.inputs[0], left, [*batch, *rows, *summed])
    b = _permuted(editor, node, node.inputs[1], right, [*batch, *summed, *columns])
    order = [*batch, *rows, *columns]
    out = node.outputs[0]
    shape = None if out.shape is None else [out.shape[result.index(letter)] for letter in order]
    made = editor.node("MatMul", [a, b], like=node, shape=shape, dtype=out.dtype)
    made = _permuted(editor, node, made, "".join(order), list(result))
    editor.replace(out, made)
    return True


def _permuted(editor: Editor, node: ir.Node, value: ir.Value | None, has: str, wants: list[str]) -> ir.Value:
    assert value is not None
    perm = [has.index(letter) for letter in wants]
    if perm == sorted(perm):
        return value
    shape = None if value.shape is None else [value.shape[axis] for axis in perm]
    return editor.node("Transpose", [value], like=node, attributes={"perm": perm}, shape=shape)


RULES: Rules = {"Gemm": [gemm], "Einsum": [einsum]}
