"""Whether edgec's own OpenVINO kernels can be had on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgec.core.errors import JobError
from edgec.plugins.bindings import openvino as extension
from edgec.runtime.openvino_core import import_openvino, new_core, said


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The OpenVINO extension, or why there is none.

    Attributes:
        library: the compiled extension, which OpenVINO has loaded; None where there is none.
        why: why not; empty where there is one.
    """

    library: Path | None
    why: str = ""

    @property
    def ops(self) -> frozenset[str]:
        """The ops of `ai.edgec` that OpenVINO runs by a kernel; all others run by their definition."""
        return frozenset() if self.library is None else extension.ops()


def find_kernels() -> Kernels:
    """Compile the extension, or find it compiled, and load it once.

    Every op can run by its definition in standard ops, so what stands in the way is told and not raised.
    """
    openvino = import_openvino()
    try:
        library = extension.openvino_library()
        new_core().add_extension(str(library))
    except JobError as error:
        return Kernels(None, str(error))
    except OSError as error:
        return Kernels(None, f"the kernels could not be compiled ({error})")
    except RuntimeError as error:
        why = f"OpenVINO {openvino.__version__} does not load the compiled kernels ({said(error)[-1]})"
        return Kernels(None, why)
    return Kernels(library)
