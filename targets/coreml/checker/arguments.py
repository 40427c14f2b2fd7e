"""What a kernel of the checker is given."""

from __future__ import annotations

from typing import Any

import numpy as np


class Arguments:
    """The inputs of one op by name.

    Half-precision tensors arrive as fp32: an op computes in fp32 and rounds its result once.
    """

    def __init__(self, op: str, bindings: dict[str, list[Any]], opset: str) -> None:
        self.op = op
        self.opset = opset
        self._bindings = bindings

    def __getitem__(self, name: str) -> Any:
        """One input; fp16 is widened."""
        return _wide(self._bindings[name][0])

    def __contains__(self, name: str) -> bool:
        return bool(self._bindings.get(name))

    def get(self, name: str, default: Any = None) -> Any:
        """One input, or the default."""
        return _wide(self._bindings[name][0]) if name in self else default

    def all(self, name: str) -> list[Any]:
        """Every tensor of a variadic input."""
        return [_wide(value) for value in self._bindings[name]]

    def text(self, name: str, default: str = "") -> str:
        """An input that is text."""
        return str(self._bindings[name][0]) if name in self else default

    def number(self, name: str, default: float = 0.0) -> float:
        """An input that is one number."""
        return float(np.asarray(self[name]).reshape(())) if name in self else default

    def flag(self, name: str, default: bool = False) -> bool:
        """An input that is true or false."""
        return bool(np.asarray(self[name]).reshape(())) if name in self else default

    def integers(self, name: str, default: list[int] | None = None) -> list[int]:
        """An input that is a list of integers, or one integer."""
        if name not in self:
            return list(default or [])
        return [int(value) for value in np.asarray(self[name]).reshape(-1)]

    def flags(self, name: str, count: int) -> list[bool]:
        """A mask; all false where it is not given."""
        if name not in self:
            return [False] * count
        return [bool(value) for value in np.asarray(self[name]).reshape(-1)]


def _wide(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.float16:
        return value.astype(np.float32)
    return value
