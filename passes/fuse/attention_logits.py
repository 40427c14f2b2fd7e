"""From a softmax back to the query-key product, and forward to the probability-value product."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op, source_layer
from edgec.passes.editing import constant, consumers, producer, scalar
from edgec.passes.fuse.attention_product import Product, read_product
from edgec.passes.fuse.attention_views import scalar_factor
from edgec.passes.fuse.axes import MOVES
from edgec.passes.infra import Refusal

_PASS_THROUGH = (
    *MOVES,
    "Cast",
    "Dropout",
    "Where",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Slice",
    "Split",
    "Concat",
    "Conv",
    "BatchNormalization",
    "Gather",
)
_MOST_PATHS = 32


@dataclasses.dataclass(frozen=True)
class Step:
    """One node between the query-key product and the softmax.

    Attributes:
        kind: `move`, `scale` (by `factor`), `multiply` or `divide` (by `operand`), `add` (`operand`),
            `where` (keep the logits where `operand` is `keep`, else `factor`), `cast`, `tanh`.
        node: the node.
        operand: the other tensor of a binary op.
        factor: a scalar, by kind.
        keep: for `where`.
    """

    kind: str
    node: ir.Node
    operand: ir.Value | None = None
    factor: float = 1.0
    keep: bool = True


@dataclasses.dataclass(frozen=True)
class Path:
    """One way back from a softmax.

    Attributes:
        steps: the nodes passed, from the softmax on.
        end: the node where it ended; None at a graph input or a constant.
        product: the product it ended at, if it did.
        shared: the first tensor on the way that others read too.
    """

    steps: tuple[Step, ...]
    end: ir.Node | None
    product: Product | None
    shared: ir.Value | None


def name_of(node: ir.Node) -> str:
    """How a reason names a node: op, node and source layer."""
    layer = source_layer(node)
    name = node.name or node.outputs[0].name
    return f"{node.op_type} {name!r}" + (f" of layer {layer!r}" if layer != name else "")


def paths_back(value: ir.Value) -> list[Path]:
    """All ways from the logits back to where they were made, those that end at a product first."""
    found = []
    for path in _walk(value, (), None):
        found.append(path)
        if len(found) == _MOST_PATHS:
            break
    return sorted(found, key=lambda path: (path.product is None, sum(s.kind == "move" for s in path.steps)))


def _walk(value: ir.Value, steps: tuple[Step, ...], shared: ir.Value | None) -> Iterator[Path]:
    node = producer(value)
    if shared is None and (len(consumers(value)) > 1 or value.is_graph_output()):
        shared = value
    product = read_product(node)
    if node is None or product is not None or len(steps) > 40:
        yield Path(steps, node, product, shared)
        return
    branches = list(_branches(node))
    for step, source in branches:
        yield from _walk(source, (*steps, step), shared)
    if not branches:
        yield Path(steps, node, None, shared)


def _branches(node: ir.Node) -> Iterator[tuple[Step, ir.Value]]:
    first = node.inputs[0] if node.inputs else None
    if first is None:
        return
    if is_op(node, *MOVES):
        yield Step("move", node), first
    elif is_op(node, "Tanh"):
        yield Step("tanh", node), first
    elif is_inactive_dropout(node):
        yield Step("cast", node), first
    elif is_op(node, "Cast"):
        if first.dtype is not None and first.dtype.is_floating_point():
            yield Step("cast", node), first
    elif (scaled := scalar_factor(node)) is not None:
        yield Step("scale", node, factor=scaled[1]), scaled[0]
    elif is_op(node, "Where"):
        yield from _where(node)
    elif is_op(node, "Add", "Sub", "Mul", "Div"):
        yield from _binary(node)


def _where(node: ir.Node) -> Iterator[tuple[Step, ir.Value]]:
    condition, chosen, other = node.inputs
    if condition is None or chosen is None or other is None:
        return
    for logits, fill, keep in ((other, chosen, False), (chosen, other, True)):
        value = uniform(fill)
        if value is not None and _same_shape(logits, node.outputs[0]):
            yield Step("where", node, condition, value, keep), logits


def _binary(node: ir.Node) -> Iterator[tuple[Step, ir.Value]]:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    kind = {"Add": "add", "Sub": "add", "Mul": "multiply", "Div": "divide"}[node.op_type]
    for logits, operand in ((left, right), (right, left)):
        swapped = logits is right
        if constant(logits) is not None or not _same_shape(logits, node.outputs[0]):
            continue
        if swapped and node.op_type in ("Sub", "Div"):
            continue
        yield Step(kind, node, operand, -1.0 if node.op_type == "Sub" else 1.0), logits


def _same_shape(value: ir.Value, output: ir.Value) -> bool:
    """Whether the output has the shape of one operand, but for leading axes of size one."""
    if value.shape is None or output.shape is None:
        return True
    added = len(output.shape) - len(value.shape)
    return list(output.shape) == [*[1] * added, *value.shape]


def is_inactive_dropout(node: ir.Node) -> bool:
    """Whether a node is a Dropout that passes its input on."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    return is_op(node, "Dropout") and (training is None or scalar(training) == 0)


def uniform(value: ir.Value) -> float | None:
    """The number that all elements of a constant have, else None."""
    found = scalar(value)
    if found is not None:
        return found
    array = constant(value)
    if array is None or array.size == 0 or not np.all(array == array.flat[0]):
        return None
    return float(array.flat[0])


def feeds_product(value: ir.Value, depth: int = 16) -> bool:
    """Whether a tensor reaches a product by movement and elementwise ops with constants."""
    if depth == 0:
        return False
    for node in consumers(value):
        if is_op(node, "MatMul", "Gemm", "Einsum"):
            return True
        if not is_op(node, *_PASS_THROUGH):
            continue
        if is_op(node, "Mul", "Add", "Sub") and all(
            operand is value or constant(operand) is None for operand in node.inputs
        ):
            continue  # a gate: the tensor weighs something that is not made of constants
        if any(feeds_product(output, depth - 1) for output in node.outputs):
            return True
    return False


@dataclasses.dataclass(frozen=True)
class Zeroing:
    """A Where that sets probabilities to zero.

    Attributes:
        node: the Where.
        condition: its condition.
        keep: the condition's value where the probabilities stay.
        moved: how many of the weighing's moves stand before it.
    """

    node: ir.Node
    condition: ir.Value
    keep: bool
    moved: int


@dataclasses.dataclass(frozen=True)
class Weighing:
    """How probabilities reach the product with the values.

    Attributes:
        moves: the moving nodes and casts on the way.
        product: the product.
        side: which operand the probabilities are.
        guard: the Where that turns NaN into zero, if one does.
        zeroings: what sets some of them to zero on the way.
    """

    moves: tuple[ir.Node, ...]
    product: Product
    side: int
    guard: ir.Node | None
    zeroings: tuple[Zeroing, ...] = ()


def follow_probabilities(softmax: ir.Node) -> Weighing | None:
    """From a softmax to the one product that its output goes into.

    Movement, casts, a guard against NaN and Wheres that set some of them to zero may stand between.

    Returns None where it feeds no product at all.

    Raises:
        Refusal: it does, but not only, or not unchanged.
    """
    value = softmax.outputs[0]
    moves: list[ir.Node] = []
    guard = None
    zeroings: list[Zeroing] = []
    while True:
        readers = consumers(value)
        guarded = _nan_guard(value, readers)
        if guarded is not None and not value.is_graph_output():
            guard = guarded
            value = guarded.outputs[0]
            continue
        if len(readers) != 1 or value.is_graph_output():
            if not feeds_product(value):
                return None
            raise Refusal(_second_consumer(value, readers))
        node = readers[0]
        if is_op(node, *MOVES, "Cast") or is_inactive_dropout(node):
            moves.append(node)
            value = node.outputs[0]
            continue
        product = read_product(node)
        if product is not None:
            if product.operands[0] is product.operands[1]:
                raise Refusal(f"the probabilities {value.name!r} are multiplied by themselves")
            side = 0 if product.operands[0] is value else 1
            return Weighing(tuple(moves), product, side, guard, tuple(zeroings))
        zeroing = _zeroing(node, value, len(moves))
        if zeroing is not None and feeds_product(node.outputs[0]):
            zeroings.append(zeroing)
            value = node.outputs[0]
            continue
        if not is_op(node, "MatMul", "Gemm", "Einsum") and not feeds_product(value):
            return None
        raise Refusal(
            f"the probabilities {value.name!r} go through {name_of(node)} before they weigh the values"
        )


def _zeroing(node: ir.Node, value: ir.Value, moved: int) -> Zeroing | None:
    if not is_op(node, "Where") or not _same_shape(value, node.outputs[0]):
        return None
    condition, chosen, other = node.inputs
    if condition is None or condition is value or chosen is None or other is None:
        return None
    if other is value and uniform(chosen) == 0.0:
        return Zeroing(node, condition, False, moved)
    if chosen is value and uniform(other) == 0.0:
        return Zeroing(node, condition, True, moved)
    return None


def _nan_guard(value: ir.Value, readers: list[ir.Node]) -> ir.Node | None:
    """The Where of `Where(IsNaN(p), 0, p)`, if that is all that reads p."""
    if len(readers) != 2:
        return None
    isnan = next((node for node in readers if is_op(node, "IsNaN")), None)
    where = next((node for node in readers if is_op(node, "Where")), None)
    if isnan is None or where is None or where.inputs[0] is not isnan.outputs[0]:
        return None
    if len(consumers(isnan.outputs[0])) != 1 or where.inputs[2] is not value:
        return None
    chosen = where.inputs[1]
    return where if chosen is not None and uniform(chosen) == 0.0 else None


def _second_consumer(value: ir.Value, readers: list[ir.Node]) -> str:
    names = [name_of(node) for node in readers]
    if value.is_graph_output():
        names.append("the graph's outputs")
    return f"the probabilities {value.name!r} have more than one consumer: {', '.join(names)}"
