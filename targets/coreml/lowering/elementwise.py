"""Arithmetic, comparison, logic and casts, element by element."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.lowering.rank import by_element
from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, dtype_of
from edgec.targets.coreml.lowering.table import lowers

_UNARY = {
    "Acos": "acos",
    "Asin": "asin",
    "Atan": "atan",
    "Atanh": "atanh",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "Round": "round",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
}


@lowers(*_UNARY)
@by_element
def unary(site: Site) -> Operand:
    """One float op with the same name in MIL."""
    return site.in_float(_UNARY[site.op], site.operand(0))


@lowers("Abs", "Sign")
@by_element
def sign_or_magnitude(site: Site) -> Operand:
    """`abs` and `sign` know int32 as well."""
    return site.emit(site.op.lower(), x=site.operand(0))


@lowers("Neg")
@by_element
def negate(site: Site) -> Operand:
    """X · -1."""
    x = site.operand(0)
    return site.emit("mul", x=x, y=site.like(x, -1))


@lowers("Log")
def logarithm(site: Site) -> Operand:
    """`log` adds an epsilon of 1e-45 unless told not to."""
    x = site.operand(0)
    return site.emit("log", x=x, epsilon=site.like(x, 0))


@lowers("Reciprocal")
def reciprocal(site: Site) -> Operand:
    """1 / x; MIL's `inverse` would add an epsilon of 1e-4."""
    x = site.operand(0)
    return site.emit("real_div", x=site.like(x, 1), y=x)


@lowers("Asinh", "Acosh")
def inverse_hyperbolic(site: Site) -> Operand:
    """Asinh is sign(x)·log(|x| + sqrt(x² + 1)), which does not cancel; acosh has -1 under the root."""
    x = site.operand(0)
    magnitude = site.emit("abs", x=x) if site.op == "Asinh" else x
    offset = site.like(x, 1 if site.op == "Asinh" else -1)
    root = site.emit("sqrt", x=site.emit("add", x=site.emit("mul", x=magnitude, y=magnitude), y=offset))
    result = site.emit("log", x=site.emit("add", x=magnitude, y=root), epsilon=site.like(x, 0))
    return site.emit("mul", x=result, y=site.emit("sign", x=x)) if site.op == "Asinh" else result


_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
}


@lowers(*_BINARY)
@by_element
def binary(site: Site) -> Operand:
    """One op with numpy's broadcasting, the same in both."""
    x, y = site.operand(0), site.operand(1)
    if site.op == "Equal" and dtype_of(x) == np.bool_:
        x, y = site.cast(x, np.int32), site.cast(y, np.int32)
    return site.emit(_BINARY[site.op], x=x, y=y)


@lowers("Not")
@by_element
def logical_not(site: Site) -> Operand:
    """Logical negation."""
    return site.emit("logical_not", x=site.operand(0))


@lowers("Div")
@by_element
def divide(site: Site) -> Operand:
    """Floats divide; integers divide towards zero in ONNX, where MIL's floor_div goes down."""
    x, y = site.operand(0), site.operand(1)
    if dtype_of(x).kind == "f":
        return site.emit("real_div", x=x, y=y)
    quotient = site.emit("floor_div", x=site.emit("abs", x=x), y=site.emit("abs", x=y))
    sign = site.emit("mul", x=site.emit("sign", x=x), y=site.emit("sign", x=y))
    return site.emit("mul", x=quotient, y=sign)


@lowers("Mod")
def modulo(site: Site) -> Operand:
    """Floored by default; with `fmod` the result has the dividend's sign."""
    x, y = site.operand(0), site.operand(1)
    if not site.attribute("fmod", 0):
        return site.emit("mod", x=x, y=y)
    remainder = site.emit("mod", x=site.emit("abs", x=x), y=site.emit("abs", x=y))
    return site.emit("mul", x=remainder, y=site.emit("sign", x=x))


@lowers("Pow")
@by_element
def power(site: Site) -> Operand:
    """The result has the base's type."""
    x, y = site.operand(0), site.operand(1)
    base = dtype_of(x)
    if base.kind != "f":
        return site.cast(site.emit("pow", x=site.floating(x), y=site.floating(y)), base)
    return site.emit("pow", x=x, y=site.cast(y, base))


def _fold(site: Site, mil_op: str) -> Operand:
    first, *rest = site.operands()
    for other in rest:
        first = site.emit(mil_op, x=first, y=other)
    return first


@lowers("Max")
def maximum(site: Site) -> Operand:
    """The largest of any number of operands."""
    return _fold(site, "maximum")


@lowers("Min")
def minimum(site: Site) -> Operand:
    """The smallest of any number of operands."""
    return _fold(site, "minimum")


@lowers("Sum")
def add_all(site: Site) -> Operand:
    """The sum of any number of operands."""
    return _fold(site, "add")


@lowers("Mean")
def average_all(site: Site) -> Operand:
    """The mean of any number of operands."""
    total = _fold(site, "add")
    return site.emit("mul", x=total, y=site.like(total, 1 / len(site.operands())))


@lowers("Clip")
def clip(site: Site) -> Operand:
    """Bounds that are constants make `clip`; others, and integers, make minimum and maximum."""
    x, low, high = site.operand(0), site.optional(1), site.optional(2)
    known = all(bound is None or isinstance(bound, np.ndarray) for bound in (low, high))
    if known and low is not None and high is not None and dtype_of(x).kind == "f" and low <= high:
        return site.emit("clip", x=x, alpha=low.reshape(()), beta=high.reshape(()))
    if low is not None:
        x = site.emit("maximum", x=x, y=low)
    if high is not None:
        x = site.emit("minimum", x=x, y=high)
    return x if low is not None or high is not None else site.emit("identity", x=x)


@lowers("Where")
@by_element
def where(site: Site) -> Operand:
    """`select` with numpy's broadcasting."""
    return site.select(cond=site.operand(0), a=site.operand(1), b=site.operand(2))


@lowers("IsNaN")
def is_nan(site: Site) -> Operand:
    """NaN alone differs from itself."""
    x = site.operand(0)
    return site.emit("not_equal", x=x, y=x)


@lowers("IsInf")
def is_infinite(site: Site) -> Operand:
    """Compares with the infinities that are asked for."""
    x = site.operand(0)
    positive, negative = site.attribute("detect_positive", 1), site.attribute("detect_negative", 1)
    if positive and negative:
        return site.emit("equal", x=site.emit("abs", x=x), y=site.like(x, np.inf))
    if not positive and not negative:
        raise Refusal("it detects nothing")
    return site.emit("equal", x=x, y=site.like(x, np.inf if positive else -np.inf))


_ONNX_TYPES = {1: np.float32, 6: np.int32, 7: np.int32, 9: np.bool_, 10: np.float16}


@lowers("Cast")
@by_element
def cast(site: Site) -> Operand:
    """Between float32, float16, int32 (int64 too) and bool; floats are cut towards zero."""
    return _cast(site, site.operand(0), int(site.attribute("to")))


@lowers("CastLike")
def cast_like(site: Site) -> Operand:
    """To the other operand's ONNX type."""
    value = site.node.inputs[1]
    if value is not None and value.dtype is not None:
        return _cast(site, site.operand(0), int(value.dtype))
    kind = {"float32": 1, "int32": 6, "bool": 9, "float16": 10}[dtype_of(site.operand(1)).name]
    return _cast(site, site.operand(0), kind)


def _cast(site: Site, x: Operand, onnx_type: int) -> Operand:
    if onnx_type not in _ONNX_TYPES:
        raise Refusal(
            f"casting to ONNX type {onnx_type} has no form in Core ML", "use float32, float16, int32 or bool"
        )
    wanted = np.dtype(_ONNX_TYPES[onnx_type])
    if dtype_of(x) == wanted:
        return site.emit("identity", x=x)
    if wanted == np.bool_:
        # A cast to bool may cut 0.5 to 0 on the way; a comparison does not.
        return site.emit("not_equal", x=x, y=site.like(x, 0))
    return site.cast(x, wanted)


@lowers("Identity", "Dropout")
@by_element
def identity(site: Site) -> Operand:
    """The value itself; dropout does nothing at inference."""
    if site.op == "Dropout":
        training = site.optional_constant(2, "training_mode")
        if training is not None and bool(training):
            raise Refusal("it is in training mode", "export the model in evaluation mode")
        site.refuse_outputs(1, "the mask of Dropout")
    return site.emit("identity", x=site.operand(0))
