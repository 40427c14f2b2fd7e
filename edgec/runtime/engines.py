"""Opening whatever engine a folder holds."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Literal

from edgec.core.errors import IntegrityError, RequestError
from edgec.runtime.engine import DESCRIPTION, Engine, EngineDescription

Kind = Literal["measured", "emulated", "predicted"]
"""What a figure is: measured on the device that the engine is for, emulated on another machine by something
that stands in for that device, or predicted where nothing ran. Never in one column."""


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A kind of engine that this machine only checks.

    Attributes:
        why: why it does not run here.
        stand_in: what runs here in its place.
        not_run: files of the engine's folder that the stand-in leaves alone.
    """

    why: str
    stand_in: str
    not_run: tuple[str, ...] = ()


ELSEWHERE = {
    "coreml": Elsewhere(
        "a Core ML package runs on Apple devices only", "edgec's interpreter of the saved Core ML program"
    ),
    "tensorrt": Elsewhere(
        "this bundle's engine is built and run on its Jetson",
        "ONNX Runtime standing in for TensorRT, on the graph that the device builds its engine from",
    ),
    "tensorrt-rtx": Elsewhere(
        "a TensorRT-RTX engine runs on an RTX GPU only",
        "ONNX Runtime standing in for TensorRT-RTX, on the graph that the engine was built from",
        ("model.engine",),
    ),
}
"""By the engine's kind."""

if platform.machine() != "aarch64":
    ELSEWHERE["tvm-arm"] = Elsewhere(
        "this bundle's library is for ARM processors",
        "the library itself under QEMU, which emulates the processor",
    )


def kind_of(engine: str) -> Kind:
    """What the figures are that this machine gets of an engine, by the engine's kind."""
    return "emulated" if engine in ELSEWHERE else "measured"


def what_runs(engine: str) -> str:
    """What computes here, by the engine's kind."""
    return ELSEWHERE[engine].stand_in if engine in ELSEWHERE else "the engine itself"


def open_engine(folder: Path) -> Engine:
    """Open the engine in a folder.

    Raises:
        IntegrityError: its description is missing or malformed, or names an engine unknown here.
        RequestError: the engine runs on other machines only.
        MissingExtraError: the engine's package is not installed.
    """
    description = EngineDescription.read(folder)
    kind = description.kind
    if kind == "openvino" and description.decoder:
        from edgec.runtime.engine_decoder import OpenVinoDecoder

        return OpenVinoDecoder(folder)
    if kind == "ort":
        from edgec.runtime.engine_ort import OrtEngine

        return OrtEngine(folder)
    if kind == "openvino":
        from edgec.runtime.engine_openvino import OpenVinoEngine

        return OpenVinoEngine(folder)
    if kind in ("tvm", "tvm-arm") and kind not in ELSEWHERE:
        from edgec.runtime.engine_tvm import TvmEngine

        return TvmEngine(folder)
    if kind in ELSEWHERE:
        raise RequestError(
            ELSEWHERE[kind].why,
            where=str(folder),
            fix="prove it here with edgec verify, run it on the device",
        )
    raise IntegrityError(
        f"no engine of the kind {kind!r} runs on this machine",
        where=str(folder / DESCRIPTION),
        fix="update edgec, or compile the model for this machine",
    )
