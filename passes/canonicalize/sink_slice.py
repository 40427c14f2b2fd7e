"""Compute only the rows that are read."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.canonicalize.rows import Needs, Rows, index_array, is_few, joined, needs, taken, works
from edgec.passes.editing import Editor, attribute, constant, sizes
from edgec.passes.fuse.linear import Linear, linear
from edgec.passes.fuse.matching import other_readers
from edgec.passes.infra import MatchLog, Pass, Refusal, register


@register
class SinkSlice(Pass):
    """Carry a selection of rows up to where all rows are needed.

    ::

        x [1,197,C] ── Q, K, V ── Attention ── Add ── LayerNorm ── MLP ── … ── LayerNorm ── Gather(0) ── head

            ⇒      x ──┬── K, V of all rows ───────────────┐
                       └── Slice(row 0) ── Q of one row ── Attention ── Add ── LayerNorm ── MLP ── … ── head

    Behind the last attention a class token is alone: norms, products with weights, residuals,
    activations and the attention's queries treat each row by itself, so only the rows that the head
    reads are computed. A packed projection of queries, keys and values is parted, its columns for
    the queries see the few rows and the others all. The demand for rows is collected from the
    outputs back to the inputs, so that several readers (two tokens of a distilled model) share what
    they need. Rows are followed only where they are at most half of all. Exact: no number changes
    but by the blocking of smaller products.
    """

    name = "canonicalize.sink_slice"
    after = ("canonicalize.layout", "fuse.attention", "fuse.layer_norm", "fuse.matmul_add")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a node that computes fewer rows."""
        _Sinking(Editor(model, self.name, log)).run()


class _Sinking:
    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.demand: dict[ir.Value, Rows | None] = {}
        self.narrow: dict[ir.Value, ir.Value] = {}
        self.slices: dict[tuple[ir.Value, Rows], ir.Value] = {}
        self.parts: dict[ir.Node, Linear] = {}
        """Splits of packed projections that can be parted, with the projection."""

    def run(self) -> None:
        carried = self._collect()
        gainful = self._gainful(carried)
        for node in list(self.editor.graph):
            if node in self.parts:
                self._part(node, self.parts[node])
            elif node in gainful:
                self._narrow(node, carried[node])
            elif taken(node) is not None:
                self._take_again(node)
        self.editor.remove_dead()

    def _want(self, value: ir.Value | None, rows: Rows | None) -> None:
        if value is None or (rows is not None and not rows.index):
            return
        if rows is not None and not is_few(value, rows):
            rows = None
        self.demand[value] = joined(self.demand[value], rows) if value in self.demand else rows
        found = self.demand[value]
        if found is not None and not is_few(value, found):
            self.demand[value] = None

    def _collect(self) -> dict[ir.Node, Needs]:
        """Walk from the outputs back; the nodes whose output may be narrowed, and what they then need."""
        graph = self.editor.graph
        for value in graph.outputs:
            self.demand[value] = None
        for inner in graph.all_nodes():
            if inner.graph is not graph:
                # Bodies read whole values from outside.
                for captured in inner.inputs:
                    self._want(captured, None)
        carried: dict[ir.Node, Needs] = {}
        for node in reversed(graph):
            if not any(value in self.demand for value in node.outputs):
                continue  # nobody needs it
            rows = self._read_of(node)
            found = None if rows is None else self._needs(node, rows)
            if found is not None:
                carried[node] = found
                for operand, need in zip(node.inputs, found, strict=True):
                    self._want(operand, need)
                continue
            selection = taken(node)
            for position, operand in enumerate(node.inputs):
                self._want(operand, selection if position == 0 else None)
        return carried

    def _read_of(self, node: ir.Node) -> Rows | None:
        """The rows that are read of a node's outputs: of a Split the same of all parts. None for all."""
        if not is_op(node, "Split"):
            rows = self.demand.get(node.outputs[0])
            if rows is not None and not _rest_unread(node):
                self._refused(node, rows, "another of its outputs is read")
                return None
            return rows
        read = [value for value in node.outputs if value in self.demand]
        rows = functools.reduce(joined, [self.demand[value] for value in read])
        if rows is None or not all(is_few(value, rows) for value in read):
            return None
        self.demand.update(dict.fromkeys(read, rows))
        return rows

    def _needs(self, node: ir.Node, rows: Rows) -> Needs | None:
        try:
            return needs(node, rows)
        except Refusal as refusal:
            self._refused(node, rows, refusal.reason)
            return None

    def _refused(self, node: ir.Node, rows: Rows, reason: str) -> None:
        read = f"only {len(rows.index)} of its {_size(node.outputs[0], rows)} rows are read"
        self.editor.log.missed(node, f"{read}; {reason}")

    def _gainful(self, carried: dict[ir.Node, Needs]) -> set[ir.Node]:
        """The carried nodes that work, that skip an operand, or that move what such a node made."""
        gainful: set[ir.Node] = set()
        for node in self.editor.graph:
            if is_op(node, "Split"):
                layer = self._packed(node)
                if layer is not None:
                    self.parts[node] = layer
                    gainful.add(node)
            if node not in carried or not self._few(node):
                continue
            makers = [
                value.producer()
                for value, need in zip(node.inputs, carried[node], strict=True)
                if value is not None and need is not None
            ]
            skips = any(need is not None and not need.index for need in carried[node])
            if skips or works(node) or any(maker in gainful for maker in makers if maker is not None):
                gainful.add(node)
        return gainful

    def _rows_of(self, value: ir.Value, rows: Rows, node: ir.Node) -> ir.Value:
        """The rows of a value: from its narrowed twin where it has one."""
        array = constant(value)
        if array is not None:
            return self.editor.initializer(np.take(array, rows.index, rows.axis), f"{value.name}_rows")
        twin, held = self.narrow.get(value), self.demand.get(value)
        if twin is not None and held is not None:
            if held == rows:
                return twin
            value, rows = twin, Rows(rows.axis, tuple(held.index.index(row) for row in rows.index))
        known = self.slices.get((value, rows))
        if known is None:
            known = self.slices[value, rows] = self._slice(value, rows, node)
        return known

    def _slice(self, value: ir.Value, rows: Rows, node: ir.Node) -> ir.Value:
        assert value.shape is not None
        shape = _resized(value.shape, rows)
        stem = f"{node.name or node.op_type}/rows"
        first, last = rows.index[0], rows.index[-1]
        if rows.index == tuple(range(first, last + 1)):
            bounds = [
                self.editor.initializer(np.array([number], np.int64), stem)
                for number in (first, last + 1, rows.axis)
            ]
            return self.editor.node("Slice", [value, *bounds], like=node, shape=shape, dtype=value.dtype)
        index = self.editor.initializer(index_array(rows), stem)
        return self.editor.node(
            "Gather",
            [value, index],
            like=node,
            attributes={"axis": rows.axis},
            shape=shape,
            dtype=value.dtype,
        )

    def _narrow(self, node: ir.Node, found: Needs) -> None:
        """Make the node again for the rows that are read."""
        out = node.outputs[self._few(node)[0]]
        rows = self.demand[out]
        assert rows is not None
        assert out.shape is not None
        operands = [
            value
            if value is None or need is None
            else self._rows_of(value, need, node)
            if need.index
            else None
            for value, need in zip(node.inputs, found, strict=True)
        ]
        attributes = {name: attr.value for name, attr in node.attributes.items()}
        shape = _resized(out.shape, rows)
        if is_op(node, "Reshape"):
            target = np.array([size if isinstance(size, int) else -1 for size in shape], np.int64)
            operands[1] = self.editor.initializer(target, f"{node.name or 'Reshape'}/shape")
        elif is_op(node, "Concat"):
            operands = [operand for operand in operands if operand is not None]
            if len(operands) == 1 and attributes["axis"] % len(shape) == rows.axis:
                assert operands[0] is not None
                self.narrow[out] = operands[0]
                return
        elif is_op(node, "Attention"):
            attributes.pop("is_causal", None)
        made = self.editor.node(
            node.op_type,
            operands,
            like=node,
            attributes=attributes,
            shape=shape,
            dtype=out.dtype,
            outputs=len(node.outputs) if is_op(node, "Split") else 1,
        )
        maker = made.producer()
        assert maker is not None
        # What other passes noted on the node holds for fewer rows as well.
        for key, note in node.metadata_props.items():
            maker.metadata_props.setdefault(key, note)
        for old, new in zip(node.outputs, maker.outputs, strict=False):
            if old.shape is not None:
                new.shape, new.type = ir.Shape(_resized(old.shape, rows)), old.type
                self.narrow[old] = new
        if works(node):
            self.editor.log.matched(node)

    def _few(self, node: ir.Node) -> list[int]:
        return [place for place, value in enumerate(node.outputs) if self.demand.get(value) is not None]

    def _packed(self, node: ir.Node) -> Linear | None:
        """The projection whose outputs a Split parts, if some of its parts need few rows and others all."""
        layer, source, few = linear(node.inputs[0]), node.inputs[0], self._few(node)
        read = [place for place, value in enumerate(node.outputs) if value in self.demand]
        if layer is None or source is None or source.shape is None or not few or few == read:
            return None
        last = len(source.shape) - 1
        if int(attribute(node, "axis", 0)) % (last + 1) != last:
            return None
        if len(node.inputs) < 2 or constant(node.inputs[1]) is None:
            return None
        if any((need := self.demand[node.outputs[place]]) is None or need.axis == last for place in few):
            return None
        reason = other_readers(source, node)
        if reason is None and layer.add is not None:
            reason = other_readers(layer.matmul.outputs[0], layer.add)
        if reason is not None:
            self.editor.log.missed(node, f"few rows of a part are read, but {reason}")
            return None
        return layer

    def _part(self, node: ir.Node, layer: Linear) -> None:
        """Give the few-row parts of a packed projection a projection of their own."""
        few = self._few(node)
        read = [place for place, value in enumerate(node.outputs) if value in self.demand]
        rows = {place: self.demand[node.outputs[place]] for place in few}
        lengths = constant(node.inputs[1])
        assert lengths is not None
        edges = np.cumsum([0, *lengths.tolist()])
        columns = [np.arange(edges[position], edges[position + 1]) for position in range(len(node.outputs))]
        x = layer.matmul.inputs[0]
        assert x is not None
        for position in few:
            need = rows[position]
            assert need is not None
            part = self._project(node, layer, self._rows_of(x, need, node), columns[position])
            self.narrow[node.outputs[position]] = part
        rest = [position for position in read if position not in few]
        whole = self._project(node, layer, x, np.concatenate([columns[position] for position in rest]))
        self._split_rest(node, whole, rest, lengths)
        self.editor.log.matched(layer.matmul)

    def _project(self, node: ir.Node, layer: Linear, x: ir.Value, columns: np.ndarray) -> ir.Value:
        assert x.shape is not None
        shape = [*list(x.shape)[:-1], len(columns)]
        stem = layer.matmul.name or "MatMul"
        weight = self.editor.initializer(layer.weight[:, columns], f"{stem}/weight")
        made = self.editor.node("MatMul", [x, weight], like=layer.matmul, before=node, shape=shape)
        if layer.bias is None:
            return made
        bias = self.editor.initializer(layer.bias[columns], f"{stem}/bias")
        return self.editor.node("Add", [made, bias], like=layer.matmul, before=node, shape=shape)

    def _split_rest(self, node: ir.Node, whole: ir.Value, rest: Sequence[int], lengths: np.ndarray) -> None:
        if len(rest) == 1:
            self.editor.replace(node.outputs[rest[0]], whole)
            return
        assert whole.shape is not None
        vector = self.editor.initializer(lengths[list(rest)], f"{node.name or 'Split'}/sizes")
        made = self.editor.node(
            "Split",
            [whole, vector],
            like=node,
            attributes={"axis": len(whole.shape) - 1},
            outputs=len(rest),
            dtype=whole.dtype,
        )
        split = made.producer()
        assert split is not None
        for position, part in zip(rest, split.outputs, strict=True):
            old = node.outputs[position]
            part.shape, part.type = old.shape, old.type
            self.editor.replace(old, part)

    def _take_again(self, node: ir.Node) -> None:
        """Let a selection read the narrowed twin of its value."""
        value, own = node.inputs[0], taken(node)
        twin = None if value is None else self.narrow.get(value)
        held = None if value is None else self.demand.get(value)
        if twin is None or held is None or own is None or own.axis != held.axis:
            return
        out = node.outputs[0]
        order = _order(node, own, sizes(value))
        places = np.array([held.index.index(row) for row in order], np.int64)
        drops = is_op(node, "Gather") and len(out.shape or ()) < len(twin.shape or ())
        index = self.editor.initializer(
            places.reshape(()) if drops else places, f"{node.name or node.op_type}/rows"
        )
        made = self.editor.node(
            "Gather",
            [twin, index],
            like=node,
            attributes={"axis": own.axis},
            shape=out.shape,
            dtype=out.dtype,
        )
        self.editor.replace(out, made)


def _order(node: ir.Node, own: Rows, shape: tuple[int | None, ...] | None) -> list[int]:
    """The rows a selection takes, in its own order and with its repeats."""
    if is_op(node, "Gather"):
        index = constant(node.inputs[1])
        size = None if shape is None else shape[own.axis]
        assert index is not None
        assert size is not None
        return [int(number) % size for number in index.reshape(-1)]
    return list(own.index)


def _size(value: ir.Value, rows: Rows) -> int | str:
    """How many rows there are; a name where that is open."""
    size = None if value.shape is None else value.shape[rows.axis]
    return size if isinstance(size, int) else str(size)


def _rest_unread(node: ir.Node) -> bool:
    return not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def _resized(shape: ir.Shape, rows: Rows) -> list[int | ir.SymbolicDim]:
    return [len(rows.index) if axis == rows.axis else size for axis, size in enumerate(shape)]
