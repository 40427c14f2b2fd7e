"""Writing the nodes that stand for one node, each with its shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.passes.canonicalize.shapes import infer_node
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Refusal

STAYS_KEY = "edgec.stays"
"""Node metadata: why a node could not be written in other ops, for a target that lacks it."""

Operand = ir.Value | np.ndarray | Sequence[int] | float


class Parts:
    """Puts nodes in front of the node that they stand for.

    Attributes:
        editor: edits the graph.
        node: the node.
    """

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor = editor
        self.node = node
        self.dtype = _dtype(node)

    def op(self, op_type: str, *operands: Operand | None, **attributes: Any) -> ir.Value:
        """One node's first output; arrays and lists become constants, a list of int64, a float of `dtype`."""
        inputs = [None if operand is None else self.value(operand) for operand in operands]
        while inputs and inputs[-1] is None:  # an empty last input is no input to some parsers
            inputs.pop()
        made = self.editor.node(op_type, inputs, like=self.node, attributes=attributes)
        maker = made.producer()
        assert maker is not None
        made.type = None
        infer_node(maker, self.editor.model, MatchLog())
        return made

    def value(self, operand: Operand) -> ir.Value:
        """The operand as a value of the graph."""
        if isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, float):
            operand = np.array(operand, self.dtype)
        array = np.asarray(operand) if isinstance(operand, np.ndarray) else np.asarray(operand, np.int64)
        return self.editor.initializer(array, f"{self.node.name or self.node.op_type}/constant")

    def reshape(self, value: ir.Value, *sizes: int) -> ir.Value:
        """The value in another shape."""
        return self.op("Reshape", value, list(sizes))

    def slice(self, value: ir.Value, axis: int, start: int, end: int, step: int = 1) -> ir.Value:
        """A part of one axis."""
        return self.op("Slice", value, [start], [end], [axis], [step])

    def become(self, value: ir.Value, output: int = 0) -> None:
        """Let everyone read the value in the place of the node's output."""
        self.editor.replace(self.node.outputs[output], value)


Write = Callable[[Parts], None]
"""Writes one node in parts.

Raises:
    Refusal: it cannot; nobody reads what it wrote until then.
"""


def write_in_parts(model: ir.Model, name: str, log: MatchLog, of: Callable[[ir.Node], Write | None]) -> None:
    """Write nodes of a model in other ops, in place; one that is refused stays and knows why.

    Args:
        model: the model.
        name: the pass.
        log: told of each node.
        of: what writes a node; None for nodes that stay as they are.
    """
    editor = Editor(model, name, log)
    for node in list(model.graph):
        write = of(node)
        if write is None:
            continue
        try:
            write(Parts(editor, node))
        except Refusal as refusal:
            log.missed(node, refusal)
            node.metadata_props[STAYS_KEY] = refusal.reason
            continue
        log.matched(node)
        editor.prune(node)
    editor.remove_dead()


def fixed(value: ir.Value | None, what: str) -> tuple[int, ...]:
    """The value's sizes.

    Raises:
        Refusal: one is open.
    """
    if value is None or value.shape is None or not value.shape.is_static():
        raise Refusal(f"{what} has no fixed shape")
    return tuple(value.shape.numpy())


def _dtype(node: ir.Node) -> np.dtype:
    value = next((value for value in node.inputs if value is not None and value.dtype is not None), None)
    dtype = ir.DataType.FLOAT if value is None or value.dtype is None else value.dtype
    return np.dtype(dtype.numpy() if dtype.is_floating_point() else np.float32)
