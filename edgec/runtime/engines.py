"""Opening whatever engine a folder holds."""

from __future__ import annotations

from pathlib import Path

from edgec.core.errors import IntegrityError, RequestError
from edgec.runtime.engine import DESCRIPTION, Engine, EngineDescription

_ELSEWHERE = {
    "coreml": "a Core ML package runs on Apple devices only",
    "tensorrt": "this bundle's engine is built and run on its Jetson",
    "tensorrt-rtx": "a TensorRT-RTX engine runs on an RTX GPU only",
}
"""Kinds of engines that this machine only checks."""


def open_engine(folder: Path) -> Engine:
    """Open the engine in a folder.

    Raises:
        IntegrityError: its description is missing or malformed, or names an engine unknown here.
        RequestError: the engine runs on other machines only.
        MissingExtraError: the engine's package is not installed.
    """
    kind = EngineDescription.read(folder).kind
    if kind == "ort":
        from edgec.runtime.engine_ort import OrtEngine

        return OrtEngine(folder)
    if kind == "openvino":
        from edgec.runtime.engine_openvino import OpenVinoEngine

        return OpenVinoEngine(folder)
    if kind in _ELSEWHERE:
        raise RequestError(
            _ELSEWHERE[kind],
            where=str(folder),
            fix="prove it here with edgec verify, run it on the device",
        )
    raise IntegrityError(
        f"no engine of the kind {kind!r} runs on this machine",
        where=str(folder / DESCRIPTION),
        fix="update edgec, or compile the model for this machine",
    )
