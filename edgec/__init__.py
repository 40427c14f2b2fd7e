"""edgec: from a trained network to a verified engine for one device.

`edgec.compile(...)` makes a bundle; `edgec.load(path)` opens one for running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.core import telemetry
from edgec.version import __version__

if TYPE_CHECKING:
    from edgec.compiler import compile as compile
    from edgec.core.bundle import Bundle as Bundle
    from edgec.runtime.session import Session as Session
    from edgec.runtime.session import load as load

__all__ = ["Bundle", "Session", "__version__", "compile", "load"]

telemetry.turn_off()

# Imported on first use: `import edgec` stays free of the engines and of the compiler.
_LAZY = {
    "compile": "edgec.compiler",
    "Bundle": "edgec.core.bundle",
    "Session": "edgec.runtime.session",
    "load": "edgec.runtime.session",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgec' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
