"""One spelling for arithmetic with constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, producer, rank, scalar, sole_consumer
from edgec.passes.fuse.matching import tolerance
from edgec.passes.rules import Rules

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def constant_right(editor: Editor, node: ir.Node) -> bool:
    """`c + x` becomes `x + c`."""
    left, right = node.inputs
    if constant(left) is None or constant(right) is not None:
        return False
    node.replace_input_with(0, right)
    node.replace_input_with(1, left)
    return True


def subtraction(editor: Editor, node: ir.Node) -> bool:
    """`x - c` becomes `x + (-c)`: the same number in every bit."""
    x, array = node.inputs[0], constant(node.inputs[1])
    if array is None or node.outputs[0].dtype not in _FLOATS:
        return False
    _binary(editor, node, "Add", x, -array)
    return True


def division(editor: Editor, node: ir.Node) -> bool:
    """`x / c` becomes `x · (1/c)` where 1/c is exact, a power of two; `1 / x` becomes Reciprocal."""
    left, right = node.inputs
    if node.outputs[0].dtype not in _FLOATS:
        return False
    array = constant(right)
    if array is not None:
        if constant(left) is not None or not array.all() or not np.isfinite(array).all():
            return False
        inverse = (1 / array.astype(np.float64)).astype(array.dtype)
        mantissa, _ = np.frexp(array.astype(np.float64))
        if not (np.abs(mantissa) == 0.5).all() or not np.isfinite(inverse).all() or not inverse.all():
            return False
        _binary(editor, node, "Mul", left, inverse)
        return True
    if scalar(left) != 1.0 or (rank(left) and rank(left) != rank(right)):
        return False
    made = editor.node("Reciprocal", [right], like=node, shape=node.outputs[0].shape)
    editor.replace(node.outputs[0], made)
    return True


def power(editor: Editor, node: ir.Node) -> bool:
    """Squares become products, roots Sqrt, inverse roots Reciprocal of Sqrt."""
    x, exponent = node.inputs[0], scalar(node.inputs[1])
    out = node.outputs[0]
    if exponent is None or x is None or (rank(node.inputs[1]) and rank(x) != rank(out)):
        return False
    if exponent == 2.0:
        made = editor.node("Mul", [x, x], like=node, shape=out.shape)
    elif out.dtype in _FLOATS and exponent in (0.5, -0.5):
        made = editor.node("Sqrt", [x], like=node, shape=out.shape)
        if exponent < 0:
            made = editor.node("Reciprocal", [made], like=node, shape=out.shape)
    elif out.dtype in _FLOATS and exponent == -1.0:
        made = editor.node("Reciprocal", [x], like=node, shape=out.shape)
    else:
        return False
    editor.replace(out, made)
    return True


def product(editor: Editor, node: ir.Node) -> bool:
    """`x · (1 / y)` becomes `x / y`; two constant factors in turn become one."""
    for side in (0, 1):
        inverse = producer(node.inputs[side], "Reciprocal")
        if inverse is not None and sole_consumer(inverse.outputs[0]) is node:
            x = node.inputs[1 - side]
            if x is inverse.outputs[0]:
                continue
            out = node.outputs[0]
            made = editor.node("Div", [x, inverse.inputs[0]], like=node, shape=out.shape, dtype=out.dtype)
            editor.replace(out, made)
            return True
    first, factor = producer(node.inputs[0], "Mul"), constant(node.inputs[1])
    inner = None if first is None else constant(first.inputs[1])
    if first is None or factor is None or inner is None or sole_consumer(first.outputs[0]) is not node:
        return False
    if node.outputs[0].dtype not in _FLOATS or factor.size != 1 or inner.size != 1:
        return False
    _binary(editor, node, "Mul", first.inputs[0], factor * inner)
    return True


def clipping(editor: Editor, node: ir.Node) -> bool:
    """`max(min(x, b), a)` and `min(max(x, a), b)` with a ≤ b become Clip; `max(x, 0)` becomes Relu."""
    inner_type = "Min" if node.op_type == "Max" else "Max"
    found = _bounded(node)
    if found is None or node.outputs[0].dtype not in _FLOATS:
        return False
    value, bound = found
    out = node.outputs[0]
    inner = producer(value, inner_type)
    inside = None if inner is None else _bounded(inner)
    if inside is not None and sole_consumer(value) is node:
        low, high = (inside[1], bound) if node.op_type == "Min" else (bound, inside[1])
        if low <= high:
            limits = [_limit(editor, node, number, out) for number in (low, high)]
            made = editor.node("Clip", [inside[0], *limits], like=node, shape=out.shape)
            editor.replace(out, made)
            return True
    if node.op_type == "Max" and bound == 0.0:
        reader = sole_consumer(out)
        if is_op(reader, "Min"):
            return False  # the Clip above takes both
        editor.replace(out, editor.node("Relu", [value], like=node, shape=out.shape))
        return True
    return False


def _bounded(node: ir.Node) -> tuple[ir.Value, float] | None:
    if len(node.inputs) != 2:
        return None
    for value, bound in (node.inputs, reversed(node.inputs)):
        number = scalar(bound)
        if number is not None and value is not None and scalar(value) is None:
            return (value, number) if (rank(bound) or 0) <= (rank(value) or 0) else None
    return None


def _limit(editor: Editor, node: ir.Node, number: float, like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return editor.initializer(np.array(number, like.dtype.numpy()), f"{node.name or node.op_type}/limit")


def hard_sigmoid(editor: Editor, node: ir.Node) -> bool:
    """`clip(x + 3, 0, 6) / 6` becomes HardSigmoid; times x, HardSwish (Howard et al., arXiv:1905.02244)."""
    if is_op(node, "Mul"):
        for side in (0, 1):
            gate = producer(node.inputs[side], "HardSigmoid")
            x = node.inputs[1 - side]
            if gate is not None and gate.inputs[0] is x and _is_sixth(gate):
                made = editor.node("HardSwish", [x], like=node, shape=node.outputs[0].shape)
                editor.replace(node.outputs[0], made)
                return True
    by = scalar(node.inputs[1])
    wanted = 6.0 if is_op(node, "Div") else 1 / 6
    near = tolerance(node.outputs[0].dtype)
    if by is None or abs(by - wanted) > near * wanted or rank(node.inputs[0]) != rank(node.outputs[0]):
        return False
    relu6 = _relu6_of_shifted(node.inputs[0])
    if relu6 is not None:
        made = editor.node(
            "HardSigmoid",
            [relu6],
            like=node,
            attributes={"alpha": 1 / 6, "beta": 0.5},
            shape=node.outputs[0].shape,
        )
        editor.replace(node.outputs[0], made)
        return True
    gated = producer(node.inputs[0], "Mul")
    if gated is None or sole_consumer(gated.outputs[0]) is not node:
        return False
    for side in (0, 1):
        x = gated.inputs[1 - side]
        if x is not None and _relu6_of_shifted(gated.inputs[side]) is x:
            made = editor.node("HardSwish", [x], like=node, shape=node.outputs[0].shape)
            editor.replace(node.outputs[0], made)
            return True
    return False


def _is_sixth(node: ir.Node) -> bool:
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    near = tolerance(node.outputs[0].dtype)
    return abs(alpha - 1 / 6) <= near / 6 and abs(beta - 0.5) <= 0.5 * near


def _relu6_of_shifted(value: ir.Value | None) -> ir.Value | None:
    """The x of `clip(x + 3, 0, 6)`."""
    clip = producer(value, "Clip")
    if clip is None or [scalar(limit) for limit in clip.inputs[1:]] != [0.0, 6.0]:
        return None
    shifted = producer(clip.inputs[0], "Add")
    if shifted is None or scalar(shifted.inputs[1]) != 3.0 or rank(shifted.inputs[0]) != rank(clip.inputs[0]):
        return None
    return shifted.inputs[0]


def _binary(editor: Editor, node: ir.Node, op_type: str, x: ir.Value | None, array: np.ndarray) -> None:
    out = node.outputs[0]
    made_constant = editor.initializer(np.asarray(array), f"{node.name or node.op_type}/constant")
    made = editor.node(op_type, [x, made_constant], like=node, shape=out.shape, dtype=out.dtype)
    editor.replace(out, made)


RULES: Rules = {
    "Add": [constant_right],
    "Mul": [constant_right, hard_sigmoid, product],
    "Sub": [subtraction],
    "Div": [hard_sigmoid, division],
    "Pow": [power],
    "Min": [clipping],
    "Max": [clipping],
}
