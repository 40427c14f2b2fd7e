"""The TensorRT that is installed here, as one module object.

`EDGEC_TENSORRT=tensorrt_rtx` names TensorRT-RTX instead. Its Python API follows that of TensorRT 10 and 11
and it builds with no GPU present, for a compute capability that it is told; its engines run on RTX-class GPUs
only, never on a Jetson.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from edgec_engine.errors import DeviceError

VARIABLE = "EDGEC_TENSORRT"
PORTABLE = "tensorrt_rtx"
_KNOWN = ("tensorrt", PORTABLE)


def tensorrt() -> Any:
    """Import TensorRT.

    Raises:
        DeviceError: it is not installed or cannot be loaded.
    """
    name = os.environ.get(VARIABLE, _KNOWN[0])
    if name not in _KNOWN:
        raise DeviceError(f"{VARIABLE}={name!r} is unknown", "use " + " or ".join(_KNOWN), 2)
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"TensorRT's Python module does not load ({error})",
            "install it from JetPack: sudo apt install nvidia-jetpack python3-libnvinfer",
        ) from error


def version(text: str) -> tuple[int, ...]:
    """`10.3.0.30` as (10, 3, 0, 30); what is not a number ends it."""
    numbers = []
    for part in text.split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def logger(trt: Any) -> Any:
    """A logger that keeps TensorRT's errors, so that a failure can quote them: `.errors`."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def said(log: Any) -> str:
    """The last errors that TensorRT logged, on one line."""
    lines = [" ".join(message.split()) for message in log.errors[-3:]]
    return "; ".join(lines) if lines else "TensorRT gave no reason"
