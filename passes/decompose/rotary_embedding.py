"""RotaryEmbedding in primitive ops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, rank, sizes
from edgec.passes.infra import MatchLog, Pass, register


@register
class DecomposeRotaryEmbedding(Pass):
    """Write `RotaryEmbedding` as the rotation of pairs that it is.

    ::

        x ── RotaryEmbedding(cos, sin) ── y
        ⇒
        x ── Split ┬─ a ── a·cos − b·sin ┐
                   ├─ b ── a·sin + b·cos ┴─ Concat ┐
                   └─ rest ────────────────────────┴─ Concat ── y

    `a` and `b` are the halves of the rotated part, or its even and odd places where it is interleaved.
    The caches are read by position first where positions are given. Follows ONNX opset 23; the method
    is that of Su et al., "RoFormer", arXiv 2104.09864.
    """

    name = "decompose.rotary_embedding"
    enters = True

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every `RotaryEmbedding` whose head size is known."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if not is_op(node, "RotaryEmbedding"):
                continue
            known = sizes(node.inputs[0])
            if known is None or len(known) not in (3, 4) or known[-1] is None:
                log.missed(node, "its head size is not known")
                continue
            _Rotation(editor, node).write()
            log.matched(node)
            editor.prune(node)
        editor.remove_dead()


class _Rotation:
    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor = editor
        self.node = node

    def write(self) -> None:
        node = self.node
        value = node.inputs[0]
        assert value is not None
        joined = rank(value) == 3
        width = sizes(value)[-1]  # type: ignore[index]
        assert width is not None
        heads = attribute(node, "num_heads", 0) if joined else 0
        size = width // heads if joined else width
        if joined:  # [batch, length, heads * size] → [batch, length, heads, size]
            value = self._op("Reshape", value, self._numbers([0, 0, heads, size]))
        rotated = attribute(node, "rotary_embedding_dim", 0) or size
        rest = None
        if rotated < size:
            value, rest = self._split(value, [rotated, size - rotated])
        # One axis for the heads: the third of a joined input, the second of a split one.
        axis = self._numbers([2 if joined else 1])
        cos, sin = (self._op("Unsqueeze", self._cache(index), axis) for index in (1, 2))
        result = self._rotated(value, cos, sin, rotated)
        if rest is not None:
            result = self._op("Concat", result, rest, axis=-1)
        if joined:
            result = self._op("Reshape", result, self._numbers([0, 0, width]))
        result.shape = node.inputs[0].shape  # type: ignore[union-attr]
        self.editor.replace(node.outputs[0], result)

    def _rotated(self, value: ir.Value, cos: ir.Value, sin: ir.Value, width: int) -> ir.Value:
        interleaved = bool(attribute(self.node, "interleaved", 0))
        if interleaved:
            first, second = (
                self._op("Slice", value, *map(self._numbers, ([start], [width], [-1], [2])))
                for start in (0, 1)
            )
        else:
            first, second = self._split(value, [width // 2, width // 2])
        real = self._op("Sub", self._op("Mul", first, cos), self._op("Mul", second, sin))
        imaginary = self._op("Add", self._op("Mul", first, sin), self._op("Mul", second, cos))
        if not interleaved:
            return self._op("Concat", real, imaginary, axis=-1)
        last = self._numbers([-1])
        pairs = self._op(
            "Concat", self._op("Unsqueeze", real, last), self._op("Unsqueeze", imaginary, last), axis=-1
        )
        return self._op("Reshape", pairs, self._numbers([0, 0, 0, width]))

    def _cache(self, index: int) -> ir.Value:
        """Cosines or sines, [batch, length, size / 2]."""
        cache = self.node.inputs[index]
        assert cache is not None
        positions = self.node.inputs[3] if len(self.node.inputs) > 3 else None
        return cache if positions is None else self._op("Gather", cache, positions, axis=0)

    def _op(self, op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        return self.editor.node(op_type, inputs, like=self.node, attributes=attributes)

    def _split(self, value: ir.Value, lengths: Sequence[int]) -> Sequence[ir.Value]:
        first = self.editor.node(
            "Split",
            [value, self._numbers(lengths)],
            like=self.node,
            attributes={"axis": -1},
            outputs=len(lengths),
        )
        maker = first.producer()
        assert maker is not None
        for part in maker.outputs:
            part.type = first.type
        return maker.outputs

    def _numbers(self, numbers: Sequence[int]) -> ir.Value:
        return self.editor.initializer(np.asarray(numbers, np.int64), f"{self.node.name}/numbers")
