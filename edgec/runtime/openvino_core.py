"""The `openvino` package, and a `Core` of it that leaves the process safe to signal."""

from __future__ import annotations

import concurrent.futures
from typing import Any

from edgec.core.errors import MissingExtraError


def import_openvino() -> Any:
    """The `openvino` package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino


def new_core() -> Any:
    """A `Core` with its CPU plugin loaded, in a thread of its own.

    On Linux each loaded plugin gives the thread that loads it an alternate signal stack, and frees it when
    the `Core` and all it compiled are gone. A thread is left on a freed stack where the plugin goes in
    another thread, or where plugins do not go in the reverse order of their loading; Python's signal
    handlers run on that stack, so the next Ctrl-C would end the process with a segmentation fault. The
    stack given to a thread that has ended is nobody's.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_loaded, import_openvino()).result()


def said(error: Exception) -> list[str]:
    """The lines of what OpenVINO raised, the type's name where it says nothing.

    The first say where in its own code, the last what is wrong.
    """
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def _loaded(openvino: Any) -> Any:
    core = openvino.Core()
    # A `Core` loads a plugin at the first question about its device.
    core.get_versions("CPU")
    return core
