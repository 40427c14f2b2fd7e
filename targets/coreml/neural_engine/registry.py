"""The table from op to the rule that writes it in stored order."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from edgec.targets.coreml.neural_engine.walk import Rule

_RULES: dict[tuple[str, str], Rule] = {}

_MODULES = ("elementwise", "movement", "norms", "products", "attention")


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Decorator: the function writes these ops.

    Raises:
        ValueError: another function writes one of them.
    """

    def add(function: Rule) -> Rule:
        for op_type in op_types:
            if (domain, op_type) in _RULES:
                raise ValueError(f"two rules write {op_type}")
            _RULES[domain, op_type] = function
        return function

    return add


def rules() -> dict[tuple[str, str], Rule]:
    """All rules by domain and op type."""
    for module in _MODULES:
        importlib.import_module(f"edgec.targets.coreml.neural_engine.{module}")
    return _RULES
