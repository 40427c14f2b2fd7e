"""One sweep through a graph that reduces its tokens at some sites and lets everything behind follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

import edgec.plugins.token_merge.op
import edgec.plugins.token_prune.op
import edgec.plugins.token_restore.op  # noqa: F401 - registers the ops that are inserted here
from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.passes.editing import Editor, attribute, sizes
from edgec.passes.infra import MatchLog
from edgec.passes.tokens.flow import Obstacle, read, restorable
from edgec.passes.tokens.sites import Site

LARGEST_EMPTY = 1.0e-20
"""What a size of 0 counts as in the attention's bias: its logarithm, -46, leaves nothing of a softmax."""

PADDED_BELOW = -30.0
"""An additive mask below this hides a key: its weight is under 1e-13 of an unmasked one's."""


@dataclasses.dataclass
class Level:
    """The tokens between one reduction and the next.

    Attributes:
        length: how many there are.
        sizes: (B, length, 1) float32.
        assignment: (B, N) int32, from all tokens to these.
        anchor: the node behind which nodes that describe the level can stand.
        bias: (B, 1, 1, length), the logarithm of the sizes, once made.
    """

    length: int
    sizes: ir.Value
    assignment: ir.Value
    anchor: ir.Node
    bias: ir.Value | None = None


Reduce = Callable[["Sweep", Site, ir.Value, ir.Value, int], ir.Value]
"""Inserts the reducing op at a site and returns its first output.

Given the sweep, the site, the stream, its sizes, and r."""


class Sweep:
    """Reduces a graph's tokens.

    Args:
        editor: of the graph.
        reductions: r by site; r is positive.
        reduce: makes the reducing op.
        restore: the site at which all tokens are restored, where they are not yet.
        proportional: let attention weigh a token by its size (ToMe's proportional attention).
    """

    def __init__(
        self,
        editor: Editor,
        reductions: Sequence[tuple[Site, int]],
        reduce: Reduce,
        *,
        restore: Site | None = None,
        proportional: bool = True,
    ) -> None:
        self.editor = editor
        self.reduce = reduce
        self.proportional = proportional
        self._due = {site.stream: (site, r) for site, r in reductions}
        self._restore_at = None if restore is None else restore.stream
        self._carries: dict[ir.Value, tuple[int, Level]] = {}
        self._restored: dict[ir.Value, ir.Value] = {}
        self._behind: ir.Node | None = None

    def run(self, log: MatchLog) -> None:
        """Edit the graph in place."""
        for node in list(self.editor.graph):
            if node.domain != EDGEC_DOMAIN and any(value in self._carries for value in node.inputs):
                self._visit(node)
            self._stream(node, log)
        for value in list(self.editor.graph.outputs):
            if value in self._carries:
                self._restore_output(value)
        for value, (axis, level) in self._carries.items():
            assert value.shape is not None
            value.shape = ir.Shape([*value.shape[:axis], level.length, *value.shape[axis + 1 :]])

    def insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        like: ir.Node,
        attributes: Mapping[str, object] | None = None,
        domain: str = "",
        shape: Sequence[int | str | ir.SymbolicDim] | ir.Shape | None = None,
        dtype: ir.DataType | None = None,
        outputs: int = 1,
    ) -> ir.Value:
        """A node behind the last one that was inserted or visited; its first output."""
        value = self.editor.node(
            op_type,
            inputs,
            like=like,
            attributes=attributes,
            domain=domain,
            shape=shape,
            dtype=dtype,
            outputs=outputs,
        )
        made = value.producer()
        assert made is not None
        assert self._behind is not None
        self.editor.graph.remove(made)
        self.editor.graph.insert_after(self._behind, made)
        self._behind = made
        return value

    def length(self, site: Site) -> int:
        """How many tokens the site's stream has by now."""
        found = self._carries.get(site.stream)
        return site.length if found is None else found[1].length

    def ints(self, values: Sequence[int], stem: str) -> ir.Value:
        """An int64 constant."""
        return self.editor.initializer(np.array(values, np.int64), stem)

    def _stream(self, node: ir.Node, log: MatchLog) -> None:
        if self._restore_at in self._carries and self._restore_at in node.outputs:
            reduced_stream = self._restore_at
            assert reduced_stream is not None
            uses = list(reduced_stream.uses())
            restored = self._restore(reduced_stream)
            for use in uses:
                use.node.replace_input_with(use.idx, restored)
            return
        due = next((self._due[value] for value in node.outputs if value in self._due), None)
        if due is None:
            return
        site, r = due
        stream = site.stream
        before = self._carries.get(stream)
        self._behind = node
        old = before[1] if before is not None else None
        token_sizes = old.sizes if old is not None else initial_sizes(self, site)
        uses = list(stream.uses())
        merged = self.reduce(self, site, stream, token_sizes, r)
        made = merged.producer()
        assert made is not None
        for use in uses:
            use.node.replace_input_with(use.idx, merged)
        batch, _, channels = stream.shape  # type: ignore[misc]
        length = self.length(site) - r
        merged.shape, merged.type = ir.Shape([batch, site.length, channels]), stream.type
        new_sizes, assignment = made.outputs[1], made.outputs[2]
        new_sizes.shape, new_sizes.type = ir.Shape([batch, length, 1]), ir.TensorType(ir.DataType.FLOAT)
        assignment.shape = ir.Shape([batch, length + r])
        assignment.type = ir.TensorType(ir.DataType.INT32)
        if old is not None:
            assignment = self.insert(
                "GatherElements",
                [assignment, old.assignment],
                like=site.attention,
                attributes={"axis": 1},
                shape=[batch, site.length],
            )
        assert self._behind is not None
        level = Level(length, new_sizes, assignment, self._behind)
        self._carries[merged] = (1, level)
        log.matched(site.attention)

    def _visit(self, node: ir.Node) -> None:
        mine = {value: self._carries[value] for value in node.inputs if value in self._carries}  # type: ignore[index]
        levels = {id(level): level for _, level in mine.values()}
        try:
            if len(levels) > 1:
                raise Obstacle("its inputs have different tokens")
            step = read(node, {value: axis for value, (axis, _) in mine.items()})  # type: ignore[misc]
        except Obstacle:
            for value in mine:
                assert value is not None
                self._replace_input(node, value, self._restore(value))
            return
        level = next(iter(levels.values()))
        for edit in step.edits:
            edit(self.editor, level.length)
        if is_op(node, "Attention") and node.inputs[1] in mine:
            self._weigh(node, level)
        for value, axis in step.carries.items():
            self._carries[value] = (axis, level)

    def _weigh(self, attention: ir.Node, level: Level) -> None:
        has_mask = len(attention.inputs) > 3 and attention.inputs[3] is not None
        if not self.proportional and not has_mask:
            return
        bias = self.bias(level, attention)
        if len(attention.inputs) > 3:
            attention.replace_input_with(3, bias)
        else:
            attention.resize_inputs(4)
            attention.replace_input_with(3, bias)

    def bias(self, level: Level, like: ir.Node) -> ir.Value:
        """The logarithm of a level's sizes as an additive mask."""
        if level.bias is not None:
            return level.bias
        self._behind = level.anchor
        batch = level.sizes.shape[0]  # type: ignore[index]
        floor = self.editor.initializer(np.array(LARGEST_EMPTY, np.float32), "smallest_size")
        shape = [batch, level.length, 1]
        bounded = self.insert("Max", [level.sizes, floor], like=like, shape=shape)
        logarithm = self.insert("Log", [bounded], like=like, shape=shape)
        target = self.ints([0, 1, 1, level.length], "size_bias_shape")
        bias = self.insert("Reshape", [logarithm, target], like=like, shape=[batch, 1, 1, level.length])
        dtype = like.inputs[0].dtype  # type: ignore[union-attr]
        if dtype is not None and dtype != ir.DataType.FLOAT:
            bias = self.insert(
                "Cast", [bias], like=like, attributes={"to": int(dtype)}, shape=bias.shape, dtype=dtype
            )
        level.bias = bias
        return bias

    def _replace_input(self, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
        for index, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(index, new)

    def _restore(self, value: ir.Value) -> ir.Value:
        """The value with all tokens."""
        if value in self._restored:
            return self._restored[value]
        axis, level = self._carries[value]
        assert restorable(value, axis)
        anchor = value.producer()
        assert anchor is not None
        self._behind = self._later(anchor, level.anchor)
        full = value.shape
        assert full is not None
        source = value
        if axis == 2:
            turned = [full[0], full[2], full[1]]
            source = self.insert(
                "Transpose", [value], like=anchor, attributes={"perm": [0, 2, 1]}, shape=turned
            )
            self._carries[source] = (1, level)
        restored = self.insert(
            "TokenRestore",
            [source, level.assignment],
            like=anchor,
            domain=EDGEC_DOMAIN,
            shape=[full[0], full[axis], full[3 - axis]],
            dtype=value.dtype,
        )
        if axis == 2:
            restored = self.insert(
                "Transpose", [restored], like=anchor, attributes={"perm": [0, 2, 1]}, shape=full
            )
        self._restored[value] = restored
        return restored

    def _later(self, one: ir.Node, other: ir.Node) -> ir.Node:
        for node in self.editor.graph:
            if node is one:
                return other
            if node is other:
                return one
        raise AssertionError("neither node is in the graph")

    def _restore_output(self, value: ir.Value) -> None:
        restored = self._restore(value)
        for index, output in enumerate(self.editor.graph.outputs):
            if output is value:
                self.editor.graph.outputs[index] = restored
        name = value.name
        value.name = self.editor.fresh_name(f"{name}_reduced")
        restored.name = name


def initial_sizes(sweep: Sweep, site: Site) -> ir.Value:
    """Sizes before the first reduction: 1, or 0 where the attention's padding mask hides the token."""
    stream, mask = site.stream, site.mask
    batch, length = sizes(stream)[0], site.length  # type: ignore[index]
    assert batch is not None
    shape = [batch, length, 1]
    if mask is None:
        return sweep.editor.initializer(np.ones(shape, np.float32), "token_sizes")
    known = sizes(mask)
    assert known is not None
    if mask.dtype == ir.DataType.BOOL:
        visible = mask
    else:
        bound = sweep.editor.initializer(
            np.array(PADDED_BELOW, mask.dtype.numpy() if mask.dtype else np.float32), "padded_below"
        )
        visible = sweep.insert(
            "Greater", [mask, bound], like=site.attention, shape=mask.shape, dtype=ir.DataType.BOOL
        )
    number = sweep.insert(
        "Cast",
        [visible],
        like=site.attention,
        attributes={"to": 1},
        shape=mask.shape,
        dtype=ir.DataType.FLOAT,
    )
    own = known[0] if len(known) == 4 else 1
    column = sweep.insert(
        "Reshape",
        [number, sweep.ints([own, length, 1], "column")],  # type: ignore[list-item]
        like=site.attention,
        shape=[own, length, 1],  # type: ignore[list-item]
    )
    if own == batch:
        return column
    return sweep.insert(
        "Expand", [column, sweep.ints([batch, length, 1], "shape")], like=site.attention, shape=shape
    )


def class_attention(sweep: Sweep, site: Site, bias: ir.Value | None) -> ir.Value:
    """(B, N): the attention that each token gets, mean over heads, from the class token or from all.

    The class token is token 0 where any token is protected; without one, all queries are averaged (Learned
    Token Pruning, arXiv 2107.00910).
    """
    node = site.attention
    query, key = node.inputs[0], node.inputs[1]
    assert query is not None
    assert query.shape is not None
    assert key is not None
    assert key.shape is not None
    batch, heads, _, depth = query.shape
    length = sweep.length(site)
    rows = length
    if site.protected:
        rows = 1
        query = sweep.insert(
            "Slice",
            [query, sweep.ints([0], "start"), sweep.ints([1], "end"), sweep.ints([2], "axis")],
            like=node,
            shape=[batch, heads, 1, depth],
        )
    turned = sweep.insert(
        "Transpose", [key], like=node, attributes={"perm": [0, 1, 3, 2]}, shape=[batch, heads, depth, length]
    )
    shape = [batch, heads, rows, length]
    logits = sweep.insert("MatMul", [query, turned], like=node, shape=shape)
    assert isinstance(depth, int)
    scale = attribute(node, "scale") or depth**-0.5
    numpy_type = logits.dtype.numpy() if logits.dtype else np.float32
    factor = sweep.editor.initializer(np.array(scale, numpy_type), "scale")
    logits = sweep.insert("Mul", [logits, factor], like=node, shape=shape)
    if bias is not None and bias.dtype == ir.DataType.BOOL:
        hidden = sweep.editor.initializer(np.array(-1e4, numpy_type), "hidden")
        logits = sweep.insert("Where", [bias, logits, hidden], like=node, shape=shape, dtype=logits.dtype)
    elif bias is not None:
        logits = sweep.insert("Add", [logits, bias], like=node, shape=shape)
    weights = sweep.insert("Softmax", [logits], like=node, attributes={"axis": -1}, shape=shape)
    return sweep.insert(
        "ReduceMean",
        [weights, sweep.ints([1, 2], "axes")],
        like=node,
        attributes={"keepdims": 0},
        shape=[batch, length],
    )
