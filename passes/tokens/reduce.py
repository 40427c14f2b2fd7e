"""One sweep through a graph that reduces its tokens at some sites and lets everything behind follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.passes.editing import Editor, constant, sizes
from edgec.passes.infra import MatchLog
from edgec.passes.tokens.flow import pass_on, restorable
from edgec.passes.tokens.importance import initial_sizes
from edgec.passes.tokens.readers import Obstacle
from edgec.passes.tokens.sites import Site

LARGEST_EMPTY = 1.0e-20
"""What a size of 0 counts as in the attention's bias: its logarithm, -46, leaves nothing of a softmax."""


@dataclasses.dataclass(eq=False)
class Level:
    """The tokens between one reduction and the next.

    Attributes:
        length: how many there are.
        sizes: (B, length, 1) float32.
        spread: how all tokens are told from these: an assignment (B, N) int32, or shares (B, N, length).
        anchor: the node behind which nodes that describe the level can stand.
        made: the reducing op.
        before: the tokens that it took; None for all tokens.
        bias: (B, 1, 1, length), the logarithm of the sizes, once made.
        places: (B, length) int64, of which of all tokens each has the place, once made.
    """

    length: int
    sizes: ir.Value
    spread: ir.Value
    anchor: ir.Node
    made: ir.Node
    before: Level | None = None
    bias: ir.Value | None = None
    places: ir.Value | None = None

    @property
    def soft(self) -> bool:
        """Whether each token is a mixture of these, not one of them."""
        return self.spread.dtype == ir.DataType.FLOAT


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
        self._first_sizes: dict[ir.Value, ir.Value] = {}
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

    def stand_behind(self, node: ir.Node) -> None:
        """Let the next `insert` stand behind the node."""
        self._behind = node

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

    def sizes(self, site: Site) -> ir.Value:
        """The sizes (B, length, 1) of the tokens that the site's stream has by now."""
        found = self._carries.get(site.stream)
        if found is not None:
            return found[1].sizes
        if site.stream not in self._first_sizes:
            self._first_sizes[site.stream] = initial_sizes(self, site)
        return self._first_sizes[site.stream]

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
        uses = list(stream.uses())
        reduced = self.reduce(self, site, stream, self.sizes(site), r)
        made = reduced.producer()
        assert made is not None
        for use in uses:
            use.node.replace_input_with(use.idx, reduced)
        batch, _, channels = stream.shape  # type: ignore[misc]
        whole = self.length(site)
        length = whole - r
        reduced.shape, reduced.type = ir.Shape([batch, site.length, channels]), stream.type
        new_sizes, spread = made.outputs[1], made.outputs[2]
        new_sizes.shape, new_sizes.type = ir.Shape([batch, length, 1]), ir.TensorType(ir.DataType.FLOAT)
        soft = made.op_type == "TokenTransform"
        spread.shape = ir.Shape([batch, whole, length] if soft else [batch, whole])
        spread.type = ir.TensorType(ir.DataType.FLOAT if soft else ir.DataType.INT32)
        if before is not None:
            spread = self._through(before[1].spread, spread, site)
        assert self._behind is not None
        level = Level(length, new_sizes, spread, self._behind, made, before[1] if before else None)
        self._carries[reduced] = (1, level)
        log.matched(site.attention)

    def _through(self, first: ir.Value, second: ir.Value, site: Site) -> ir.Value:
        """From all tokens by the first reduction and on by the second; both of one kind."""
        batch, whole = first.shape[:2]  # type: ignore[index]
        if first.dtype == ir.DataType.FLOAT:
            shape = [batch, whole, second.shape[2]]  # type: ignore[index]
            return self.insert("MatMul", [first, second], like=site.attention, shape=shape)
        return self.insert(
            "GatherElements",
            [second, first],
            like=site.attention,
            attributes={"axis": 1},
            shape=[batch, whole],
        )

    def _visit(self, node: ir.Node) -> None:
        mine = {value: self._carries[value] for value in node.inputs if value in self._carries}  # type: ignore[index]
        try:
            step, made = pass_on(node, self._carries)
        except Obstacle:
            for value in mine:
                assert value is not None
                self._replace_input(node, value, self._restore(value))
            return
        level = next(iter(mine.values()))[1]
        for edit in step.edits:
            edit(self.editor, level.length)
        if is_op(node, "Attention") and node.inputs[1] in mine:
            self._weigh(node, mine[node.inputs[1]][1])
        if is_op(node, "RotaryEmbedding"):
            self._turn(node, level)
            made = {self._by_sample(node, level): each for each in made.values()}
        self._carries.update(made)

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

    def _turn(self, rotary: ir.Node, level: Level) -> None:
        """Give each token the angle of its place."""
        places = self.places(level, rotary)
        batch = places.shape[0]  # type: ignore[index]
        self._behind = level.anchor
        for given in rotary.inputs[1:]:
            maker = None if given is None else given.producer()
            if maker is not None:
                self._behind = self._later(self._behind, maker)
        positions = rotary.inputs[3] if len(rotary.inputs) > 3 else None
        if positions is not None:
            moved = self.insert(
                "GatherElements",
                [positions, places],
                like=rotary,
                attributes={"axis": 1},
                shape=[batch, level.length],
            )
            rotary.replace_input_with(3, moved)
            return
        for index in (1, 2):
            cache = rotary.inputs[index]
            assert cache is not None
            array = constant(cache)
            width = sizes(cache)[2]  # type: ignore[index]
            if array is not None:
                table = self.editor.initializer(array[0], f"{cache.name}_by_place")
            else:
                table = self.insert(
                    "Squeeze",
                    [cache, self.ints([0], "axes")],
                    like=rotary,
                    shape=list(cache.shape)[1:],  # type: ignore[arg-type]
                )
            shape = [batch, level.length, width or ir.SymbolicDim(None)]
            turned = self.insert("Gather", [table, places], like=rotary, attributes={"axis": 0}, shape=shape)
            rotary.replace_input_with(index, turned)

    def _by_sample(self, rotary: ir.Node, level: Level) -> ir.Value:
        """Give a rotation one row a sample where its rows hold heads or its heads samples; its result."""
        given, turned = rotary.inputs[0], rotary.outputs[0]
        batch = level.sizes.shape[0]  # type: ignore[index]
        shape = sizes(given)
        assert given is not None
        assert isinstance(batch, int)
        if shape is None or shape[0] == batch:
            return turned
        rows, heads, _, depth = (int(size or 0) for size in shape)
        grouped = [batch, rows * heads // batch, level.length, depth]
        maker = given.producer()
        self._behind = maker if maker is not None else level.anchor
        parted = self.insert("Reshape", [given, self.ints(grouped, "samples")], like=rotary, shape=grouped)
        rotary.replace_input_with(0, parted)
        uses = list(turned.uses())
        turned.shape = ir.Shape(grouped)
        self._behind = rotary
        whole = [rows, heads, level.length, depth]
        joined = self.insert("Reshape", [turned, self.ints(whole, "rows")], like=rotary, shape=whole)
        for use in uses:
            use.node.replace_input_with(use.idx, joined)
        return joined

    def places(self, level: Level, like: ir.Node) -> ir.Value:
        """(B, length) int64: where among all tokens each has its place.

        It is that of the largest token in it, the first among equals; where tokens leave by importance, that
        of the most important one, which is the one that stayed.
        """
        if level.places is not None:
            return level.places
        earlier = None if level.before is None else self.places(level.before, like)
        self._behind = level.anchor
        made, batch = level.made, level.sizes.shape[0]  # type: ignore[index]
        soft = made.op_type == "TokenTransform"
        whole = made.outputs[2].shape[1]  # type: ignore[index]
        if soft:
            own = made.outputs[2]
        else:
            weight = made.inputs[1] if made.op_type == "TokenPrune" else made.inputs[-1]
            assert weight is not None
            row = self.insert(
                "Reshape", [weight, self.ints([0, 1, -1], "row")], like=like, shape=[batch, 1, whole]
            )  # type: ignore[list-item]
            slots = self.editor.initializer(np.arange(level.length, dtype=np.int32)[:, None], "slots")
            target = self.insert(
                "Unsqueeze",
                [made.outputs[2], self.ints([1], "axis")],
                like=like,
                shape=[batch, 1, whole],
                dtype=ir.DataType.INT32,
            )
            shape = [batch, level.length, whole]
            member = self.insert("Equal", [target, slots], like=like, shape=shape, dtype=ir.DataType.BOOL)
            least = self.editor.initializer(np.array(-3.0e38, np.float32), "least")
            own = self.insert("Where", [member, row, least], like=like, shape=shape, dtype=row.dtype)
        places = self.insert(
            "ArgMax",
            [own],
            like=like,
            attributes={"axis": 1 if soft else 2, "keepdims": 0},
            shape=[batch, level.length],
            dtype=ir.DataType.INT64,
        )
        if earlier is not None:
            places = self.insert(
                "GatherElements",
                [earlier, places],
                like=like,
                attributes={"axis": 1},
                shape=[batch, level.length],
            )
        level.places = places
        level.anchor = self._behind
        return places

    def bias(self, level: Level, like: ir.Node) -> ir.Value:
        """The logarithm of a level's sizes as an additive mask."""
        if level.bias is not None:
            return level.bias
        self._behind = level.anchor
        batch = level.sizes.shape[0]  # type: ignore[index]
        floor = self.editor.initializer(np.array(LARGEST_EMPTY, np.float32), "smallest_size")
        shape = [batch, level.length, 1]
        weight = level.sizes
        if not self.proportional:  # what is there counts once, padding not at all
            once = self.editor.initializer(np.array(1.0, np.float32), "one_each")
            weight = self.insert("Min", [weight, once], like=like, shape=shape)
        bounded = self.insert("Max", [weight, floor], like=like, shape=shape)
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
        restored = self._spread(source, level, [full[0], full[axis], full[3 - axis]], anchor)
        if axis == 2:
            restored = self.insert(
                "Transpose", [restored], like=anchor, attributes={"perm": [0, 2, 1]}, shape=full
            )
        self._restored[value] = restored
        return restored

    def _spread(
        self, source: ir.Value, level: Level, shape: Sequence[int | ir.SymbolicDim], like: ir.Node
    ) -> ir.Value:
        if not level.soft:
            inputs = [source, level.spread]
            return self.insert(
                "TokenRestore", inputs, like=like, domain=EDGEC_DOMAIN, shape=shape, dtype=source.dtype
            )
        shares = level.spread
        if source.dtype != ir.DataType.FLOAT:
            shares = self.insert(
                "CastLike", [shares, source], like=like, shape=shares.shape, dtype=source.dtype
            )
        return self.insert("MatMul", [shares, source], like=like, shape=shape)

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
