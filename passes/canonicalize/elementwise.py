"""Ops that treat every element by itself."""

from __future__ import annotations

UNARY = frozenset(
    [
        "Abs",
        "Cast",
        "Ceil",
        "Clip",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Sigmoid",
        "Sign",
        "Softplus",
        "Sqrt",
        "Tanh",
    ]
)
"""One tensor in, one out, of the same shape; other inputs, where there are any, are scalars."""

BINARY = frozenset(
    [
        "Add",
        "And",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mul",
        "Or",
        "Pow",
        "Sub",
        "Where",
    ]
)
"""Tensors that broadcast against each other."""
