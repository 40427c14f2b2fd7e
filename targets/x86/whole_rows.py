"""Padding token streams to a number of rows that OpenVINO's bf16 product likes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant, producer, sizes
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.tokens.readers import NORMS, UNARY, Obstacle, read

MULTIPLE = 4
"""Rows are padded to a multiple of this."""

MOST_ADDED = 0.07
"""No stream grows by more than this share: what rows of zeros cost must stay under what they bring."""


@register
class WholeRows(Pass):
    """Give a token stream some rows of zeros, so that its number of rows is a multiple of 4.

    Before::

        x (1,197,C) ── norm ── MatMul ─┬─ q ── Attention ── proj ── Add ── norm ── MLP ── … ── x[:, 0]
                                       └─ k, v ──┘

    After::

        x ── Concat(zeros) ── (1,200,C) ── norm ── MatMul ─┬─ q ──────────── Attention ── proj ── Add ── …
                                                           └─ k, v ── Slice ──┘

    OpenVINO 2026.4 cuts a bf16 product into blocks of rows, badly where the number of rows has no
    small divisors: 197 rows of a ViT take 1.19 times what 200 take, 67 rows 1.7 times what 68 take. The
    rows of zeros go through everything that works token by token and are cut off where tokens meet:
    keys and values, whatever needs all tokens, and outputs. So the results are exact.
    """

    name = "x86.whole_rows"
    before = ("decompose.attention",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Pad in place."""
        _Padding(Editor(model, self.name, log), log).run()


def ragged(model: ir.Model) -> bool:
    """Whether the pass would pad anything in a neutral graph."""
    return any(_padded(node) is not None for node in model.graph if is_op(node, "MatMul"))


def _padded(product: ir.Node) -> tuple[int, int, int] | None:
    """Batch, rows and padded rows of a product with weights that has a bad number of rows, else None."""
    shape = sizes(product.inputs[0])
    if shape is None or len(shape) != 3 or constant(product.inputs[1]) is None:
        return None
    batch, real = shape[0], shape[1]
    if batch is None or real is None or (batch * real) % MULTIPLE == 0:
        return None
    padded = -(-real // MULTIPLE) * MULTIPLE
    return None if padded - real > MOST_ADDED * real else (batch, real, padded)


@dataclasses.dataclass(frozen=True)
class _Rows:
    axis: int
    real: int
    padded: int


class _Padding:
    """One walk through the graph, in order."""

    def __init__(self, editor: Editor, log: MatchLog) -> None:
        self._editor = editor
        self._log = log
        self._rows: dict[ir.Value, _Rows] = {}
        self._cut: dict[ir.Value, ir.Value] = {}
        self._visited: set[ir.Node] = set()

    def run(self) -> None:
        for node in list(self._editor.graph):
            if is_op(node, "MatMul") and node.inputs[0] not in self._rows:
                self._start(node)
            if any(value in self._rows for value in node.inputs):
                self._visit(node)
            self._visited.add(node)
        for index, output in enumerate(list(self._editor.graph.outputs)):
            if output in self._rows:
                self._cut_output(index, output)
        for value, rows in self._rows.items():
            assert value.shape is not None
            value.shape = ir.Shape([*value.shape[: rows.axis], rows.padded, *value.shape[rows.axis + 1 :]])

    def _start(self, product: ir.Node) -> None:
        """Pad what a product with weights reads, as far ahead of it as nothing but this reads it."""
        found = _padded(product)
        if found is None:
            return
        batch, real, padded = found
        root = self._root(product)
        ahead = _between(root, product)
        uses = list(root.uses())
        dtype = root.dtype or ir.DataType.FLOAT
        channels = (sizes(root) or (None,))[-1] or 1
        zeros = np.zeros((batch, padded - real, channels), dtype.numpy())
        held = self._editor.initializer(zeros, f"{product.name}/rows")
        grown = self._editor.node(
            "Concat",
            [root, held],
            like=product,
            before=(*ahead, product)[0],
            attributes={"axis": 1},
            shape=root.shape.copy(),  # type: ignore[union-attr]
        )
        rows = _Rows(1, real, padded)
        self._rows[grown] = rows
        self._cut[grown] = root
        for use in uses:
            use.node.replace_input_with(use.idx, grown)
        # The norms between the root and the product have been walked past already.
        for node in ahead:
            self._rows[node.outputs[0]] = rows
        self._log.matched(product)

    def _root(self, product: ir.Node) -> ir.Value:
        """The stream ahead of the norms before a product, where nothing else has read what lies between."""
        value = product.inputs[0]
        assert value is not None
        root, ahead = value, set[ir.Node]()
        while (node := producer(value)) is not None and (node.op_type in NORMS or node.op_type in UNARY):
            inner = node.inputs[0]
            if inner is None or node.domain or sizes(inner) != sizes(value):
                break
            if any(use.node in self._visited and use.node not in ahead for use in value.uses()):
                break
            ahead.add(node)
            value = inner
            if not any(use.node in self._visited and use.node not in ahead for use in value.uses()):
                root = value
        return root

    def _visit(self, node: ir.Node) -> None:
        mine = {
            value: self._rows[value] for value in node.inputs if value is not None and value in self._rows
        }
        lengths = {(rows.real, rows.padded) for rows in mine.values()}
        try:
            if len(lengths) > 1:
                raise Obstacle("its inputs have different rows")
            step = read(node, {value: rows.axis for value, rows in mine.items()})
        except Obstacle:
            for value in mine:
                self._replace(node, value, self._real(value))
            return
        if is_op(node, "Attention"):
            for operand in dict.fromkeys(node.inputs[1:3]):
                if operand in mine:
                    assert operand is not None
                    self._replace(node, operand, self._real(operand))
        [(real, padded)] = lengths
        for edit in step.edits:
            edit(self._editor, padded)
        for value, axis in step.carries.items():
            self._rows[value] = _Rows(axis, real, padded)

    def _real(self, value: ir.Value) -> ir.Value:
        """The value without the rows of zeros."""
        if value in self._cut:
            return self._cut[value]
        rows = self._rows[value]
        made = value.producer()
        assert made is not None
        turned = is_op(made, "Transpose") and made.inputs[0] in self._rows
        if turned and not any(use.node in self._visited for use in value.uses()):
            # Ahead of the transpose the cut is a plain copy, and the transpose has fewer rows to move.
            source = made.inputs[0]
            assert source is not None
            made.replace_input_with(0, self._real(source))
            del self._rows[value]
            return value
        assert value.shape is not None
        ints = [self._editor.initializer(np.array([n], np.int64), "rows") for n in (0, rows.real, rows.axis)]
        cut = self._editor.node(
            "Slice", [value, *ints], like=made, after=made, shape=value.shape.copy(), dtype=value.dtype
        )
        self._cut[value] = cut
        return cut

    def _replace(self, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
        for index, value in enumerate(node.inputs):
            if value is old and new is not old:
                node.replace_input_with(index, new)

    def _cut_output(self, index: int, output: ir.Value) -> None:
        real = self._real(output)
        name = output.name
        self._editor.graph.outputs[index] = real
        output.name = self._editor.fresh_name(f"{name}_padded")
        real.name = name


def _between(root: ir.Value, product: ir.Node) -> list[ir.Node]:
    """The nodes from a root to the product behind it."""
    nodes: list[ir.Node] = []
    value = product.inputs[0]
    while value is not root:
        node = producer(value)
        assert node is not None
        nodes.append(node)
        value = node.inputs[0]
    return nodes[::-1]
