"""The checker's kernels by MIL op."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edgec.targets.coreml.checker.arguments import Arguments

Kernel = Callable[[Arguments], Any]

_KERNELS: dict[str, Kernel] = {}

_MODULES = ("arithmetic", "products", "windows", "norms", "movement", "lookup", "recurrent", "compressed")


def kernel(*ops: str) -> Callable[[Kernel], Kernel]:
    """Decorator: the function computes these MIL ops."""

    def add(function: Kernel) -> Kernel:
        for op in ops:
            if op in _KERNELS:
                raise ValueError(f"two kernels compute {op}")
            _KERNELS[op] = function
        return function

    return add


def kernels() -> dict[str, Kernel]:
    """All kernels by op."""
    for module in _MODULES:
        importlib.import_module(f"edgec.targets.coreml.checker.{module}")
    return _KERNELS
