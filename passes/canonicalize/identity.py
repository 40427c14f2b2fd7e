"""Remove what changes nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.canonicalize.duplicates import merge_duplicates
from edgec.passes.editing import Editor, attribute, constant, consumers, producer, same_shape
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.rules import Rule, Rules, rewrite


@register
class Identity(Pass):
    """Remove nodes that hand on their input, and merge nodes that compute the same.

    ::

        x ── Dropout ── Identity ── Mul(·, 1) ── y      ⇒      x ── y

        x ──┬── Relu ── Neg ── a                        ⇒      x ── Relu ── Neg ──┬── a
            └── Relu ── Neg ── b                                                  └── b

    Arithmetic with a neutral constant goes only where broadcasting keeps the shape. Adding a
    positive zero turns -0.0 into 0.0, two zeros that compare equal; it stays where something is
    divided by the sum, the one reader that can tell them apart.
    """

    name = "canonicalize.identity"
    enters = True
    after = ("canonicalize.constants",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Edit in place."""
        simplify(Editor(model, self.name, log))


def simplify(editor: Editor) -> None:
    """Remove identities and duplicates until there are none."""
    while rewrite(editor, RULES) + merge_duplicates(editor):
        pass


def hand_on(editor: Editor, node: ir.Node, value: ir.Value | None, output: int = 0) -> bool:
    """Let the readers of a node's output read a value instead, where the graph's outputs allow it.

    A graph output that would become an input, an initializer or another output needs a node that
    carries its name, so the node stays.
    """
    old = node.outputs[output]
    if value is None or value is old:
        return False
    if old.is_graph_output() and (
        value.producer() is None or value.is_graph_output() or value.graph is not old.graph
    ):
        return False
    editor.replace(old, value)
    return True


def _always(editor: Editor, node: ir.Node) -> bool:
    return len(node.inputs) == 1 and len(node.outputs) == 1 and hand_on(editor, node, node.inputs[0])


def _dropout(editor: Editor, node: ir.Node) -> bool:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is not None:
        training = constant(mode)
        if training is None or bool(training):
            editor.log.missed(node, f"{mode.name} may switch this Dropout to training")
            return False
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        editor.log.missed(node, f"the mask {node.outputs[1].name} of this Dropout is read")
        return False
    return hand_on(editor, node, node.inputs[0])


_HOLDS = {
    ir.DataType.FLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.BFLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.FLOAT: (ir.DataType.DOUBLE,),
    ir.DataType.INT32: (ir.DataType.INT64, ir.DataType.DOUBLE),
    ir.DataType.BOOL: (
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
    ),
}
"""Types that hold every value of a type exactly."""


def _cast(editor: Editor, node: ir.Node) -> bool:
    value, out = node.inputs[0], node.outputs[0]
    if value is None or value.dtype is None:
        return False
    to = ir.DataType(attribute(node, "to")) if node.op_type == "Cast" else out.dtype
    if to is None:
        return False
    if value.dtype == to:
        return hand_on(editor, node, value)
    first = producer(value, "Cast")
    origin = first.inputs[0] if first is not None else None
    if origin is not None and origin.dtype == to and value.dtype in _HOLDS.get(to, ()):
        return hand_on(editor, node, origin)
    return False


def _transpose(editor: Editor, node: ir.Node) -> bool:
    perm = attribute(node, "perm")
    return perm is not None and list(perm) == sorted(perm) and hand_on(editor, node, node.inputs[0])


def _same(editor: Editor, node: ir.Node) -> bool:
    return same_shape(node.inputs[0], node.outputs[0]) and hand_on(editor, node, node.inputs[0])


def _slice(editor: Editor, node: ir.Node) -> bool:
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else np.ones(1)
    return steps is not None and bool((steps > 0).all()) and _same(editor, node)


def _pad(editor: Editor, node: ir.Node) -> bool:
    pads = constant(node.inputs[1])
    return pads is not None and not pads.any() and hand_on(editor, node, node.inputs[0])


def _resize(editor: Editor, node: ir.Node) -> bool:
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is not None and scales.size and not (scales == 1).all():
        return False  # a scale of 1.01 can keep the size and still move the samples
    return _same(editor, node)


def _where(editor: Editor, node: ir.Node) -> bool:
    condition = constant(node.inputs[0])
    if condition is None or condition.size == 0 or condition.any() != condition.all():
        return False
    chosen = node.inputs[1 if condition.all() else 2]
    return same_shape(chosen, node.outputs[0]) and hand_on(editor, node, chosen)


def _neutral(number: float, sides: tuple[int, ...]) -> Rule:
    def rule(editor: Editor, node: ir.Node) -> bool:
        for side in sides:
            array, value = constant(node.inputs[side]), node.inputs[1 - side]
            if array is None or array.size == 0 or not (array == number).all():
                continue
            if not _keeps_shape(value, array, node.outputs[0]):
                continue
            if _drops_a_sign(node, array) and _is_divided_by(node.outputs[0]):
                editor.log.missed(
                    node, "adding zero clears the sign of -0.0 and something is divided by the sum"
                )
                continue
            return hand_on(editor, node, value)
        return False

    return rule


def _keeps_shape(value: ir.Value | None, array: np.ndarray, out: ir.Value) -> bool:
    if value is None or value.dtype != out.dtype:
        return False
    return same_shape(value, out) or (
        array.size == 1 and value.shape is not None and array.ndim <= len(value.shape)
    )


def _is_divided_by(value: ir.Value) -> bool:
    return any(
        reader.op_type == "Reciprocal" or (reader.op_type == "Div" and reader.inputs[1] is value)
        for reader in consumers(value)
    )


def _drops_a_sign(node: ir.Node, zeros: np.ndarray) -> bool:
    """`x + 0.0` and `x - (-0.0)` turn -0.0 into 0.0; `x + (-0.0)` and `x - 0.0` do not."""
    if zeros.dtype.kind in "iub" or node.op_type not in ("Add", "Sub"):
        return False
    negative = np.signbit(zeros.astype(np.float64))
    return bool((~negative if node.op_type == "Add" else negative).any())


def _twice(editor: Editor, node: ir.Node) -> bool:
    """The second of two nodes that undo each other."""
    first = producer(node.inputs[0], node.op_type)
    return first is not None and hand_on(editor, node, first.inputs[0])


RULES: Rules = {
    "Identity": [_always],
    "Concat": [_always],
    "Split": [_always],
    "Sum": [_always],
    "Max": [_always],
    "Min": [_always],
    "Mean": [_always],
    "Clip": [_always],
    "Dropout": [_dropout],
    "Cast": [_cast],
    "CastLike": [_cast],
    "Transpose": [_transpose],
    "Reshape": [_same],
    "Flatten": [_same],
    "Squeeze": [_same],
    "Expand": [_same],
    "Tile": [_same],
    "Slice": [_slice],
    "Pad": [_pad],
    "Resize": [_resize],
    "Where": [_where],
    "Mul": [_neutral(1, (0, 1))],
    "Div": [_neutral(1, (1,))],
    "Pow": [_neutral(1, (1,))],
    "Add": [_neutral(0, (0, 1))],
    "Sub": [_neutral(0, (1,))],
    "Neg": [_twice],
    "Not": [_twice],
}
