"""Additive masks that fp16 holds, and rows of them that hide every key."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, rank, sizes
from edgec.passes.precision.half import FULL, MOVEMENT
from edgec.targets.coreml.lowering.attention import MASKED
from edgec.targets.coreml.lowering.full import FULL_KEY

SWALLOWING = -(2.0**24)
"""A mask of this or less swallows scores: fp32's steps are 2 here, and 2e31 at its lowest number."""

_LOWEST = float(np.finfo(np.float32).min)

_OPEN = 0.5 * MASKED
"""A row whose largest number is above this has a key that is seen."""

_ARITHMETIC = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Where", "Cast", "Min", "Max", "Clip", "Trilu", "ConstantOfShape"}
) | MOVEMENT  # fmt: skip
"""What masks are computed with."""

_WHY = "a mask hides keys by numbers that fp16 lacks"


def keep_hidden_rows(model: ir.Model) -> None:
    """Take each row's largest number off additive masks, and clamp them at `MASKED`; in place.

    ::

        q ── Attention(mask) ── y    ⇒    q · live ── Attention(Max(mask - most, -1e4)) · reachable ── y

        scores + mask ── Softmax     ⇒    scores · live + Max(mask - most, -1e4) ── Softmax

        most = ReduceMax(mask),  live = most > -2²⁴,  reachable = most > -inf

    Softmax does not change by what is taken off a whole row, so a key is hidden where it lies far under the
    row's best. In a row that hides every key, fp32 loses the scores beside a large mask: the source attends
    to all keys alike, and so does `live`, which makes the scores zero. Beside a small one (-1e4) it keeps
    them, and so does this. Of rows that are -inf throughout, `Attention` makes zeros and a softmax NaN.

    A boolean mask known only at run time becomes an additive one. Left alone: masks of constants with a key
    seen in every row, causal attention of open sizes or beside a boolean mask, windows, lengths, attention
    that shows its scores.
    """
    editor = Editor(model, "coreml.hidden_rows")
    for node in list(model.graph):
        if is_op(node, "Attention"):
            _Rows(editor, node).attention()
        elif is_op(node, "Softmax") and attribute(node, "axis", -1) in (-1, (rank(node.inputs[0]) or 0) - 1):
            _Rows(editor, node).softmax()
    editor.remove_dead()
    ShapeInferencePass()(model)


@dataclasses.dataclass(frozen=True)
class _Taken:
    """A mask with its rows' largest numbers taken off.

    Attributes:
        bias: the mask, or an array.
        live: 0 in the rows beside whose mask scores are lost, else 1, (…, queries, 1); None where all are 1.
        reachable: likewise 0 in the rows that are -inf throughout.
    """

    bias: ir.Value | np.ndarray
    live: ir.Value | np.ndarray | None
    reachable: ir.Value | np.ndarray | None


class _Rows:
    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self._editor = editor
        self._node = node

    # Attention

    def attention(self) -> None:
        """Rewrite one `Attention`."""
        node = self._node
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is None or self._is_special():
            return
        causal = bool(attribute(node, "is_causal", 0))
        if mask.dtype == ir.DataType.BOOL:
            if constant(mask) is None and not causal:
                self._apply(self._of_boolean(mask))
            return
        allowed = self._allowed() if causal else None
        known = constant(mask)
        if causal and allowed is None:
            return
        if known is not None:
            array = known if allowed is None else np.where(allowed, known, known.dtype.type(-np.inf))
            if (array.max(-1) > _OPEN).all():
                return
            taken = _of_array(array)
        else:
            taken = self._of_value(mask if allowed is None else self._both(mask, allowed))
        self._apply(taken)
        node.attributes.pop("is_causal", None)

    def _is_special(self) -> bool:
        node = self._node
        mask, keys = sizes(node.inputs[3]), sizes(node.inputs[1])
        if not mask or keys is None:
            return True
        columns = keys[-2]
        if columns is not None and (past := self._past()) is not None:
            columns = None if past[-2] is None else past[-2] + columns
        return (
            mask[-1] != columns
            or (len(node.inputs) > 6 and node.inputs[6] is not None)
            or any(attribute(node, name, -1) != -1 for name in ("left_window_size", "right_window_size"))
            or any(value.uses() or value.is_graph_output() for value in node.outputs[3:])
        )

    def _past(self) -> tuple[int | None, ...] | None:
        return sizes(self._node.inputs[4]) if len(self._node.inputs) > 4 else None

    def _allowed(self) -> np.ndarray | None:
        """What a causal attention may look at; None where a size is open."""
        query, mask, past = sizes(self._node.inputs[0]), sizes(self._node.inputs[3]), self._past()
        before = 0 if past is None else past[-2]
        if query is None or not mask or query[-2] is None or mask[-1] is None or before is None:
            return None
        return np.tri(query[-2], mask[-1], before, dtype=bool)

    def _apply(self, taken: _Taken) -> None:
        node = self._node
        node.replace_input_with(3, self._stored(taken.bias))
        if taken.live is not None:
            query = node.inputs[0]
            assert query is not None
            node.replace_input_with(0, self._scaled(query, self._stored(taken.live)))
        if taken.reachable is None:
            return
        result = node.outputs[0]
        readers = {use.node for use in result.uses()}
        scaled = self._scaled(result, self._stored(taken.reachable), after=node)
        [first] = [use.node for use in result.uses() if use.node not in readers]
        self._editor.replace(result, scaled)
        first.replace_input_with(0, result)

    def _scaled(self, x: ir.Value, rows: ir.Value, after: ir.Node | None = None) -> ir.Value:
        """A tensor times a number a row; x is (B, H, S, D) or (B, S, H · D), rows (…, H or 1, S or 1, 1)."""
        shape = sizes(rows) or ()
        if rank(x) == 4 or len(shape) < 3:
            return self._op("Mul", [x, rows], after=after)
        if shape[-3] == 1:
            axes = self._integers([len(shape) - 3])
            return self._op(
                "Mul", [x, self._op("Squeeze", [rows, axes], after=after)], after=after, last=True
            )
        if len(shape) == 3:
            rows = self._op("Unsqueeze", [rows, self._integers([0])], after=after)
        turned = self._op("Transpose", [rows], after=after, attributes={"perm": [0, 2, 1, 3]})
        heads = self._op("Reshape", [x, self._integers([0, 0, shape[-3] or -1, -1])], after=after, last=True)
        made = self._op("Mul", [heads, turned], after=after, last=True)
        return self._op("Reshape", [made, self._integers([0, 0, -1])], after=after, last=True)

    # Softmax in parts

    def softmax(self) -> None:
        """Rewrite the sum in front of one `Softmax`."""
        node = self._node
        terms = _terms(node.inputs[0])
        masks = [value for value in terms if _is_mask(value)]
        scores = [value for value in terms if value not in masks]
        if not masks or not scores:
            return
        arrays = [array for value in masks if (array := constant(value)) is not None]
        if len(arrays) == len(masks):
            total = functools.reduce(np.add, arrays)
            if (total.max(-1) > _OPEN).all():
                return
            taken = _of_array(total)
        else:
            total_value = masks[0]
            for other in masks[1:]:
                total_value = self._full("Add", [total_value, other])
            taken = self._of_value(total_value)
        bias = self._stored(taken.bias)
        if taken.reachable is not None:
            reached = self._full(
                "Greater", [self._stored(taken.reachable), self._number(0.0)], dtype=ir.DataType.BOOL
            )
            bias = self._full("Where", [reached, bias, self._number(-np.inf)], dtype=FULL)
        value = scores[0]
        for other in scores[1:]:
            value = self._op("Add", [value, other])
        if taken.live is not None:
            value = self._op("Mul", [value, self._stored(taken.live)])
        node.replace_input_with(0, self._op("Add", [value, bias]))

    # Masks

    def _of_boolean(self, mask: ir.Value) -> _Taken:
        numbers = [self._number(number, self._kind) for number in (0.0, MASKED)]
        bias = self._op("Where", [mask, *numbers], dtype=self._kind)
        seen = self._op("Cast", [mask], dtype=self._kind, attributes={"to": int(self._kind)})
        return _Taken(bias, None, self._most(seen))

    def _of_value(self, mask: ir.Value) -> _Taken:
        for maker in _makers(mask):
            maker.metadata_props[FULL_KEY] = _WHY
        most = self._most(mask)
        # -inf less -inf is no number.
        off = self._full("Max", [most, self._number(0.9 * _LOWEST)])
        bias = self._full("Max", [self._full("Sub", [mask, off]), self._number(MASKED)])
        reachable = self._flag("GreaterOrEqual", most, _LOWEST) if _may_be_infinite(mask) else None
        return _Taken(bias, self._flag("Greater", most, SWALLOWING), reachable)

    def _flag(self, op_type: str, most: ir.Value, bound: float) -> ir.Value:
        found = self._full(op_type, [most, self._number(bound)], dtype=ir.DataType.BOOL)
        return self._op("Cast", [found], dtype=self._kind, attributes={"to": int(self._kind)})

    def _most(self, mask: ir.Value) -> ir.Value:
        most = self._full("ReduceMax", [mask, self._integers([-1])], attributes={"keepdims": 1})
        most.shape = None if mask.shape is None else ir.Shape([*mask.shape[:-1], 1])
        return most

    def _both(self, mask: ir.Value, allowed: np.ndarray) -> ir.Value:
        both = self._full("Where", [self._stored(allowed), mask, self._number(-np.inf)], dtype=FULL)
        known = sizes(mask) or ()
        if None not in known:
            both.shape = ir.Shape(np.broadcast_shapes(known, allowed.shape))  # type: ignore[arg-type]
        return both

    # Writing

    @property
    def _kind(self) -> ir.DataType:
        return self._node.inputs[0].dtype or FULL  # type: ignore[union-attr]

    def _full(self, op_type: str, inputs: list[ir.Value], **more: Any) -> ir.Value:
        """A node that stays in fp32."""
        value = self._op(op_type, inputs, **more)
        value.producer().metadata_props[FULL_KEY] = _WHY  # type: ignore[union-attr]
        return value

    def _op(
        self,
        op_type: str,
        inputs: list[ir.Value],
        *,
        after: ir.Node | None = None,
        last: bool = False,
        dtype: ir.DataType | None = None,
        attributes: dict[str, object] | None = None,
    ) -> ir.Value:
        """A node in front of the one that is rewritten, or behind another.

        Args:
            op_type: the op.
            inputs: its inputs.
            after: the node to insert behind; in front where None.
            last: whether it goes behind what makes its last computed input, where it goes behind anything.
            dtype: of the result; that of the first input where None.
            attributes: its attributes.
        """
        if after is not None and last:
            made = [value.producer() for value in inputs if value.producer() is not None]
            after = made[-1]
        return self._editor.node(
            op_type, inputs, like=self._node, after=after, dtype=dtype, attributes=attributes
        )

    def _stored(self, item: ir.Value | np.ndarray) -> ir.Value:
        if isinstance(item, ir.Value):
            return item
        return self._editor.initializer(item, f"{self._node.name}/mask")

    def _number(self, number: float, kind: ir.DataType = FULL) -> ir.Value:
        return self._editor.initializer(np.asarray(number, kind.numpy()), f"{self._node.name}/number")

    def _integers(self, numbers: list[int]) -> ir.Value:
        return self._editor.initializer(np.asarray(numbers, np.int64), f"{self._node.name}/numbers")


def _of_array(mask: np.ndarray) -> _Taken:
    most = mask.max(-1, keepdims=True).astype(np.float64)
    live, reachable = most > SWALLOWING, most > -np.inf
    bias = np.maximum(mask - np.where(reachable, most, 0.0), MASKED)
    rows = [None if flag.all() else flag.astype(mask.dtype) for flag in (live, reachable)]
    return _Taken(bias.astype(mask.dtype), *rows)


def _terms(value: ir.Value | None) -> list[ir.Value]:
    """What a sum adds, seen through sums that nothing else reads."""
    maker = None if value is None else value.producer()
    if value is None:
        return []
    if maker is None or not is_op(maker, "Add") or len(list(value.uses())) != 1 or value.is_graph_output():
        return [value]
    return [term for one in maker.inputs for term in _terms(one)]


def _is_mask(value: ir.Value) -> bool:
    """Whether a term is a mask: it differs along the keys, and comes from inputs, integers and constants."""
    shape = sizes(value)
    if value.dtype != FULL or not shape or shape[-1] == 1:
        return False
    array = constant(value)
    if array is not None:
        return bool((array <= _OPEN).any())
    return all(one.is_graph_input() or one.dtype != FULL for one in _origins(value))


def _makers(mask: ir.Value) -> list[ir.Node]:
    """What a mask is computed with."""
    found: dict[ir.Node, None] = {}
    pending = [mask]
    while pending:
        maker = pending.pop().producer()
        if maker is not None and maker not in found and is_op(maker, *_ARITHMETIC):
            found[maker] = None
            pending += [one for one in maker.inputs if one is not None and one.dtype == FULL]
    return list(found)


def _origins(value: ir.Value) -> list[ir.Value]:
    """Where a mask's numbers come from, constants aside: inputs, integers, booleans, results of other ops."""
    makers = _makers(value)
    read = [value, *(one for maker in makers for one in maker.inputs if one is not None)]
    return [one for one in read if one.producer() not in makers and constant(one) is None]


def _may_be_infinite(mask: ir.Value) -> bool:
    """Whether a mask's numbers come from -inf, or from somebody outside."""
    if any(one.dtype == FULL for one in _origins(mask)):
        return True
    arrays = [constant(one) for maker in _makers(mask) for one in maker.inputs]
    return any(one is not None and one.dtype.kind == "f" and bool(np.isinf(one).any()) for one in arrays)
