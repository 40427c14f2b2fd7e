"""What runs on the device, and how it gets into a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

FOLDER = "device"
"""Where it lies in a bundle."""

_HERE = Path(__file__).parent


def copy_to(bundle: Path) -> Path:
    """Copy `edgec_engine` and the C++ runner into a bundle's `device/`; returns that folder.

    The HTTP server, the reader of npz files and the comparison with the samples are edgec's own, which are
    written for Python 3.8.
    """
    from edgec.core import npz, numerics, ties
    from edgec.runtime import server

    target = bundle / FOLDER
    for name in ("edgec_engine", "cpp"):
        shutil.copytree(_HERE / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for module in (npz, numerics, server, ties):
        path = Path(str(module.__file__))
        shutil.copyfile(path, target / "edgec_engine" / path.name)
    return target
