"""Rules of ops that work element by element, in whatever order their operands lie."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.targets.coreml.neural_engine.registry import rule
from edgec.targets.coreml.neural_engine.storage import Axes, Factor, Stored, common
from edgec.targets.coreml.neural_engine.walk import Results, Walk, laid

_UNARY = (
    *("Abs", "Cast", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
    *("Identity", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
)
_MANY = (
    *(
        "Add",
        "And",
        "Clip",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Mean",
    ),
    *("Min", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)


@rule(*_UNARY, *_MANY)
def elementwise(walk: Walk, node: ir.Node) -> Results:
    """One operand leads; the others are brought into its order, constants while compiling.

    The lead is the operand whose order costs the fewest bytes to bring the others to; between equals,
    the one whose axes are least broken up.
    """
    operands = [walk.given(node, index) for index in range(len(node.inputs))]
    tensors = [operand.refreshed() for operand in operands if isinstance(operand, Stored)]
    shapes = [operand.shape for operand in operands if operand is not None]
    shape = np.broadcast_shapes(*shapes)
    together = aligned(tensors, len(shape))
    if together is None:
        return None
    leads = [tensor for tensor in together if tensor.shape == shape]
    if not leads:
        return None
    lead = min(leads, key=lambda one: (_cost(walk, one, together), _broken(one)))
    axes = lead.stored
    for tensor in together:
        cut = walk.split_groups(Stored(lead.value, lead.logical, axes), tensor.order)
        if cut is None:
            return None
        axes = cut
    ready: list[ir.Value | None] = []
    remaining = iter(together)
    for operand in operands:
        if operand is None:
            ready.append(None)
        elif isinstance(operand, Stored):
            tensor = next(remaining)
            ready.append(walk.emit.arrange(tensor, _within(axes, tensor)).value)
        else:
            ready.append(walk.emit.constant(laid(operand, lead.logical, axes)))
    result = Stored(lead.value, lead.logical, axes)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    sizes = [int(np.prod([factor.size for factor in axis], initial=1)) for axis in axes]
    [value] = walk.emit.op(node.op_type, ready, [sizes], dtype=node.outputs[0].dtype, attributes=attributes)
    return [Stored(value, result.logical, axes)]


def aligned(tensors: list[Stored], rank: int) -> list[Stored] | None:
    """The tensors at one rank with the factors of equal axes shared; None where they do not divide."""
    raised = [tensor.read_as(((),) * (rank - len(tensor.logical)) + tensor.logical) for tensor in tensors]
    for later in range(1, len(raised)):
        for axis in range(rank):
            for earlier in range(later):
                first, second = raised[earlier].logical[axis], raised[later].logical[axis]
                if first and second and first != second:
                    parts = common(first, second)
                    if parts is None:
                        return None
                    raised = [
                        tensor.renamed(parts[1] if index == later else parts[0])
                        for index, tensor in enumerate(raised)
                    ]
    return raised


def _within(axes: Axes, tensor: Stored) -> Axes:
    """Another tensor's axes, as far as this one has their factors."""
    own = set(tensor.order)
    return tuple(axis if axis and axis[0] in own else () for axis in axes)


def _cost(walk: Walk, lead: Stored, tensors: list[Stored]) -> int:
    order = lead.order
    total = 0
    for tensor in tensors:
        own = set(tensor.order)
        if walk.emit.would_move(tensor, tuple(factor for factor in order if factor in own)):
            total += tensor.bytes
    return total


def _broken(tensor: Stored) -> int:
    """How many of its axes do not lie in one run; channels that come last count as half of one."""
    broken = 2 * sum(not tensor.is_run(axis) for axis in tensor.logical)
    last: Factor | None = tensor.logical[-1][-1] if tensor.logical and tensor.logical[-1] else None
    return broken + (bool(tensor.order) and tensor.order[-1] is last)
