"""What runs on the device, and how it gets into a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgec.core.relocation import needed, relocated

FOLDER = "device"
"""Where it lies in a bundle."""

_HERE = Path(__file__).parent

_SERVER = "edgec.serving.server"
_NAMES = {"edgec.core": "edgec_engine", "edgec.serving": "edgec_engine.serving"}


def copy_to(bundle: Path) -> Path:
    """Copy `edgec_engine` and the C++ runner into a bundle's `device/`; returns that folder.

    The HTTP server, the reader of npz files and the comparison with the samples are edgec's own, which are
    written for Python 3.8.
    """
    target = bundle / FOLDER
    for name in ("edgec_engine", "cpp"):
        shutil.copytree(_HERE / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    server = needed([_SERVER])
    copied = relocated(["edgec.core.npz", "edgec.core.numerics", "edgec.core.ties", *server], _NAMES)
    for name, content in copied.items():
        path = target / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return target
