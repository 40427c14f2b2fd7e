"""Running what works token by token on the real tokens of a padded batch only."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.passes.editing import Editor, attribute, constant, producer, sizes
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.tokens.masks import PADDED_BELOW, attention_mask, windowed_mask
from edgec.passes.tokens.readers import NORMS, UNARY, Obstacle, attention_step, one_sequence, read
from edgec.targets.x86.heads import HEADS_LAST, heads_last, turns_back


@register
class PackTokens(Pass):
    """Take the padding out of a batch in front of its encoder, and put zeros in its place behind it.

    Before::

        x (B,N,C) ── norm ── MatMul ── q, k, v (B,H,N,D) ── Attention(mask) ── proj ── MLP ── … ── y (B,N,C)

    After::

        x ── PackTokens(visible) ─┬─ (1,T,C) ── norm ── MatMul ── q, k, v (T,H,D) ── VarlenAttention ── …
                                  └─ cu_seqlens ──────────────────────────────────────┘
        … ── (1,T,C) ── UnpackTokens(visible) ── y (B,N,C)

    Attention in a sliding window (ModernBERT's local layers) becomes VarlenWindowAttention, which also takes
    the places that the real tokens had, and rotary angles are gathered by them. T is the number of real
    tokens in the batch, told by the attention's own padding mask at run time. What the source computes at
    padded places is read by nobody or multiplied by the mask, else the graph is left alone: there zeros stand
    now. ByteTransformer (arXiv 2210.03052).
    """

    name = "x86.pack_tokens"
    before = ("decompose.attention",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Pack in place, where all attentions have one padding mask and all that lies between allows it."""
        plan = _planned(model, log)
        if plan is not None:
            _Packing(Editor(model, self.name, log), plan, log).run()


def packable(model: ir.Model) -> bool:
    """Whether the pass would pack a neutral graph."""
    return _planned(model, MatchLog()) is not None


@dataclasses.dataclass
class _Plan:
    """What to do, found before anything is changed.

    Attributes:
        mask: the padding mask, (B, 1, 1, N) or (B, N), boolean or additive.
        batch: B.
        length: N.
        roots: the streams to pack.
        inside: the axis of tokens in every value that is packed.
        outside: the nodes that read packed values and need the padded form.
        windows: of each attention with a sliding window, how far it reaches.
        placed: whether something depends on the places of tokens.
    """

    mask: ir.Value
    batch: int
    length: int
    roots: list[ir.Value]
    inside: dict[ir.Value, int]
    outside: list[ir.Node]
    windows: dict[ir.Node, int]
    placed: bool


def _planned(model: ir.Model, log: MatchLog) -> _Plan | None:
    attentions = [node for node in model.graph if is_op(node, "Attention")]
    masks, windows = set(), {}
    for node in attentions:
        padding = attention_mask(node)
        if padding is None and (found := windowed_mask(node)) is not None:
            padding, windows[node] = found
        masks.add(padding)
    mask = masks.pop() if len(masks) == 1 else None
    shape = sizes(mask)
    if mask is None or shape is None or shape[0] is None or shape[-1] is None or None in shape:
        for node in attentions if masks else []:
            log.missed(node, "its padding mask is not that of the other attentions")
        return None
    batch, length = shape[0], shape[-1]
    plan = _Plan(mask, batch, length, [], {}, [], windows, bool(windows))
    try:
        _walk(model.graph, plan)
    except Obstacle as obstacle:
        log.missed(attentions[0], str(obstacle))
        return None
    return plan if plan.roots else None


def _walk(graph: ir.Graph, plan: _Plan) -> None:
    """Find what can be packed.

    Raises:
        Obstacle: something stands between that cannot, or padded places are read behind it.
    """
    nodes = list(graph)
    for node in nodes:
        start = node.inputs[0] if is_op(node, "MatMul") else None
        if (
            start is not None
            and start not in plan.inside
            and _is_stream(start, plan)
            and constant(node.inputs[1]) is not None
        ):
            root = _root(start, plan)
            plan.roots.append(root)
            plan.inside[root] = 1
            for between in nodes[: nodes.index(node)]:
                if any(value in plan.inside for value in between.inputs):
                    _visit(between, plan)
        if any(value in plan.inside for value in node.inputs):
            _visit(node, plan)
    for node in plan.outside:
        _check_outside(node, plan)
    for output in graph.outputs:
        if output in plan.inside:
            raise Obstacle(f"the output {output.name!r} has a value at padded places too")


def _is_stream(value: ir.Value, plan: _Plan) -> bool:
    shape = sizes(value)
    return shape is not None and len(shape) == 3 and shape[:2] == (plan.batch, plan.length)


def _root(value: ir.Value, plan: _Plan) -> ir.Value:
    """The stream ahead of the norms and elementwise ops in front of a product."""
    while (node := producer(value)) is not None and (node.op_type in NORMS or node.op_type in UNARY):
        ahead = node.inputs[0]
        if ahead is None or node.domain or not _is_stream(ahead, plan):
            break
        value = ahead
    return value


def _visit(node: ir.Node, plan: _Plan) -> None:
    if node in plan.outside or any(value in plan.inside for value in node.outputs):
        return
    mine = {value: plan.inside[value] for value in node.inputs if value is not None and value in plan.inside}
    try:
        if is_op(node, "Expand"):
            raise Obstacle("it repeats tokens to a fixed shape")
        step = attention_step(node, mine) if node in plan.windows else read(node, mine)
        _check_batch(node, plan)
    except Obstacle:
        if all(_is_stream(value, plan) for value in mine):
            plan.outside.append(node)
            return
        raise
    if is_op(node, "Attention") and (
        len(mine) != len(set(node.inputs[:3])) or attribute(node, "is_causal", 0)
    ):
        raise Obstacle("its queries and keys are not the same tokens")
    if is_op(node, "RotaryEmbedding"):
        if any(value is not None for value in node.inputs[3:]) or not all(map(_angles, node.inputs[1:3])):
            raise Obstacle("its angles differ from sample to sample")
        plan.placed = True
    if not step.carries:
        # It reads leading tokens only; they have their places in the padded form.
        plan.outside.append(node)
    plan.inside.update(step.carries)


def _angles(value: ir.Value | None) -> bool:
    """Whether rotary angles are constant and those of one sequence for all samples, (B, N, D)."""
    return constant(value) is not None and one_sequence(value)


def _check_batch(node: ir.Node, plan: _Plan) -> None:
    """The first axis must stay the batch, and nothing else may differ from sample to sample."""
    for output in node.outputs:
        shape = sizes(output)
        if shape is None or shape[0] != plan.batch:
            raise Obstacle(f"{node.op_type} moves or joins the batch")
    for value in node.inputs:
        shape = sizes(value)
        inside = (
            value is None or value in plan.inside or is_op(node, "Attention", "Reshape", "Slice", "Gather")
        )
        if (
            not inside
            and shape
            and len(shape) == len(sizes(node.outputs[0]) or ())
            and shape[0] not in (None, 1)
        ):
            raise Obstacle(f"{node.op_type} reads another value for each sample")


def _check_outside(node: ir.Node, plan: _Plan) -> None:
    """Padded places must not be read: they are multiplied by the mask, or only leading tokens are taken."""
    if is_op(node, "Mul"):
        others = [value for value in node.inputs if value not in plan.inside]
        if others and all(_from_mask(value, plan) for value in others):
            return
    if is_op(node, "Slice", "Gather"):
        mine = {value: plan.inside[value] for value in node.inputs if value in plan.inside}
        try:
            if read(node, mine).singled == 1:  # type: ignore[arg-type]
                return
        except Obstacle:
            pass
    raise Obstacle(f"{node.op_type} reads padded places too")


def _from_mask(value: ir.Value | None, plan: _Plan) -> bool:
    """Whether a value is the mask's source and nothing else, turned and cast."""
    sources = _sources(value)
    return bool(sources) and sources <= _sources(plan.mask)


def _sources(value: ir.Value | None) -> set[ir.Value]:
    """The values without a maker, constants aside, that a value is computed from."""
    sources, waiting, seen = set[ir.Value](), [value], set[ir.Value]()
    while waiting:
        each = waiting.pop()
        if each is None or each in seen or constant(each) is not None:
            continue
        seen.add(each)
        node = each.producer()
        if node is None:
            sources.add(each)
        else:
            waiting.extend(node.inputs)
    return sources


class _Packing:
    """Carries a plan out."""

    def __init__(self, editor: Editor, plan: _Plan, log: MatchLog) -> None:
        self._editor = editor
        self._plan = plan
        self._log = log
        self._gathered: dict[bytes, ir.Value] = {}

    def run(self) -> None:
        nodes = list(self._editor.graph)
        outside = set(self._plan.outside)
        padded: dict[ir.Value, ir.Value] = {}
        visible, ends, places = None, None, None
        for root in self._plan.roots:
            readers = [use for use in root.uses() if use.node not in outside]
            first = next(node for node in nodes if any(use.node is node for use in readers))
            if visible is None:
                visible = self._visible(first)
                places = self._places(visible, first) if self._plan.placed else None
            grown = self._editor.node(
                "PackTokens", [root, visible], like=first, domain=EDGEC_DOMAIN, outputs=2, dtype=root.dtype
            )
            made = grown.producer()
            assert made is not None
            ends = made.outputs[1] if ends is None else ends
            made.outputs[1].type = ir.TensorType(ir.DataType.INT32)
            made.outputs[1].shape = ir.Shape([self._plan.batch + 1])
            padded[root] = root
            for use in readers:
                use.node.replace_input_with(use.idx, grown)
            grown.shape = ir.Shape([1, ir.SymbolicDim("real_tokens"), sizes(root)[2]])  # type: ignore[index]
        assert visible is not None
        assert ends is not None
        for node in nodes:
            if node in outside:
                for index, value in enumerate(node.inputs):
                    if value is not None and value in self._plan.inside:
                        if value not in padded:
                            padded[value] = self._unpacked(value, visible)
                        node.replace_input_with(index, padded[value])
            elif any(value in self._plan.inside for value in node.outputs):
                self._rewrite(node, ends, places)
        for value, axis in self._plan.inside.items():
            if value in self._plan.roots or value.shape is None or value.producer() is None:
                continue
            rest = list(value.shape)
            rest[0], rest[axis] = 1, ir.SymbolicDim("real_tokens")
            value.shape = ir.Shape(rest)
        # The mask may be made behind the streams that it now packs.
        self._editor.graph.sort()

    def _visible(self, like: ir.Node) -> ir.Value:
        """(B, N) bool, from the attention's mask."""
        mask, plan = self._plan.mask, self._plan
        if mask.dtype != ir.DataType.BOOL:
            numpy_type = mask.dtype.numpy() if mask.dtype is not None else np.float32
            bound = self._editor.initializer(np.array(PADDED_BELOW, numpy_type), "padded_below")
            mask = self._editor.node(
                "Greater",
                [mask, bound],
                like=like,
                shape=mask.shape.copy() if mask.shape else None,
                dtype=ir.DataType.BOOL,
            )
        shape = self._editor.initializer(np.array([plan.batch, plan.length], np.int64), "visible_shape")
        if sizes(mask)[0] == plan.batch:  # type: ignore[index]
            return self._editor.node(
                "Reshape", [mask, shape], like=like, shape=[plan.batch, plan.length], dtype=ir.DataType.BOOL
            )
        return self._editor.node("Expand", [mask, shape], like=like, shape=[plan.batch, plan.length])

    def _unpacked(self, value: ir.Value, visible: ir.Value) -> ir.Value:
        made = value.producer()
        assert made is not None
        assert value.shape is not None
        return self._editor.node(
            "UnpackTokens",
            [value, visible],
            like=made,
            after=made,
            domain=EDGEC_DOMAIN,
            shape=value.shape.copy(),
        )

    def _places(self, visible: ir.Value, like: ir.Node) -> ir.Value:
        """(T) int32: the place of each real token in its row."""
        tokens = ir.SymbolicDim("real_tokens")
        both = self._editor.node("NonZero", [visible], like=like, shape=[2, tokens], dtype=ir.DataType.INT64)
        column = self._editor.initializer(np.array(1, np.int64), "column")
        place = self._editor.node(
            "Gather",
            [both, column],
            like=like,
            attributes={"axis": 0},
            shape=[tokens],
            dtype=ir.DataType.INT64,
        )
        narrow = {"to": int(ir.DataType.INT32)}
        return self._editor.node(
            "Cast", [place], like=like, attributes=narrow, shape=[tokens], dtype=ir.DataType.INT32
        )

    def _angles(self, node: ir.Node, value: ir.Value | None, places: ir.Value) -> ir.Value:
        """(1, T, D) from constant (B, N, D): each real token's row, gathered once where all are the same."""
        rows = constant(value)
        assert rows is not None
        key = rows[:1].tobytes()
        if key not in self._gathered:
            table = self._editor.initializer(np.ascontiguousarray(rows[:1]), f"{node.name}/angles")
            self._gathered[key] = self._editor.node(
                "Gather",
                [table, places],
                like=node,
                attributes={"axis": 1},
                shape=[1, ir.SymbolicDim("real_tokens"), rows.shape[2]],
                dtype=ir.DataType.FLOAT,
            )
        return self._gathered[key]

    def _rewrite(self, node: ir.Node, ends: ir.Value, places: ir.Value | None) -> None:
        if is_op(node, "Reshape"):
            self._reshape(node)
        elif is_op(node, "Attention"):
            self._attention(node, ends, places)
        elif is_op(node, "RotaryEmbedding"):
            assert places is not None
            for index in (1, 2):
                node.replace_input_with(index, self._angles(node, node.inputs[index], places))

    def _reshape(self, node: ir.Node) -> None:
        axis, wanted = self._plan.inside[node.outputs[0]], sizes(node.outputs[0])
        assert wanted is not None
        # The batch is the first axis, as the plan has seen to.
        target = [1, *wanted[1:axis], -1, *wanted[axis + 1 :]]
        node.replace_input_with(1, self._editor.initializer(np.array(target, np.int64), f"{node.name}/shape"))

    def _attention(self, node: ir.Node, ends: ir.Value, places: ir.Value | None) -> None:
        query, key, value = (self._rows(node, operand) for operand in node.inputs[:3])
        operands = [query, key, value, ends]
        attributes: dict[str, Any] = {
            "scale": attribute(node, "scale") or 0.0,
            "max_length": self._plan.length,
        }
        window = self._plan.windows.get(node)
        if window is not None:
            assert places is not None
            operands.append(places)
            attributes["window"] = window
        mixed = self._editor.node(
            "VarlenAttention" if window is None else "VarlenWindowAttention",
            operands,
            like=node,
            domain=EDGEC_DOMAIN,
            attributes=attributes,
            shape=query.shape.copy() if query.shape else None,
            dtype=query.dtype,
        )
        front = self._editor.initializer(np.array([0], np.int64), "front")
        known = sizes(node.outputs[0])
        assert known is not None
        joined = self._editor.node(
            "Unsqueeze",
            [mixed, front],
            like=node,
            shape=[1, ir.SymbolicDim("real_tokens"), known[1] or 1, known[3] or 1],
        )
        back = self._editor.node(
            "Transpose",
            [joined],
            like=node,
            attributes={"perm": HEADS_LAST},
            shape=node.outputs[0].shape.copy(),  # type: ignore[union-attr]
        )
        axis = self._plan.inside.pop(node.outputs[0])
        self._plan.inside[back] = axis
        self._editor.replace(node.outputs[0], back)
        self._editor.graph.remove(node, safe=True)
        for use in list(back.uses()):
            # (T, H, D) is what a transpose back wants.
            if turns_back(use.node):
                turned = use.node.outputs[0]
                axis = self._plan.inside.pop(turned)
                self._editor.replace(turned, joined)
                self._plan.inside[joined] = axis
        self._log.matched(node)

    def _rows(self, like: ir.Node, value: ir.Value | None) -> ir.Value:
        """(T, H, D) from (1, H, T, D)."""
        assert value is not None
        shape = sizes(value)
        assert shape is not None
        source = heads_last(self._editor, like, value)
        front = self._editor.initializer(np.array([0], np.int64), "front")
        return self._editor.node(
            "Squeeze",
            [source, front],
            like=like,
            shape=[ir.SymbolicDim("real_tokens"), shape[1] or 1, shape[3] or 1],
            dtype=value.dtype,
        )
