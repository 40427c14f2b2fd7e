"""What is added to the logits and what is cut from them, as the one mask input of an `Attention`.

The standard's `Attention` gives zeros to a query without any key (all of its bias is -inf); a plain
softmax gives NaN there, and one behind a NaN guard gives zeros. So a guard is always subsumed, and an
unguarded mask of -inf differs only in rows where the source's output is NaN.

A finite fill is not -inf: a query all of whose keys carry it attends to all keys alike. The fill
`Where(keep, logits, c)` is therefore taken as the additive mask `Where(keep, 0, c)` with a c so large
that `logits + c` rounds to c in fp32, which gives the same equal weights there, and zeros elsewhere
as c itself does. Where the mask is a constant that leaves every query a key, it is boolean.

Where the same condition sets the probabilities to zero again (ESPnet, WeNet, NeMo), a query without any key
gets zeros whatever the fill is, and so it is -inf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import Editor, constant, producer, rank
from edgec.passes.fuse.attention_logits import Zeroing, name_of, uniform
from edgec.passes.fuse.attention_views import expand, spread
from edgec.passes.fuse.axes import Axes, Layout
from edgec.passes.infra import Refusal

MASKING = -1e4
"""Fills at most this: exp(-1e4) is zero in fp32 unless logits differ by more than 9,800."""

ABSORBING = -1e30
"""Fills at most this swallow any logit that is added to them in fp32 (half an ulp is 3.8e22)."""

SWALLOWING_FILL = -1e38
"""What stands for any finite fill. Not the least float32: ONNX Runtime's Attention on CPUs (1.32) gives a row
whose mask is all of that zeros and not equal weights.
"""

_LARGEST_SUM = 1 << 25
"""Bytes (32 MiB) above which two constants stay apart and are added at run time: a bias for each head
and a mask for each window are small, but their sum is as large as the logits."""


@dataclasses.dataclass(frozen=True)
class MaskTerm:
    """One mask on the way from the product to the softmax.

    Attributes:
        node: the Add, Sub or Where.
        value: what is added, or the condition.
        layout: the axes of the logits where it applies.
        factor: for an added tensor, what it is multiplied by.
        fill: None for an added tensor, else what stands where the condition fails.
        keep: the condition's value where the logits stay.
    """

    node: ir.Node
    value: ir.Value
    layout: Layout
    factor: float = 1.0
    fill: float | None = None
    keep: bool = True


@dataclasses.dataclass(frozen=True)
class Mask:
    """The mask of one attention.

    Attributes:
        value: the `attn_mask` input, four-dimensional, or None.
        causal: whether the attention is causal instead.
    """

    value: ir.Value | None
    causal: bool = False


def zeroed(axes: Axes, terms: Sequence[MaskTerm], zeroing: Zeroing, layout: Layout) -> list[MaskTerm]:
    """The masks of logits whose probabilities a condition sets to zero again behind the softmax.

    Args:
        axes: the attention's axes.
        terms: the masks.
        zeroing: what sets to zero.
        layout: the axes of the probabilities there.

    Raises:
        Refusal: no mask hides just what is set to zero: the probabilities left would not sum to one.
    """
    found = False
    made = []
    for term in terms:
        cut = _hides(term)
        if cut is not None and cut[2] <= MASKING and _same_cut(axes, cut, term, zeroing, layout):
            found = True
            term = dataclasses.replace(term, value=cut[0], keep=cut[1], fill=-np.inf, factor=1.0)
        made.append(term)
    if not found:
        raise Refusal(
            f"{name_of(zeroing.node)} sets probabilities to zero that no mask of the same condition hides"
        )
    return made


def _hides(term: MaskTerm) -> tuple[ir.Value, bool, float] | None:
    """Condition, its keeping value and the fill, of a Where and of an added Where(c, 0, fill)."""
    if term.fill is not None:
        return term.value, term.keep, term.fill
    node = producer(term.value, "Where")
    if node is None or term.factor <= 0:
        return None
    condition, chosen, other = node.inputs
    if condition is None or chosen is None or other is None:
        return None
    if len(node.outputs[0].shape or ()) != len(condition.shape or ()):
        return None
    first, second = uniform(chosen), uniform(other)
    if first == 0.0 and second is not None:
        return condition, True, second * term.factor
    if second == 0.0 and first is not None:
        return condition, False, first * term.factor
    return None


def _same_cut(
    axes: Axes, cut: tuple[ir.Value, bool, float], term: MaskTerm, zeroing: Zeroing, layout: Layout
) -> bool:
    """Whether a mask and what sets to zero have one condition, along the same axes."""
    (one, keeps), (other, stays) = _positive(cut[0], cut[1]), _positive(zeroing.condition, zeroing.keep)
    count = rank(one)
    if keeps != stays or count is None or count != rank(other) or not _equal(one, other):
        return False
    mine, its = (axes.resolve_all(each)[len(each) - count :] for each in (term.layout, layout))
    return mine == its


def _positive(condition: ir.Value, keep: bool) -> tuple[ir.Value, bool]:
    while (node := producer(condition, "Not")) is not None and node.inputs[0] is not None:
        condition, keep = node.inputs[0], not keep
    return condition, keep


def _equal(one: ir.Value | None, other: ir.Value | None, depth: int = 4) -> bool:
    """Whether two values are one, equal constants, or made by the same ops from such."""
    if one is other:
        return True
    if one is None or other is None:
        return False
    left, right = constant(one), constant(other)
    if left is not None and right is not None:
        return left.dtype == right.dtype and np.array_equal(left, right)
    first, second = one.producer(), other.producer()
    if first is None or second is None or depth == 0:
        return False
    same = (first.op_identifier(), one.index(), len(first.inputs)) == (
        second.op_identifier(),
        other.index(),
        len(second.inputs),
    )
    given = [{name: each.value for name, each in node.attributes.items()} for node in (first, second)]
    return (
        same
        and given[0] == given[1]
        and all(_equal(a, b, depth - 1) for a, b in zip(first.inputs, second.inputs, strict=True))
    )


class MaskBuilder:
    """Makes one mask from the terms of one attention, in the layout (B, H, Sq, Sk).

    Args:
        editor: the editor.
        axes: the attention's axes.
        target: the layout of the mask.
        like: the softmax.
        before: where nodes are inserted.
        dtype: the logits' element type.
    """

    def __init__(
        self,
        editor: Editor,
        axes: Axes,
        target: Layout,
        *,
        like: ir.Node,
        before: ir.Node,
        dtype: ir.DataType,
    ) -> None:
        self.editor = editor
        self.axes = axes
        self.target = target
        self.like = like
        self.before = before
        self.dtype = dtype

    def build(self, terms: Sequence[MaskTerm]) -> Mask:
        """One mask for all terms, given in the order in which they are applied.

        Raises:
            Refusal: the terms have no exact single mask.
        """
        added: np.ndarray | ir.Value | None = None
        keep: np.ndarray | ir.Value | None = None
        fill = -np.inf
        for term in terms:
            cut = self._as_cut(term)
            if cut is None:
                if (
                    keep is not None
                    and fill > ABSORBING
                    and not _always_open(keep, self.axes.size(self.target[3]))
                ):
                    raise Refusal(f"{name_of(term.node)} adds to logits that a fill of {fill:g} has cut")
                added = self._plus(added, self._aligned(term.value, term), term.factor)
                continue
            condition, keeps, value = cut
            if value > MASKING:
                raise Refusal(
                    f"{name_of(term.node)} fills with {value:g}, too small a number to cut a key off"
                )
            if keep is not None and value != fill:
                raise Refusal(f"{name_of(term.node)} fills with {value:g}, another mask with {fill:g}")
            keep = self._both(keep, self._kept(condition, keeps, term))
            fill = value
        return self._combine(added, keep, fill)

    def _as_cut(self, term: MaskTerm) -> tuple[ir.Value, bool, float] | None:
        """Condition, its keeping value and the fill, for a Where and for an added Where(c, 0, -inf)."""
        if term.fill is not None:
            return term.value, term.keep, term.fill
        node = producer(term.value, "Where")
        if node is None or constant(term.value) is not None or term.factor <= 0:
            return None
        condition, chosen, other = node.inputs
        if condition is None or chosen is None or other is None:
            return None
        if len(node.outputs[0].shape or ()) != len(condition.shape or ()):
            return None
        first, second = uniform(chosen), uniform(other)
        if first == 0.0 and second == -np.inf:
            return condition, True, -np.inf
        if second == 0.0 and first == -np.inf:
            return condition, False, -np.inf
        return None

    # -- tensors in the target layout ---------------------------------------------------------

    def _aligned(self, value: ir.Value, term: MaskTerm) -> np.ndarray | ir.Value:
        """A mask in the target layout, broadcast along any axis but the last."""
        layout = self.axes.resolve_all(term.layout)
        array = constant(value)
        shape = list(array.shape) if array is not None else list(value.shape or ())
        if (rank(value) is None and array is None) or len(shape) > len(layout):
            raise Refusal(f"the mask {value.name!r} has an unknown shape or more axes than the logits")
        own: Layout = tuple(
            () if size == 1 else dim
            for size, dim in zip(shape, layout[len(layout) - len(shape) :], strict=True)
        )
        if array is not None:
            return self._spread_array(array, own)
        result = spread(self.editor, self.axes, value, own, self.target, like=self.like, before=self.before)
        return self._full_keys(result)

    def _spread_array(self, array: np.ndarray, own: Layout) -> np.ndarray:
        atoms = [atom for dim in self.axes.resolve_all(own) for atom in dim]
        parts = array.reshape([_fixed(self.axes.size((atom,))) for atom in atoms])
        target = self.axes.resolve_all(self.target)
        present = set(atoms)
        order = [atoms.index(atom) for dim in target for atom in dim if atom in present]
        parts = np.transpose(parts, order)
        single, full, merged = [], [], []
        for position, dim in enumerate(target):
            some = position == 3 or bool(present.intersection(dim))
            sizes = [_fixed(self.axes.size((atom,))) for atom in dim] if some else []
            single += [size if atom in present else 1 for atom, size in zip(dim, sizes, strict=False)]
            full += sizes
            merged.append(int(np.prod(sizes)) if sizes else 1)
        return np.ascontiguousarray(np.broadcast_to(parts.reshape(single), full).reshape(merged))

    def _full_keys(self, value: ir.Value) -> ir.Value:
        """The standard pads a mask whose last axis is short with -inf, so it must not be broadcast."""
        keys = self.axes.size(self.target[3])
        if value.shape is None or value.shape[-1] == keys:
            return value
        sizes = [size if isinstance(size, int) else str(size.value) for size in value.shape]
        return expand(self.editor, value, [*sizes[:3], keys], like=self.like, before=self.before)

    def _kept(self, condition: ir.Value, keep: bool, term: MaskTerm) -> np.ndarray | ir.Value:
        if not keep and constant(condition) is None:
            node = producer(condition, "Not")
            if node is not None and node.inputs[0] is not None:
                condition, keep = node.inputs[0], True
        found = self._aligned(condition, term)
        if isinstance(found, np.ndarray):
            return found if keep else ~found
        return found if keep else self._node("Not", [found], ir.DataType.BOOL)

    # -- arithmetic on constants where possible, on the graph where not ---------------------------

    def _node(self, op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType) -> ir.Value:
        sizes = [list(value.shape or ()) for value in inputs]
        shape = None
        if all(len(size) in (0, 4) for size in sizes):
            columns = zip(*(size for size in sizes if size), strict=True)
            shape = [next((size for size in column if size != 1), 1) for column in columns]
        return self.editor.node(op_type, inputs, like=self.like, before=self.before, shape=shape, dtype=dtype)

    def _value(self, item: np.ndarray | ir.Value) -> ir.Value:
        if isinstance(item, ir.Value):
            return item
        return self.editor.initializer(item, f"{self.like.name or self.like.op_type}/mask")

    def _cast(self, item: np.ndarray | ir.Value) -> np.ndarray | ir.Value:
        if isinstance(item, np.ndarray):
            return item.astype(self.dtype.numpy())
        if item.dtype is None or item.dtype == self.dtype:
            return item
        return self.editor.node(
            "Cast", [item], like=self.like, before=self.before,
            attributes={"to": int(self.dtype)}, shape=item.shape, dtype=self.dtype,
        )  # fmt: skip

    def _plus(
        self, total: np.ndarray | ir.Value | None, more: np.ndarray | ir.Value, factor: float
    ) -> np.ndarray | ir.Value:
        more = self._cast(more)
        if factor != 1.0:
            by = np.array(factor, self.dtype.numpy())
            if isinstance(more, np.ndarray):
                more = more * by
            else:
                more = self._node("Mul", [more, self._value(by)], self.dtype)
        if total is None:
            return more
        if isinstance(total, np.ndarray) and isinstance(more, np.ndarray):
            size = int(np.prod(np.broadcast_shapes(total.shape, more.shape))) * total.itemsize
            if size <= max(_LARGEST_SUM, total.nbytes, more.nbytes):
                return total + more
        return self._node("Add", [self._value(total), self._value(more)], self.dtype)

    def _both(self, one: np.ndarray | ir.Value | None, other: np.ndarray | ir.Value) -> np.ndarray | ir.Value:
        if one is None:
            return other
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            return one & other
        return self._node("And", [self._value(one), self._value(other)], ir.DataType.BOOL)

    def _combine(
        self, added: np.ndarray | ir.Value | None, keep: np.ndarray | ir.Value | None, fill: float
    ) -> Mask:
        if isinstance(added, np.ndarray) and not added.any():
            added = None
        keys = self.axes.size(self.target[3])
        if keep is not None and (fill == -np.inf or _always_open(keep, keys)):
            if isinstance(keep, np.ndarray) and keep.all():
                keep = None
            elif added is None:
                if isinstance(keep, np.ndarray) and _is_causal(keep):
                    return Mask(None, causal=True)
                return Mask(self._value(keep))
            fill = -np.inf
        if keep is not None:
            if self.dtype == ir.DataType.FLOAT16 and fill != -np.inf:
                raise Refusal(
                    f"a fill of {fill:g} in half precision does not give a fully masked query equal weights"
                )
            fill = -np.inf if fill == -np.inf else SWALLOWING_FILL
            number = self.dtype.numpy()
            rest = np.zeros((), number) if added is None else added
            if isinstance(keep, np.ndarray) and isinstance(rest, np.ndarray):
                added = np.where(keep, rest, np.array(fill, number)).astype(number)
            else:
                inputs = [self._value(keep), self._value(rest), self._value(np.array(fill, number))]
                added = self._node("Where", inputs, self.dtype)
        if isinstance(added, np.ndarray):
            open_keys = added > MASKING
            if not added[open_keys].any() and _always_open(open_keys, keys) and _is_causal(open_keys):
                return Mask(None, causal=True)
            if self.dtype == ir.DataType.FLOAT:
                added = np.where(np.isinf(added), added, np.maximum(added, SWALLOWING_FILL))
            added = added.astype(self.dtype.numpy())
        return Mask(None if added is None else self._value(added))


def _fixed(size: int | str) -> int:
    if not isinstance(size, int):
        raise Refusal(f"a constant mask meets the open dimension {size!r}")
    return size


def _always_open(keep: np.ndarray | ir.Value, keys: int | str) -> bool:
    """Whether a mask is a constant that leaves every query at least one key."""
    return isinstance(keep, np.ndarray) and isinstance(keys, int) and bool(keep.any(axis=-1).all())


def _is_causal(keep: np.ndarray) -> bool:
    """Whether a mask (B, H, Sq, Sk) is the square lower triangle for all batches and heads."""
    queries, keys = keep.shape[-2:]
    return queries == keys > 1 and bool((keep == np.tril(np.ones((queries, keys), bool))).all())
