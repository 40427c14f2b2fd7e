"""What one node does with the token axis.

A node either keeps the axis (elementwise ops, products with weights, norms, attention, data movement), or
picks leading tokens, which must then be protected, or needs all tokens: that is an `Obstacle`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgec.core import op_traits
from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, rank, sizes
from edgec.passes.fuse.axes import MOVES, Axes, AxesError, Layout
from edgec.passes.tokens.masks import key_mask

UNARY = op_traits.UNARY | {"Dropout", "Identity"}
"""Each token by itself; an export's Dropout changes nothing."""
NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
SPECIAL = 16
"""More leading tokens than any model singles out; a higher index is an ordinary token's."""


class Obstacle(Exception):  # noqa: N818 - it is a finding, not an error
    """Why a node needs all tokens."""


@dataclasses.dataclass(frozen=True)
class Pick:
    """Leading tokens that a node takes out of the sequence.

    Attributes:
        value: the tokens.
        rows: their places in the sequence.
    """

    value: ir.Value
    rows: tuple[int, ...]


@dataclasses.dataclass
class Step:
    """What one node does with the token axis.

    Attributes:
        carries: the axis in each output that has it.
        edits: what to change in the node so that it takes another number of tokens.
        singled: how many leading tokens must keep their place for this node.
        picks: those of them that it takes out.
    """

    carries: dict[ir.Value, int] = dataclasses.field(default_factory=dict)
    edits: list[Callable[[Editor, int], None]] = dataclasses.field(default_factory=list)
    singled: int = 0
    picks: tuple[Pick, ...] = ()


def read(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    """What the node does with the token axis.

    Raises:
        Obstacle: it needs all tokens, or nothing is known of it.
    """
    if node.domain not in ("", "ai.onnx"):
        raise Obstacle(f"{node.domain}::{node.op_type} is not known to work token by token")
    reader = _READERS.get(node.op_type)
    if reader is None:
        raise Obstacle(f"{node.op_type} is not known to work token by token")
    return reader(node, carries)


def _main(node: ir.Node, carries: dict[ir.Value, int]) -> tuple[ir.Value, int]:
    """The node's first input, which alone may carry tokens."""
    for value in node.inputs[1:]:
        if value in carries:
            raise Obstacle(f"its input {value.name!r} has tokens")
    value = node.inputs[0]
    assert value is not None
    return value, carries[value]


def _unary(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    _, axis = _main(node, carries)
    return Step({node.outputs[0]: axis})


def _binary(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    output = node.outputs[0]
    total = rank(output)
    if total is None:
        raise Obstacle("its rank is unknown")
    behind = None
    for value in node.inputs:
        if value in carries and value is not None:
            mine = _known_rank(value) - carries[value]
            if behind not in (None, mine):
                raise Obstacle("its operands have their tokens in different axes")
            behind = mine
    assert behind is not None
    for value in node.inputs:
        if value is None or value in carries:
            continue
        shape = sizes(value)
        if shape is None:
            raise Obstacle(f"the shape of {value.name!r} is unknown")
        if len(shape) >= behind and shape[len(shape) - behind] != 1:
            raise Obstacle(f"{value.name!r} has a value for each token")
    return Step({output: total - behind})


def _rotary(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    """Angles follow the tokens: the sweep gives each the place of the largest token that it is made of."""
    value, axis = _main(node, carries)
    if axis != _known_rank(value) - 2:
        raise Obstacle("its tokens are not in the axis before the last")
    count = samples(value, sizes(value)[axis])  # type: ignore[index]
    if count is None:
        raise Obstacle("it is not known which sample each of its rows is of")
    positions = node.inputs[3] if len(node.inputs) > 3 else None
    if positions is None and not all(rank(cache) == 3 and one_sequence(cache) for cache in node.inputs[1:3]):
        raise Obstacle("its angles belong to the tokens' places and differ from sample to sample")
    if positions is not None and (sizes(positions) or (None,))[0] != count:
        raise Obstacle("its positions are not one row a sample")
    return Step({node.outputs[0]: axis})


def samples(value: ir.Value, tokens: int | None) -> int | None:
    """How many samples the rows and heads of (rows, heads, tokens, depth) are of, one sample after the other.

    Heads may stand among the rows, or samples among the heads. None where the way back to (samples, tokens,
    channels) does not tell.
    """
    axes = Axes()
    own: Layout = tuple(axes.fresh(size or f"open {place}") for place, size in enumerate(sizes(value) or ()))
    layout: Layout | None = own
    source = value
    while len(shape := sizes(source) or ()) != 3 or shape[1] != tokens:
        node = source.producer()
        before = None if node is None else next((v for v in node.inputs if constant(v) is None), None)
        if node is None or before is None:
            return None
        try:
            if is_op(node, *MOVES):
                layout = None if layout is None else axes.backward(node, layout)
            elif sizes(before) != sizes(source):
                layout = None
        except AxesError:
            layout = None
        source = before
    count = shape[0]
    if count == 1 or (sizes(value) or (None,))[0] == count:
        return count
    if layout is None:
        return None
    outermost = axes.resolve((*own[0], *own[1]))[: len(axes.resolve(layout[0]))]
    return count if outermost == axes.resolve(layout[0]) else None


def one_sequence(cache: ir.Value | None) -> bool:
    """Whether angles (B, N, D) are those of one sequence: B is 1, or all of them are constant and equal."""
    shape, array = sizes(cache), constant(cache)
    return (shape is not None and shape[0] == 1) or (array is not None and bool((array == array[:1]).all()))


def _norm(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    first = attribute(node, "axis", -1)
    if first % _known_rank(value) <= axis:
        raise Obstacle("it normalises over tokens")
    return Step({node.outputs[0]: axis})


def _softmax(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    if attribute(node, "axis", -1) % _known_rank(value) == axis:
        raise Obstacle("it runs over tokens outside an attention")
    return Step({node.outputs[0]: axis})


def _matmul(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    if right in carries:
        raise Obstacle("its right factor has tokens")
    axis, ranks = carries[left], (_known_rank(left), _known_rank(right))
    if axis == ranks[0] - 1:
        raise Obstacle("it sums over tokens")
    if ranks[0] < 2 or (ranks[1] > 2 and axis != ranks[0] - 2 and sizes(right)[axis - ranks[0]] != 1):  # type: ignore[index]
        raise Obstacle("its right factor differs from token to token")
    total = rank(node.outputs[0])
    if total is None:
        raise Obstacle("its rank is unknown")
    return Step({node.outputs[0]: total - (ranks[0] - axis)})


def _gemm(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    _, axis = _main(node, carries)
    if axis != 0 or attribute(node, "transA", 0):
        raise Obstacle("it sums over tokens")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    shape = sizes(bias)
    if shape is not None and len(shape) == 2 and shape[0] != 1:
        raise Obstacle("its bias has a value for each token")
    return Step({node.outputs[0]: 0})


def _transpose(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    order = attribute(node, "perm") or list(reversed(range(_known_rank(value))))
    return Step({node.outputs[0]: list(order).index(axis)})


def _reshape(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    before, after = sizes(value), sizes(node.outputs[0])
    target = constant(node.inputs[1])
    if before is None or after is None or target is None or None in (*before, *after):
        raise Obstacle("its shapes are not fixed")
    ahead = math.prod(before[:axis])  # type: ignore[arg-type]
    for place, size in enumerate(after):
        if size == before[axis] and math.prod(after[:place]) == ahead:  # type: ignore[arg-type]
            break
    else:
        raise Obstacle(f"it mixes tokens with another axis ({before} to {after})")
    # An axis of size one may stand before or after: 1 x 1 x N has three places of one prefix product.
    wanted = [int(size) for size in after]  # type: ignore[arg-type]

    def edit(editor: Editor, length: int) -> None:
        wanted[place] = length
        node.replace_input_with(1, editor.initializer(np.array(wanted, np.int64), f"{node.name}/shape"))

    return Step({node.outputs[0]: place}, [edit])


def _unsqueeze(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    axes = _axes(node, _known_rank(value), grown=True)
    kept = [place for place in range(_known_rank(value) + len(axes)) if place not in axes]
    return Step({node.outputs[0]: kept[axis]})


def _squeeze(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    axes = _axes(node, _known_rank(value))
    if axis in axes:
        raise Obstacle("it squeezes the tokens away")
    return Step({node.outputs[0]: axis - sum(place < axis for place in axes)})


def _split(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    if attribute(node, "axis", 0) % _known_rank(value) == axis:
        raise Obstacle("it splits the tokens")
    return Step(dict.fromkeys(node.outputs, axis))


def _concat(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    first = next(value for value in node.inputs if value in carries)
    assert first is not None
    axis = carries[first]
    if attribute(node, "axis") % _known_rank(first) == axis:
        raise Obstacle("it adds tokens")
    if any(carries.get(value) != axis for value in node.inputs if value is not None):
        raise Obstacle("its other inputs have all tokens")
    return Step({node.outputs[0]: axis})


def _gather(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    indices = constant(node.inputs[1])
    if indices is None:
        raise Obstacle("its indices are computed")
    along = attribute(node, "axis", 0) % _known_rank(value)
    if along != axis:
        moved = axis + (indices.ndim - 1 if along < axis else 0)
        return Step({node.outputs[0]: moved})
    if indices.size and indices.min() >= 0 and indices.max() < SPECIAL:
        rows = tuple(int(row) for row in indices.flat)
        return Step(singled=max(rows) + 1, picks=(Pick(node.outputs[0], rows),))
    raise Obstacle("it picks tokens by their place")


def slice_bounds(node: ir.Node, axis: int) -> tuple[int, int] | None:
    """Start and end on an axis, step 1; None where they are not constant."""
    values = [constant(value) for value in node.inputs[1:]]
    total = _known_rank(node.inputs[0])
    length = sizes(node.inputs[0])[axis]  # type: ignore[index]
    if any(value is None for value in values) or length is None:
        return None
    starts, ends = values[0], values[1]
    axes = values[2] if len(values) > 2 else np.arange(len(starts))  # type: ignore[arg-type]
    steps = values[3] if len(values) > 3 else np.ones_like(starts)  # type: ignore[arg-type]
    for start, end, place, step in zip(starts, ends, axes, steps, strict=True):  # type: ignore[arg-type]
        if int(place) % total != axis:
            continue
        if int(step) != 1:
            return None
        first, last = (min(max(int(at) + (length if at < 0 else 0), 0), length) for at in (start, end))
        return first, last
    return 0, length


def _slice(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    bounds = slice_bounds(node, axis)
    length = sizes(value)[axis]  # type: ignore[index]
    if bounds is None:
        raise Obstacle("it cuts the tokens at a computed place")
    if bounds == (0, length):
        return Step({node.outputs[0]: axis})
    if bounds[1] <= min(SPECIAL, length // 2):  # type: ignore[operator]
        return Step(singled=bounds[1], picks=(Pick(node.outputs[0], tuple(range(*bounds))),))
    raise Obstacle("it cuts the tokens")


def _reduce(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    total = _known_rank(value)
    axes = _axes(node, total)
    if not axes or axis in axes:
        raise Obstacle("it reduces over tokens")
    kept = attribute(node, "keepdims", 1)
    return Step({node.outputs[0]: axis - (0 if kept else sum(place < axis for place in axes))})


def _expand(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    value, axis = _main(node, carries)
    target, total = constant(node.inputs[1]), rank(node.outputs[0])
    if target is None or total is None:
        raise Obstacle("its shape is computed")
    behind = _known_rank(value) - axis
    wanted = [int(size) for size in target]

    def edit(editor: Editor, length: int) -> None:
        if len(wanted) >= behind and wanted[len(wanted) - behind] != 1:
            wanted[len(wanted) - behind] = length
            shape = editor.initializer(np.array(wanted, np.int64), f"{node.name}/shape")
            node.replace_input_with(1, shape)

    return Step({node.outputs[0]: total - behind}, [edit])


def _attention(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    step = attention_step(node, carries)
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None and key_mask(mask) is None:
        raise Obstacle("its bias has a value for each pair of tokens")
    return step


def attention_step(node: ir.Node, carries: dict[ir.Value, int]) -> Step:
    """What an `Attention` does with the token axis, whatever its mask is.

    Raises:
        Obstacle: it needs all tokens.
    """
    query, key, value = node.inputs[:3]
    for operand in (query, key, value):
        if rank(operand) != 4 or carries.get(operand, 2) != 2:  # type: ignore[arg-type]
            raise Obstacle("its operands are not (batch, heads, tokens, depth)")
    if (key in carries) != (value in carries):
        raise Obstacle("its keys have tokens and its values have not, or the other way round")
    if attribute(node, "softcap", 0.0):
        raise Obstacle("it caps its logits")
    if attribute(node, "is_causal", 0):
        raise Obstacle("it is causal: its tokens must keep their order")
    if any(node.inputs[index] is not None for index in range(4, len(node.inputs))):
        raise Obstacle("it has a cache")
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise Obstacle("its inner tensors are read")
    return Step({node.outputs[0]: 2} if query in carries else {})


def leading_cut(node: ir.Node, carries: dict[ir.Value, int]) -> int:
    """How many leading tokens a Slice or Split cuts off: they are special then."""
    source = node.inputs[0]
    if source not in carries:
        return 0
    if is_op(node, "Split"):
        return sum(len(pick.rows) for pick in split_picks(node, carries))
    if not is_op(node, "Slice"):
        return 0
    start = slice_bounds(node, carries[source])
    return start[0] if start is not None and 0 < start[0] <= SPECIAL else 0


def split_picks(node: ir.Node, carries: dict[ir.Value, int]) -> list[Pick]:
    """The leading tokens that a Split of the token axis takes out, one pick a part; none of other nodes."""
    source = node.inputs[0]
    if not is_op(node, "Split") or source is None or source not in carries:
        return []
    axis = carries[source]
    if attribute(node, "axis", 0) % _known_rank(source) != axis:
        return []
    picks: list[Pick] = []
    first = 0
    for output in node.outputs[:-1]:
        shape = sizes(output)
        count = None if shape is None else shape[axis]
        if count is None or first + count > SPECIAL:
            return []
        picks.append(Pick(output, tuple(range(first, first + count))))
        first += count
    return picks


def _known_rank(value: ir.Value | None) -> int:
    found = rank(value)
    if found is None:
        raise Obstacle("a rank is unknown")
    return found


def _axes(node: ir.Node, total: int, *, grown: bool = False) -> list[int]:
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = constant(given) if given is not None else attribute(node, "axes")
    if axes is None:
        return []
    count = total + (len(axes) if grown else 0)
    return [int(axis) % count for axis in axes]


_READERS: dict[str, Callable[[ir.Node, dict[ir.Value, int]], Step]] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(op_traits.BROADCASTING, _binary),
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), _reduce),
    "Softmax": _softmax,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Split": _split,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Expand": _expand,
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
}
