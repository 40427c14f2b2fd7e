"""Runs what edgec compiled: `load` opens a bundle, and a session runs it.

    import edgec_runtime

    with edgec_runtime.load("deit.x86.edgec") as session:
        outputs = session.run({"x": pixels})

The package `edgec_runtime` is made of edgec's own sources; this module is its top.
"""

from __future__ import annotations

from edgec.core import telemetry
from edgec.core.bundle import Bundle
from edgec.runtime.session import Session, load
from edgec.version import __version__

__all__ = ["Bundle", "Session", "__version__", "load"]

telemetry.turn_off()
