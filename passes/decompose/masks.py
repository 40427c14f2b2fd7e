"""What attention may look at, as a bias on its scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import Editor, constant, sizes


@dataclasses.dataclass(frozen=True)
class Bias:
    """What is added to the scores.

    Attributes:
        value: the bias, broadcast to [batch, heads, queries, keys]; None where all may be seen.
        alive: 1 for a query that has a key to look at and 0 for one that has none, [..., queries, 1];
            None where every query certainly has one.
    """

    value: ir.Value | None
    alive: ir.Value | None


class Masks:
    """Makes biases for the attentions of one graph; attentions that share a mask share its bias."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._made: dict[tuple[object, ...], Bias] = {}

    def bias(
        self,
        node: ir.Node,
        mask: ir.Value | None,
        causal: bool,
        query: ir.Value,
        key: ir.Value,
        past: ir.Value | None,
    ) -> Bias:
        """The bias of one attention.

        Args:
            node: the attention.
            mask: its mask, boolean (True is seen) or floating (added), or None.
            causal: whether query i sees keys up to i and those of the past only.
            query: [batch, heads, queries, size].
            key: [batch, heads, keys, size], the past's keys included.
            past: the past's keys, or None.
        """
        if mask is None and not causal:
            return Bias(None, None)
        lengths = _length(query), _length(key), 0 if past is None else _length(past)
        fixed = None not in lengths
        if causal and not fixed:
            return self._make(node, mask, self._running_causal(node, query, key, past), query)
        identity = (id(mask), query.dtype, lengths if causal else None)
        if identity not in self._made:
            allowed = None
            if causal:
                queries, keys, before = lengths
                allowed = np.tri(queries, keys, before, dtype=bool)  # type: ignore[arg-type]
            self._made[identity] = self._make(node, mask, allowed, query)
        return self._made[identity]

    def _make(
        self, node: ir.Node, mask: ir.Value | None, causal: np.ndarray | ir.Value | None, query: ir.Value
    ) -> Bias:
        dtype = query.dtype or ir.DataType.FLOAT
        if mask is not None and mask.dtype != ir.DataType.BOOL:
            if causal is None:
                return Bias(mask, None)
            added = self._added(node, causal, mask, dtype)
            return Bias(added, None)
        known = constant(mask)
        if mask is None or (known is not None and not isinstance(causal, ir.Value)):
            allowed = causal
            if known is not None:
                allowed = known if causal is None else known & causal
            if isinstance(allowed, np.ndarray):
                return self._constant(node, allowed, dtype)
            assert isinstance(allowed, ir.Value)
            # Every query sees at least the key at its own place.
            return Bias(self._where(node, allowed, query, dtype), None)
        seen: ir.Value = mask
        if causal is not None:
            other = self._stored(node, causal) if isinstance(causal, np.ndarray) else causal
            seen = self._editor.node("And", [mask, other], like=node, dtype=ir.DataType.BOOL)
        return Bias(self._where(node, seen, query, dtype), self._alive(node, seen, dtype))

    def _constant(self, node: ir.Node, allowed: np.ndarray, dtype: ir.DataType) -> Bias:
        numbers = np.where(allowed, 0.0, hidden(dtype)).astype(dtype.numpy())
        alive = allowed.any(axis=-1, keepdims=True)
        return Bias(
            None if allowed.all() else self._stored(node, numbers),
            None if alive.all() else self._stored(node, alive.astype(dtype.numpy())),
        )

    def _added(
        self, node: ir.Node, causal: np.ndarray | ir.Value, mask: ir.Value, dtype: ir.DataType
    ) -> ir.Value:
        known = constant(mask)
        if isinstance(causal, np.ndarray):
            numbers = np.where(causal, 0.0, hidden(dtype)).astype(dtype.numpy())
            if known is not None:
                return self._stored(node, known + numbers)
            return self._editor.node("Add", [mask, self._stored(node, numbers)], like=node)
        return self._editor.node("Add", [mask, self._where(node, causal, mask, dtype)], like=node)

    def _where(self, node: ir.Node, allowed: ir.Value, like: ir.Value, dtype: ir.DataType) -> ir.Value:
        numbers = [
            self._stored(node, np.asarray(number, dtype=dtype.numpy())) for number in (0.0, hidden(dtype))
        ]
        shape = None if allowed.shape is None else allowed.shape.copy()
        return self._editor.node("Where", [allowed, *numbers], like=node, shape=shape, dtype=like.dtype)

    def _alive(self, node: ir.Node, allowed: ir.Value, dtype: ir.DataType) -> ir.Value:
        number = self._editor.node(
            "Cast", [allowed], like=node, attributes={"to": int(dtype)}, dtype=dtype, shape=allowed.shape
        )
        axes = self._stored(node, np.asarray([-1], np.int64))
        alive = self._editor.node("ReduceMax", [number, axes], like=node, attributes={"keepdims": 1})
        if allowed.shape is not None:
            alive.shape = ir.Shape([*allowed.shape[:-1], 1])
        return alive

    def _running_causal(
        self, node: ir.Node, query: ir.Value, key: ir.Value, past: ir.Value | None
    ) -> ir.Value:
        """The causal mask where a length is only known at run time."""
        editor = self._editor
        axis, zero, one = (self._stored(node, np.asarray(number, np.int64)) for number in ([1], 0, 1))

        def length(value: ir.Value) -> ir.Value:
            shape = editor.node(
                "Shape", [value], like=node, attributes={"start": 2, "end": 3}, dtype=ir.DataType.INT64
            )
            empty = self._stored(node, np.asarray([], np.int64))
            return editor.node("Reshape", [shape, empty], like=node, shape=[])

        rows = editor.node("Range", [zero, length(query), one], like=node)
        if past is not None:
            rows = editor.node("Add", [rows, length(past)], like=node)
        columns = editor.node("Range", [zero, length(key), one], like=node)
        rows = editor.node("Unsqueeze", [rows, axis], like=node)
        return editor.node("LessOrEqual", [columns, rows], like=node, dtype=ir.DataType.BOOL)

    def _stored(self, node: ir.Node, array: np.ndarray) -> ir.Value:
        return self._editor.initializer(array, f"{node.name}/mask")


def hidden(dtype: ir.DataType) -> float:
    """The bias of a key that is not seen: its softmax is exactly zero, and no sum with it overflows.

    Not the dtype's own lowest number: that becomes -inf as soon as an engine computes in bf16, and a
    row of -inf has no softmax.
    """
    return -3e4 if dtype == ir.DataType.FLOAT16 else -1e30


def _length(value: ir.Value) -> int | None:
    known = sizes(value)
    return None if known is None else known[2]
