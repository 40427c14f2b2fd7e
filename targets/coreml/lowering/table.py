"""The table from ONNX op to its lowering function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeVar

from edgec.targets.coreml.lowering.site import Rule

_TABLE: dict[tuple[str, str], Rule] = {}

REFUSED: dict[str, tuple[str, str]] = {}
"""ONNX op types that can have no lowering: why, and what would help."""

_MODULES = (
    "elementwise",
    "activation",
    "linear",
    "convolution",
    "pooling",
    "normalization",
    "attention",
    "shape",
    "indexing",
    "reduction",
    "recurrent",
    "resampling",
    "sampling",
    "quantization",
    "refused",
)

RuleType = TypeVar("RuleType", bound=Rule)


def lowers(*op_types: str, domain: str = "") -> Callable[[RuleType], RuleType]:
    """Decorator: the function lowers these ops.

    Raises:
        ValueError: another function lowers one of them.
    """

    def add(rule: RuleType) -> RuleType:
        for op_type in op_types:
            if (domain, op_type) in _TABLE:
                raise ValueError(f"two rules lower {domain or 'ai.onnx'}::{op_type}")
            _TABLE[domain, op_type] = rule
        return rule

    return add


def table() -> dict[tuple[str, str], Rule]:
    """All rules, by domain and op type."""
    for module in _MODULES:
        importlib.import_module(f"edgec.targets.coreml.lowering.{module}")
    importlib.import_module("edgec.targets.coreml.neural_engine.ops")
    return _TABLE
