"""The CUDA kernels as TensorRT plugins: which op is in which library, and the sources that make it.

A library is compiled where it runs, by `CMakeLists.txt`: it needs the headers of the device's own TensorRT
and code for its processor and GPU. One source serves all versions: from TensorRT 10 on its classes are
IPluginV3, before IPluginV2DynamicExt. The parser finds a plugin by op type, `plugin_version` and
`plugin_namespace` (`VERSION`, `NAMESPACE`), which are written to the nodes as attributes; new parsers alone
look at an op's domain too.

Two libraries, because VarlenAttention's kernel needs instructions that a Xavier has not, and what a graph
does not use is not compiled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

NAMESPACE = "ai.edgec"
VERSION = "1"

TOKENS = "libedgec_token_plugins.so"
VARLEN = "libedgec_varlen_plugins.so"

LIBRARIES = {
    "TokenMerge": TOKENS,
    "TokenMergeEnergy": TOKENS,
    "TokenPrune": TOKENS,
    "TokenRestore": TOKENS,
    "VarlenAttention": VARLEN,
}
"""Library by op type of `ai.edgec`."""

_HERE = Path(__file__).parent
_KERNELS = _HERE.parents[1] / "kernels" / "cuda"
_COMMON = (
    "attributes.cpp",
    "attributes.hpp",
    "creator.hpp",
    "node.cpp",
    "node.hpp",
    "op.cpp",
    "op.hpp",
    "plugin_v2.cpp",
    "plugin_v3.cpp",
    "registration.cpp",
)

SOURCES_OF = {
    TOKENS: (*(_HERE / name for name in (*_COMMON, "token_ops.cpp")), _KERNELS / "token_cuda.cu"),
    VARLEN: (*(_HERE / name for name in (*_COMMON, "varlen_op.cpp")), _KERNELS / "varlen_cuda.cu"),
}
"""Files that a library is compiled from, besides the header of its `.cu`."""


def copy_sources(folder: Path, op_types: Iterable[str]) -> None:
    """Write what compiles the libraries of some ops into a new folder, flat, with `CMakeLists.txt`.

    Args:
        folder: made here.
        op_types: keys of `LIBRARIES`.
    """
    folder.mkdir(parents=True)
    shutil.copyfile(_HERE / "CMakeLists.txt", folder / "CMakeLists.txt")
    for library in sorted({LIBRARIES[op_type] for op_type in op_types}):
        for path in SOURCES_OF[library]:
            shutil.copyfile(path, folder / path.name)
            if path.suffix == ".cu":
                shutil.copyfile(path.with_suffix(".h"), folder / path.with_suffix(".h").name)
