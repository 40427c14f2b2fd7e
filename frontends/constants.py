"""What in a graph does not depend on its inputs' values, and the small numbers among it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op

MOVES = frozenset(
    {
        *("Cast", "Concat", "Expand", "Flatten", "Identity", "Pad", "Reshape"),
        *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Ops that leave values as they are."""

_FEW = 2**16
"""What tells of inputs is small: frequencies, means, counts."""


class Constants:
    """Values that do not depend on what the inputs hold, and those of them that are known."""

    def __init__(self, model: ir.Model) -> None:
        self._varies = set(model.graph.inputs)
        for node in model.graph.all_nodes():
            if is_op(node, "Shape", "Size"):
                continue
            bodies = [
                attribute.as_graph()
                for attribute in node.attributes.values()
                if attribute.type == ir.AttributeType.GRAPH
            ]
            for body in bodies:
                # A loop's number and condition come first; what it carries changes from turn to turn.
                self._varies.update(body.inputs[2 if is_op(node, "Loop") else 0 :])
            if bodies or any(value in self._varies for value in node.inputs):
                self._varies.update(node.outputs)

    def holds(self, value: ir.Value | None) -> bool:
        """Whether it is the same whatever the inputs hold."""
        return value is not None and value not in self._varies

    def of(self, value: ir.Value | None, depth: int = 8) -> np.ndarray | None:
        """Its numbers, through ops that do not change them; None for weights, and what must be computed."""
        if value is None or depth == 0:
            return None
        if value.const_value is not None:
            return value.const_value.numpy() if value.const_value.size <= _FEW else None
        node = value.producer()
        if node is None:
            return None
        if is_op(node, "Constant"):
            for attribute in node.attributes.values():
                held = attribute.value
                return held.numpy() if isinstance(held, ir.TensorProtocol) else np.asarray(held)
        if is_op(node, "Range"):
            start, limit, step = (self.of(item, depth - 1) for item in node.inputs)
            if start is None or limit is None or step is None:
                return None
            return np.arange(start.item(), limit.item(), step.item())
        if is_op(node, "ConstantOfShape"):
            fill = node.attributes.get("value")
            return np.zeros(1) if fill is None else fill.as_tensor().numpy()
        if is_op(node, *MOVES) and not is_op(node, "Concat", "Pad"):
            found = self.of(node.inputs[0], depth - 1)
            if found is not None and is_op(node, "Cast"):
                with np.errstate(all="ignore"):
                    return found.astype(node.outputs[0].dtype.numpy()) if node.outputs[0].dtype else found
            return found
        return None

    def largest(self, value: ir.Value | None) -> float | None:
        """The largest size of its numbers."""
        found = self.of(value)
        return None if found is None or not found.size else float(np.max(np.abs(found.astype(np.float64))))

    def number(self, value: ir.Value | None) -> float | None:
        """Its one number, where it holds one."""
        found = self.of(value)
        return float(found.reshape(-1)[0]) if found is not None and found.size == 1 else None
