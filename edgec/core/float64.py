"""Running a model in float64, to learn what its own float32 rounds away.

ONNX Runtime has float64 kernels for most ops and expands those that have a definition (whose constants, such
as the scale of `Attention`, ONNX has in float32). What it lacks is written in ops that it has (convolutions,
average pooling, the error function), and the few ops left compute in float32 between two casts: their one
rounding is far less than that of a whole network in float32.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import ONNX_OPSET
from edgec.core.evaluation import Evaluator
from edgec.core.float_types import all_nodes, retype
from edgec.core.graph import Arrays

_LACKS = re.compile(r"Could not find an implementation for (\w+)\(")
_MOST_POSITIONS = 1024
"""A kernel of more places is left to float32: its sum would have as many terms."""

_END = np.iinfo(np.int64).max


class Float64Evaluator:
    """A model opened to run in float64; a context manager.

    Args:
        model: the model in float32, with the bodies of all functions that it calls; left as it is.

    Raises:
        Exception: what ONNX Runtime raises on a model that it cannot take in float64 either.
    """

    def __init__(self, model: ir.Model) -> None:
        self._evaluator = _opened(model)

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Every output by name, in float64 where the model has float32; feeds are those of the model."""
        wide = {
            name: array.astype(np.float64) if array.dtype == np.float32 else array
            for name, array in feeds.items()
        }
        return self._evaluator.run(wide)

    def close(self) -> None:
        """Free the session and its files."""
        self._evaluator.close()

    def __enter__(self) -> Float64Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(model: ir.Model) -> Evaluator:
    narrow: set[str] = set()
    while True:
        wide = _in_float64(model, narrow)
        try:
            return Evaluator(wide)
        except Exception as error:  # ONNX Runtime has no common class for what it lacks
            lacking = _LACKS.search(str(error))
            if lacking is None or lacking[1] in narrow:
                raise
            narrow.add(lacking[1])


def _in_float64(model: ir.Model, narrow: set[str]) -> ir.Model:
    """A copy in float64 in which the ops named in `narrow` compute in float32."""
    copy = model.clone()
    retype(copy, ir.DataType.FLOAT, ir.DataType.DOUBLE)
    for node in all_nodes(copy):
        if node.domain != "" or node.graph is None:
            continue
        written = _WRITTEN_OUT.get(node.op_type)
        new = written(node) if written is not None else None
        if new is not None:
            _replace(node, new)
        else:
            _narrow(node, whole=node.op_type in narrow)
    return copy


class _Tape:
    """Nodes made one after the other, each of one output."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        node = ir.node(op_type, inputs, attributes=attributes)  # type: ignore[arg-type]
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: np.ndarray) -> ir.Value:
        node = ir.node("Constant", [], attributes={"value": ir.tensor(np.asarray(array))})
        self.nodes.append(node)
        return node.outputs[0]

    def number(self, value: float) -> ir.Value:
        return self.constant(np.array(value, np.float64))


def _replace(node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put nodes in place of one; the last one's output is its output."""
    graph = node.graph
    assert graph is not None
    old, new = node.outputs[0], nodes[-1].outputs[0]
    graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    name, declared, shape = old.name, old.type, old.shape
    graph.remove(node, safe=True)
    new.name, new.type, new.shape = name, declared, shape


def _narrow(node: ir.Node, *, whole: bool) -> None:
    """Cast what a node must have in float32 to that, and what it makes of it back: all, or what ONNX says."""
    graph = node.graph
    assert graph is not None
    takes, makes = _float32_only(node.op_type, graph.opset_imports.get("", ONNX_OPSET))
    for index, value in enumerate(node.inputs):
        if value is not None and _is_wide(value) and (whole or takes(index)):
            cast = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT})
            graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])
    last = node
    for index, output in enumerate(node.outputs):
        if not _is_wide(output) or not (whole or makes(index)):
            continue
        cast = ir.node("Cast", [output], attributes={"to": ir.DataType.DOUBLE})
        users = [use for use in output.uses() if use.node is not cast]
        for use in users:
            use.node.replace_input_with(use.idx, cast.outputs[0])
        graph.insert_after(last, cast)
        last = cast
        wide = cast.outputs[0]
        wide.type, wide.shape = ir.TensorType(ir.DataType.DOUBLE), output.shape
        output.type = ir.TensorType(ir.DataType.FLOAT)
        for place, result in enumerate(graph.outputs):
            if result is output:
                graph.outputs[place] = wide
                wide.name, output.name = output.name, f"{output.name}_float32"


@functools.cache
def _float32_only(op_type: str, opset: int) -> tuple[Callable[[int], bool], Callable[[int], bool]]:
    """Which inputs and outputs of an op may be float32 and never float64, by the op's schema.

    `Resize` has its scales in float32 always, `NonMaxSuppression` all.
    """
    if not onnx.defs.has(op_type, opset, ""):
        return lambda _: False, lambda _: False
    schema = onnx.defs.get_schema(op_type, opset, "")
    allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}

    def among(parameters: Sequence[onnx.defs.OpSchema.FormalParameter]) -> Callable[[int], bool]:
        only = []
        for parameter in parameters:
            types = allowed.get(parameter.type_str, {parameter.type_str})
            only.append("tensor(float)" in types and "tensor(double)" not in types)
        return lambda index: bool(only) and only[min(index, len(only) - 1)]

    return among(schema.inputs), among(schema.outputs)


def _is_wide(value: ir.Value) -> bool:
    return value.dtype in (None, ir.DataType.DOUBLE)


def _convolution(node: ir.Node) -> list[ir.Node] | None:
    """Conv as a sum over the kernel's places: each is a product of a strided view with the weights there."""
    x, weight = node.inputs[0], node.inputs[1]
    held = None if weight is None else ir.convenience.get_const_tensor(weight)
    places = _Places.of(node, None if held is None else tuple(held.numpy().shape[2:]))
    if x is None or held is None or places is None:
        return None
    weights = held.numpy().astype(np.float64)
    groups = node.attributes.get_int("group", 1)
    outputs, inputs = weights.shape[:2]
    parted = weights.reshape(groups, outputs // groups, inputs, -1)
    tape = _Tape()
    padded = places.padded(tape, x, 0.0)
    rows = tape.constant(np.array([0, groups, inputs, -1]))
    total, view = None, padded
    for index, offset in enumerate(places.offsets):
        view = places.view(tape, padded, offset)
        product = tape.op("MatMul", [tape.constant(parted[..., index]), tape.op("Reshape", [view, rows])])
        total = product if total is None else tape.op("Add", [total, product])
    assert total is not None
    sizes = tape.op("Shape", [view])
    batch = tape.op("Slice", [sizes, tape.constant(np.array([0])), tape.constant(np.array([1]))])
    spatial = tape.op("Slice", [sizes, tape.constant(np.array([2])), tape.constant(np.array([_END]))])
    shape = tape.op("Concat", [batch, tape.constant(np.array([outputs])), spatial], axis=0)
    result = tape.op("Reshape", [total, shape])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        aligned = tape.constant(np.array([1, -1] + [1] * (weights.ndim - 2)))
        result = tape.op("Add", [result, tape.op("Reshape", [bias, aligned])])
    return tape.nodes


def _average_pool(node: ir.Node) -> list[ir.Node] | None:
    """AveragePool as the mean of the window's views; padding counts or does not."""
    x, kernel = node.inputs[0], node.attributes.get_ints("kernel_shape")
    places = _Places.of(node, None if kernel is None else tuple(kernel))
    if x is None or places is None or node.attributes.get_int("ceil_mode", 0) == 1:
        return None
    tape = _Tape()
    padded = places.padded(tape, x, 0.0)
    views = [places.view(tape, padded, offset) for offset in places.offsets]
    total = tape.op("Sum", views)
    if node.attributes.get_int("count_include_pad", 0) == 1 or not any(places.pads):
        count = tape.number(float(len(views)))
    else:
        ones = tape.op("Expand", [tape.number(1.0), tape.op("Shape", [x])])
        inside = places.padded(tape, ones, 0.0)
        count = tape.op("Sum", [places.view(tape, inside, offset) for offset in places.offsets])
    tape.op("Div", [total, count])
    return tape.nodes


def _global(reduction: str):  # type: ignore[no-untyped-def]
    def written(node: ir.Node) -> list[ir.Node] | None:
        x = node.inputs[0]
        if x is None or x.shape is None:
            return None
        tape = _Tape()
        tape.op(reduction, [x, tape.constant(np.arange(2, len(x.shape)))], keepdims=1)
        return tape.nodes

    return written


def _instance_norm(node: ir.Node) -> list[ir.Node] | None:
    x, scale, bias = node.inputs
    if x is None or scale is None or bias is None or x.shape is None:
        return None
    tape = _Tape()
    axes = tape.constant(np.arange(2, len(x.shape)))
    aligned = tape.constant(np.array([1, -1] + [1] * (len(x.shape) - 2)))
    centred = tape.op("Sub", [x, tape.op("ReduceMean", [x, axes])])
    variance = tape.op("ReduceMean", [tape.op("Mul", [centred, centred]), axes])
    epsilon = tape.number(node.attributes.get_float("epsilon", 1e-5))
    normed = tape.op("Div", [centred, tape.op("Sqrt", [tape.op("Add", [variance, epsilon])])])
    scaled = tape.op("Mul", [normed, tape.op("Reshape", [scale, aligned])])
    tape.op("Add", [scaled, tape.op("Reshape", [bias, aligned])])
    return tape.nodes


_ERF_NEAR = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_ERF_FAR = (
    (
        *(2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1),
        *(2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3),
        1.23033935479799725e3,
    ),
    (
        *(1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2),
        *(1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3),
        1.23033935480374942e3,
    ),
)
"""Numerators and denominators, highest power first. W. J. Cody, Rational Chebyshev approximations for the
error function, Mathematics of Computation 23 (1969): erf(x) = x R(x²) up to 0.46875, erfc(x) = exp(-x²) R(x)
beyond."""


def _erf(node: ir.Node) -> list[ir.Node] | None:
    x = node.inputs[0]
    if x is None:
        return None
    tape = _Tape()
    _error_function(tape, x)
    return tape.nodes


def _gelu(node: ir.Node) -> list[ir.Node] | None:
    x = node.inputs[0]
    if x is None:
        return None
    tape = _Tape()
    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = tape.op("Mul", [tape.op("Mul", [x, x]), tape.op("Mul", [x, tape.number(0.044715)])])
        at = tape.op("Mul", [tape.op("Add", [x, cube]), tape.number(math.sqrt(2 / math.pi))])
        share = tape.op("Tanh", [at])
    else:
        share = _error_function(tape, tape.op("Mul", [x, tape.number(math.sqrt(0.5))]))
    half = tape.op("Mul", [x, tape.number(0.5)])
    tape.op("Mul", [half, tape.op("Add", [share, tape.number(1.0)])])
    return tape.nodes


def _error_function(tape: _Tape, x: ir.Value) -> ir.Value:
    def polynomial(coefficients: tuple[float, ...], at: ir.Value) -> ir.Value:
        total = tape.number(coefficients[0])
        for coefficient in coefficients[1:]:
            total = tape.op("Add", [tape.op("Mul", [total, at]), tape.number(coefficient)])
        return total

    def ratio(both: tuple[tuple[float, ...], tuple[float, ...]], at: ir.Value) -> ir.Value:
        return tape.op("Div", [polynomial(both[0], at), polynomial(both[1], at)])

    square = tape.op("Mul", [x, x])
    # Bounded, so that the branch that is not taken stays finite.
    size = tape.op("Min", [tape.op("Abs", [x]), tape.number(6.0)])
    near = tape.op("Mul", [x, ratio(_ERF_NEAR, tape.op("Min", [square, tape.number(0.25)]))])
    rest = tape.op("Exp", [tape.op("Neg", [tape.op("Mul", [size, size])])])
    far = tape.op("Sub", [tape.number(1.0), tape.op("Mul", [rest, ratio(_ERF_FAR, size)])])
    signed = tape.op("Mul", [tape.op("Sign", [x]), far])
    return tape.op("Where", [tape.op("LessOrEqual", [size, tape.number(0.46875)]), near, signed])


def _hard_swish(node: ir.Node) -> list[ir.Node] | None:
    x = node.inputs[0]
    if x is None:
        return None
    tape = _Tape()
    share = tape.op("Add", [tape.op("Div", [x, tape.number(6.0)]), tape.number(0.5)])
    tape.op("Mul", [x, tape.op("Clip", [share, tape.number(0.0), tape.number(1.0)])])
    return tape.nodes


def _mish(node: ir.Node) -> list[ir.Node] | None:
    x = node.inputs[0]
    if x is None:
        return None
    tape = _Tape()
    # log(1 + exp(x)), in the form that does not overflow.
    small = tape.op("Exp", [tape.op("Neg", [tape.op("Abs", [x])])])
    rest = tape.op("Log", [tape.op("Add", [small, tape.number(1.0)])])
    tape.op("Mul", [x, tape.op("Tanh", [tape.op("Add", [tape.op("Relu", [x]), rest])])])
    return tape.nodes


def _mean(node: ir.Node) -> list[ir.Node] | None:
    values = [value for value in node.inputs if value is not None]
    tape = _Tape()
    tape.op("Div", [tape.op("Sum", values), tape.number(float(len(values)))])
    return tape.nodes


_WRITTEN_OUT = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "Erf": _erf,
    "Gelu": _gelu,
    "GlobalAveragePool": _global("ReduceMean"),
    "GlobalMaxPool": _global("ReduceMax"),
    "HardSwish": _hard_swish,
    "InstanceNormalization": _instance_norm,
    "Mean": _mean,
    "Mish": _mish,
}


class _Places:
    """The places of a window that moves over a padded tensor (N, C, …).

    Attributes:
        pads: before and after each spatial axis, as ONNX orders them.
        offsets: where the window's places begin, by axis.
    """

    def __init__(
        self,
        pads: tuple[int, ...],
        strides: tuple[int, ...],
        dilations: tuple[int, ...],
        kernel: tuple[int, ...],
    ) -> None:
        self.pads = pads
        self._strides = strides
        self._reach = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
        self.offsets = [
            tuple(index * dilation for index, dilation in zip(place, dilations, strict=True))
            for place in np.ndindex(*kernel)
        ]

    @classmethod
    def of(cls, node: ir.Node, kernel: tuple[int, ...] | None) -> _Places | None:
        """A node's window; None where it cannot be told without sizes."""
        if kernel is None or math.prod(kernel) > _MOST_POSITIONS:
            return None
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        rank = len(kernel)
        strides = tuple(node.attributes.get_ints("strides") or [1] * rank)
        dilations = tuple(node.attributes.get_ints("dilations") or [1] * rank)
        pads = tuple(node.attributes.get_ints("pads") or [0] * 2 * rank)
        if mode == "VALID":
            pads = (0,) * 2 * rank
        elif mode != "NOTSET":
            x = node.inputs[0]
            declared = () if x is None or x.shape is None else x.shape[2:]
            sizes = [size for size in declared if isinstance(size, int)]
            if len(sizes) != rank:
                return None
            before, after = [], []
            for size, step, dilation, width in zip(sizes, strides, dilations, kernel, strict=True):
                lacking = max(0, (-(-size // step) - 1) * step + dilation * (width - 1) + 1 - size)
                small, large = lacking // 2, lacking - lacking // 2
                before.append(small if mode == "SAME_UPPER" else large)
                after.append(large if mode == "SAME_UPPER" else small)
            pads = (*before, *after)
        return cls(pads, strides, dilations, kernel)

    def padded(self, tape: _Tape, x: ir.Value, number: float) -> ir.Value:
        if not any(self.pads):
            return x
        rank = len(self.pads) // 2
        pads = [0, 0, *self.pads[:rank], 0, 0, *self.pads[rank:]]
        return tape.op("Pad", [x, tape.constant(np.array(pads)), tape.number(number)])

    def view(self, tape: _Tape, padded: ir.Value, offset: tuple[int, ...]) -> ir.Value:
        """What lies under one place of the window, for every place that the window takes."""
        ends = [
            begin - reach if begin < reach else _END for begin, reach in zip(offset, self._reach, strict=True)
        ]
        axes = list(range(2, 2 + len(offset)))
        constants = [np.array(list(numbers)) for numbers in (offset, ends, axes, self._strides)]
        return tape.op("Slice", [padded, *[tape.constant(array) for array in constants]])
