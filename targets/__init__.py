"""Targets by name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from edgec.core.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from edgec.runtime.engine import Engine
    from edgec.targets.base import Target

__all__ = ["NAMES", "open_for_checking", "target_named"]

NAMES = (
    "x86",
    "x86:ort",
    "x86:openvino",
    "x86:tvm",
    "arm",
    "coreml",
    "coreml:ios16",
    "coreml:ios17",
    "coreml:ios18",
    "jetson",
    "rtx",
)
"""The targets' names; `jetson:PROFILE`, `rtx:smNN` and `arm:CORE` say more."""


def target_named(name: str) -> Target:
    """The target of a name.

    Args:
        name: `x86` with whichever engine is fastest, or `x86:ort` or `x86:openvino` for one of them;
            `coreml` for the newest release, or `coreml:ios16` and the like for one of them, with words
            behind it (`coreml:ios18:tensor`; `targets/coreml/words.py` has them all); `jetson` for the usual
            module, or `jetson:orin-nano-8gb`, or `jetson:orin-nano-8gb:jetpack5`; `rtx` for every capability
            that TensorRT-RTX builds for, or `rtx:sm86`; `x86:tvm` for a library that TVM compiles, `arm` for
            one for a board, or `arm:cortex-a72`.

    Raises:
        RequestError: there is no such target; says the nearest.
    """
    family = name.partition(":")[0]
    variant = name.partition(":")[2] or None
    if family == "coreml":
        from edgec.targets.coreml.target import CoreML

        return CoreML(variant)
    if family == "jetson":
        from edgec.targets.jetson.target import Jetson

        return Jetson(variant)
    if family == "rtx":
        from edgec.targets.rtx.target import Rtx

        return Rtx(variant)
    if family == "arm":
        from edgec.targets.tvm.target import Tvm

        return Tvm.arm(variant)
    if name == "x86:tvm":
        from edgec.targets.tvm.target import Tvm

        return Tvm.x86()
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise RequestError(
            f"no target is named {name!r}",
            fix=f"did you mean {near[0]}?" if near else f"choose from {', '.join(NAMES)}",
        )
    from edgec.targets.x86.target import X86

    return X86(variant)


def open_for_checking(folder: Path) -> Engine:
    """Open an engine to see what it computes, by an interpreter where it only runs on other machines.

    Raises:
        IntegrityError: its description is missing or malformed, or names an engine unknown here.
        MissingExtraError: the engine's package is not installed.
    """
    from edgec.runtime.engine import EngineDescription
    from edgec.runtime.engines import ELSEWHERE, open_engine

    kind = EngineDescription.read(folder).kind
    if kind == "coreml":
        from edgec.targets.coreml.engine import CheckedPackage

        return CheckedPackage(folder)
    if kind in ("tensorrt", "tensorrt-rtx"):
        from edgec.targets.jetson.engine import CheckedGraph

        return CheckedGraph(folder)
    if kind == "tvm-arm" and kind in ELSEWHERE:
        from edgec.targets.tvm.emulated import EmulatedLibrary

        return EmulatedLibrary(folder)
    return open_engine(folder)
