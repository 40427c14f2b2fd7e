"""Importing torch's companions where torchvision's binary does not match torch's.

A torchvision built for another torch fails at import with `operator torchvision::nms does not exist`,
and timm and transformers fail behind it, though neither needs its operators to build a model.
Declaring the two schemas first lets the import through; the operators themselves stay unusable.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from edgec.core.errors import JobError, MissingExtraError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[object] = []  # a library is torn down with its last reference


def require(package: str, extra: str) -> ModuleType:
    """Import a package of an extra, past a torchvision that does not match torch.

    Raises:
        MissingExtraError: the package, or one that it needs, is not installed.
        JobError: it is installed and cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError((error.name or package).partition(".")[0], extra) from error
    except Exception as error:
        if _declare(error):
            return require(package, extra)
        raise JobError(
            f"the package {package} is installed and cannot be imported: {error}",
            fix=f"run: pip install --force-reinstall 'edgec[{extra}]'",
        ) from error


def prepare_torchvision() -> None:
    """Make sure that `import torchvision`, wherever a library does it, goes through."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except Exception as error:
        if _declare(error):
            importlib.import_module("torchvision")


def _declare(error: Exception) -> bool:
    """Declare torchvision's schemas if their absence is the error; whether it was."""
    if _declared or "torchvision::" not in str(error):
        return False
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return True
