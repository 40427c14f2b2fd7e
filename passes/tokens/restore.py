"""`tokens.restore`: all tokens again, each with its own detail, wherever something needs them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.passes.editing import Editor, attribute, constant, producer, sizes
from edgec.passes.infra import MatchLog, Pass, Refusal, register
from edgec.passes.tokens.readers import NORMS, UNARY

REDUCING = frozenset({"TokenMerge", "TokenMergeEnergy", "TokenPrune", "TokenTransform"})


@register
class RestoreTokens(Pass):
    """Give tokens that are restored their own detail back.

    Before::

        x ── TokenMerge ── m ── … ── y ── norm ── TokenRestore ── head

    After::

        x ────────────────────────────────────────────────────────┐
        x ── TokenMerge ── m ── … ── y ── y - m ── TokenRestore ── Add ── norm ── head
                           └─────────────────┘

    `tokens.merge` and `tokens.prune` put a `TokenRestore` wherever a per-token output, a grid, a pooling or a
    decoder needs all tokens; tokens that became one are all alike there. Where the network adds to its tokens
    (pre-norm), what was added since the reduction, y - m, is what the group shares; what each token was
    before is still its own. So the sum is restored in place of the value, in front of the norms and
    projections that stand between; through several reductions it is added up. This is what merging around one
    branch at a time leaves to each token (ToMe for stable diffusion, arXiv 2303.17604), over several blocks.

    A place whose tokens are replaced behind a reduction instead of added to (post-norm), or mixed, keeps its
    group's values, with the reason.

    Lossy as the reduction is, and closer to the unreduced network.
    """

    name = "tokens.restore"
    after = ("tokens.merge", "tokens.prune")
    exact = False

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Edit in place."""
        editor = Editor(model, self.name, log)
        full: dict[ir.Value, ir.Value] = {}
        for node in list(model.graph):
            if not _restores(node):
                continue
            try:
                _Place(editor, node, full).rewrite()
            except _Kept as kept:
                log.missed(node, str(kept))
            else:
                log.matched(node)
        editor.remove_dead()


class _Kept(Refusal):
    pass


def _restores(node: ir.Node) -> bool:
    if is_op(node, "TokenRestore", domain=EDGEC_DOMAIN):
        return True
    return is_op(node, "MatMul") and _shares(node.inputs[0]) and not _shares(node.inputs[1])


def _shares(value: ir.Value | None) -> bool:
    """Whether a value is the shares of a `TokenTransform`, or of several in a row."""
    node = producer(value)
    if node is None or value is None:
        return False
    if is_op(node, "TokenTransform", domain=EDGEC_DOMAIN):
        return value.index() == 2
    if is_op(node, "CastLike"):
        return _shares(node.inputs[0])
    return is_op(node, "MatMul") and all(_shares(each) for each in node.inputs)


@dataclasses.dataclass
class _Stream:
    """Tokens that a network adds to.

    Attributes:
        value: the sum so far, (B, M, C).
        reduced: what the reduction behind it gave, (B, M, C).
        made: the reduction.
    """

    value: ir.Value
    reduced: ir.Value
    made: ir.Node


def _stream(value: ir.Value | None) -> _Stream | None:
    """The stream that a value is of: sums of branches onto a reduction's output; None where it is none."""
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        node = producer(each)
        if each is None or node is None or each in seen:
            continue
        seen.add(each)
        if node.domain == EDGEC_DOMAIN and node.op_type in REDUCING and each.index() == 0:
            assert value is not None
            return _Stream(value, each, node)
        if is_op(node, "Add", "Identity"):
            waiting.extend(node.inputs)
    return None


class _Place:
    """One place where tokens are restored."""

    def __init__(self, editor: Editor, restore: ir.Node, full: dict[ir.Value, ir.Value]) -> None:
        self.editor = editor
        self.restore = restore
        self.full = full
        """By stream value: the same of all tokens, made already."""
        soft = is_op(restore, "MatMul")
        self.tokens, self.spread = restore.inputs[1 if soft else 0], restore.inputs[0 if soft else 1]
        self.soft = soft

    def rewrite(self) -> None:
        between: list[ir.Node] = []
        value = self.tokens
        while (stream := _stream(value)) is None:
            node = producer(value)
            if node is None or not _each_token_alone(node):
                what = "nothing that is computed" if node is None else node.op_type
                raise _Kept(f"{what} gives its tokens, and they are not added to since the reduction")
            between.append(node)
            value = next(each for each in node.inputs if constant(each) is None)
        assert self.spread is not None
        restored = self._all_tokens(stream, self.spread)
        length = sizes(restored)[1]  # type: ignore[index]
        for node in reversed(between):
            restored = self._again(node, restored, length)
        self.editor.replace(self.restore.outputs[0], restored)

    def _all_tokens(self, stream: _Stream, spread: ir.Value) -> ir.Value:
        """The stream's value for all tokens: what they were, and what their groups got since."""
        if stream.value in self.full:
            return self.full[stream.value]
        before = stream.made.inputs[0]
        assert before is not None
        if sizes(before)[1] != sizes(spread)[1]:  # type: ignore[index]
            earlier = _stream(before)
            if earlier is None:
                raise _Kept("an earlier reduction's tokens are replaced, not added to (post-norm)")
            before = self._all_tokens(earlier, _earlier_spread(spread))
        shape = stream.value.shape
        if stream.value is stream.reduced:
            return before
        gained = self._node("Sub", [stream.value, stream.reduced], shape)
        spread_out = self._restored(gained, spread, before.shape)
        found = self._node("Add", [before, spread_out], before.shape)
        self.full[stream.value] = found
        return found

    def _restored(self, gained: ir.Value, spread: ir.Value, shape: ir.Shape | None) -> ir.Value:
        if self.soft:
            return self._node("MatMul", [spread, gained], shape, dtype=gained.dtype)
        return self._node("TokenRestore", [gained, spread], shape, domain=EDGEC_DOMAIN)

    def _again(self, node: ir.Node, value: ir.Value, length: int | None) -> ir.Value:
        """The node once more, on all tokens."""
        inputs = [each if constant(each) is not None else value for each in node.inputs]
        known = node.outputs[0].shape
        assert known is not None
        axis = 2 if is_op(node, "Transpose") and sizes(value)[1] == length else 1  # type: ignore[index]
        shape = [length if place == axis else size for place, size in enumerate(known)]
        given = {name: each.value for name, each in node.attributes.items()}
        return self.editor.node(
            node.op_type,
            inputs,
            like=node,
            before=self.restore,
            attributes=given,
            shape=shape,  # type: ignore[arg-type]
            dtype=node.outputs[0].dtype,
        )

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        shape: ir.Shape | None,
        *,
        domain: str = "",
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        return self.editor.node(
            op_type, inputs, like=self.restore, before=self.restore, domain=domain, shape=shape, dtype=dtype
        )


def _each_token_alone(node: ir.Node) -> bool:
    """Whether a node computes each token (B, M, C) from that token and weights."""
    computed = [value for value in node.inputs if constant(value) is None]
    if len(computed) != 1 or len(node.outputs) != 1 or node.domain not in ("", "ai.onnx"):
        return False
    shape = sizes(computed[0])
    if shape is None or len(shape) != 3:
        return False
    if node.op_type in NORMS:
        return computed[0] is node.inputs[0] and attribute(node, "axis", -1) in (-1, 2)
    if is_op(node, "MatMul"):
        return computed[0] is node.inputs[0] and len(sizes(node.inputs[1]) or ()) == 2
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        weights = [sizes(value) for value in node.inputs if value is not computed[0]]
        return all(known is not None and (len(known) < 2 or known[-2] == 1) for known in weights)
    return node.op_type in UNARY


def _earlier_spread(spread: ir.Value) -> ir.Value:
    """The spread of the tokens in front of the last reduction, of one over several."""
    node = producer(spread, "CastLike")
    node = producer(spread if node is None else node.inputs[0], "GatherElements", "MatMul")
    if node is None:
        raise _Kept("its way through the reductions is not known")
    first = node.inputs[1 if is_op(node, "GatherElements") else 0]
    assert first is not None
    return first
