"""Amounts that a user asks for, in the command line's words or Python's numbers: checked in one place."""

from __future__ import annotations

import math
import re

from edgec.core.errors import RequestError


def share(value: object, name: str) -> float | None:
    """`1%`, `0.01` or a number as a fraction from 0 to 1; None as None.

    Args:
        value: what was given.
        name: the option, for messages.

    Raises:
        RequestError: it is not between 0 and 1.
    """
    if value is None:
        return None
    amount = _number(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", value, re.ASCII)
        amount = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 <= amount <= 1:
        raise RequestError(f"{name} {value!r} is not a share", fix="write it like 1% or 0.01")
    return amount


def milliseconds(value: object, name: str) -> float | None:
    """`5ms`, `0.005s`, `5` or a number in milliseconds; None as None.

    Args:
        value: what was given.
        name: the option, for messages.

    Raises:
        RequestError: it is not a positive time.
    """
    if value is None:
        return None
    amount = _number(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|)\s*", value, re.ASCII)
        amount = float(match[1]) * (1000 if match[2] == "s" else 1) if match else math.nan
    if not 0 < amount < math.inf:
        raise RequestError(f"{name} {value!r} is not a time", fix="write it like 5ms")
    return amount


def seconds(value: object, name: str) -> float | None:
    """`150s`, `10m`, `1h`, `150` or a number in seconds; None as None.

    Args:
        value: what was given.
        name: the option, for messages.

    Raises:
        RequestError: it is not a time, or below 0.
    """
    if value is None:
        return None
    amount = _number(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|)\s*", value, re.ASCII)
        amount = float(match[1]) * {"m": 60, "h": 3600}.get(match[2], 1) if match else math.nan
    if not 0 <= amount < math.inf:
        raise RequestError(f"{name} {value!r} is not a time", fix="write it like 150s or 10m")
    return amount


def whole(value: object, name: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`.

    Args:
        value: what was given.
        name: the option, for messages.
        low: the smallest.
        high: the largest.

    Raises:
        RequestError: it is no such number.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or not low <= int(value) <= high:
        raise RequestError(f"{name} {value!r} is no whole number", fix=f"give one from {low} to {high}")
    return int(value)


def _number(value: object) -> float:
    """A number as a float; NaN for anything else."""
    is_number = hasattr(value, "__float__") and not isinstance(value, bool | str)
    try:
        return float(value) if is_number else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):  # an array of several
        return math.nan
