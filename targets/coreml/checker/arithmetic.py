"""Element by element: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.registry import kernel

_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "identity": lambda x: x,
    "logical_not": np.logical_not,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "round": np.rint,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}


@kernel(*_UNARY)
def unary(a: Arguments) -> np.ndarray:
    """A numpy function of one operand."""
    with np.errstate(all="ignore"):
        return np.asarray(_UNARY[a.op](a["x"]))


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, by the C library's."""
    flat = np.asarray(x, np.float64).ravel()
    return np.fromiter(map(math.erf, flat.tolist()), np.float64, flat.size).reshape(np.shape(x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return (0.5 * (1 + np.tanh(0.5 * np.asarray(x, np.float64)))).astype(np.float32)


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) without overflow."""
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


@kernel("erf")
def error_function(a: Arguments) -> np.ndarray:
    """The error function."""
    return erf(a["x"])


@kernel("sigmoid")
def logistic(a: Arguments) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return sigmoid(a["x"])


@kernel("silu")
def silu(a: Arguments) -> np.ndarray:
    """X · sigmoid(x)."""
    return a["x"] * sigmoid(a["x"])


@kernel("softplus")
def softplus_(a: Arguments) -> np.ndarray:
    """log(1 + exp(x))."""
    return softplus(a["x"])


@kernel("softplus_parametric")
def softplus_by_channel(a: Arguments) -> np.ndarray:
    """alpha_c · log(1 + exp(beta_c · x))."""
    x = a["x"]
    return _by_channel(a["alpha"], x) * softplus(_by_channel(a["beta"], x) * x)


def _by_channel(value: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(value).reshape(-1, *[1] * (x.ndim - 2))


@kernel("gelu")
def gelu(a: Arguments) -> np.ndarray:
    """Exact, or by tanh or sigmoid."""
    x, mode = a["x"], a.text("mode", "EXACT")
    if mode == "EXACT":
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * sigmoid(1.702 * x)


@kernel("elu")
def elu(a: Arguments) -> np.ndarray:
    """x, or alpha · (exp(x) - 1) below zero."""
    x = a["x"]
    return np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0)))


@kernel("leaky_relu")
def leaky_relu(a: Arguments) -> np.ndarray:
    """x, or alpha · x below zero."""
    return np.where(a["x"] >= 0, a["x"], a["alpha"] * a["x"])


@kernel("prelu")
def prelu(a: Arguments) -> np.ndarray:
    """x, or alpha_c · x below zero."""
    x = a["x"]
    return np.where(x >= 0, x, _by_channel(a["alpha"], x) * x)


@kernel("thresholded_relu")
def thresholded_relu(a: Arguments) -> np.ndarray:
    """X where it reaches alpha."""
    return np.where(a["x"] >= a["alpha"], a["x"], 0)


@kernel("threshold")
def threshold(a: Arguments) -> np.ndarray:
    """max(x, alpha)."""
    return np.maximum(a["x"], a["alpha"])


@kernel("clamped_relu")
def clamped_relu(a: Arguments) -> np.ndarray:
    """min(x, beta), with alpha · x below zero."""
    x = a["x"]
    return np.minimum(np.where(x >= 0, x, a["alpha"] * x), a["beta"])


@kernel("linear_activation")
def linear_activation(a: Arguments) -> np.ndarray:
    """Alpha · x + beta."""
    return a["alpha"] * a["x"] + a["beta"]


@kernel("scaled_tanh")
def scaled_tanh(a: Arguments) -> np.ndarray:
    """Alpha · tanh(beta · x)."""
    return a["alpha"] * np.tanh(a["beta"] * a["x"])


@kernel("sigmoid_hard")
def sigmoid_hard(a: Arguments) -> np.ndarray:
    """min(max(alpha · x + beta, 0), 1)."""
    return np.clip(a["alpha"] * a["x"] + a["beta"], 0, 1)


@kernel("softmax")
def softmax(a: Arguments) -> np.ndarray:
    """exp(x) over its sum along an axis."""
    return softmax_of(a["x"], int(a.number("axis", -1)))


def softmax_of(x: np.ndarray, axis: int) -> np.ndarray:
    """Softmax in fp32, the largest score taken off first."""
    with np.errstate(invalid="ignore"):
        shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


@kernel("clip")
def clip(a: Arguments) -> np.ndarray:
    """min(max(x, alpha), beta)."""
    return np.minimum(np.maximum(a["x"], a["alpha"]), a["beta"])


@kernel("log")
def log(a: Arguments) -> np.ndarray:
    """The natural logarithm of x + epsilon."""
    with np.errstate(all="ignore"):
        return np.log(a["x"] + np.asarray(a.get("epsilon", 1e-45), np.float32))


@kernel("inverse")
def inverse(a: Arguments) -> np.ndarray:
    """1 / (x + epsilon)."""
    with np.errstate(all="ignore"):
        return 1 / (a["x"] + np.float32(a.get("epsilon", 1e-4)))


@kernel("rsqrt")
def rsqrt(a: Arguments) -> np.ndarray:
    """1 / sqrt(x + epsilon)."""
    with np.errstate(all="ignore"):
        return 1 / np.sqrt(a["x"] + np.float32(a.get("epsilon", 1e-12)))


def _divided(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x / y if np.asarray(x).dtype.kind == "f" else np.floor_divide(x, y)


_BINARY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": _divided,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


@kernel(*_BINARY)
def binary(a: Arguments) -> np.ndarray:
    """A numpy function of two operands that broadcast."""
    with np.errstate(all="ignore"):
        return _BINARY[a.op](a["x"], a["y"])


@kernel("select")
def select(a: Arguments) -> np.ndarray:
    """`a` where the condition holds, `b` elsewhere."""
    return np.where(np.asarray(a["cond"], bool), a["a"], a["b"])


_CAST_TYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


@kernel("cast")
def cast(a: Arguments) -> np.ndarray:
    """To another type; floats are cut towards zero."""
    wanted = a.text("dtype")
    with np.errstate(all="ignore"):
        return np.asarray(a["x"]).astype(_CAST_TYPES.get(wanted, wanted))
