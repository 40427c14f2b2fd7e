"""The CUDA kernels as TensorRT plugins: which op is in which library, and the sources that make it.

A library is compiled where it runs, by `CMakeLists.txt`: it needs the headers of the device's own TensorRT
and code for its processor and GPU. One source serves all versions: from TensorRT 10 on its classes are
IPluginV3, before IPluginV2DynamicExt. The parser finds a plugin by op type, `plugin_version` and
`plugin_namespace` (`VERSION`, `NAMESPACE`), which are written to the nodes as attributes; new parsers alone
look at an op's domain too.

Each CUDA source makes a library of its own: a Xavier has not the instructions that VarlenAttention's kernel
needs, and what a graph does not use is not compiled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx_ir as ir

from edgec.plugins.bindings.schema import schema
from edgec.plugins.infra import CudaKernel, Plugin, plugins
from edgec.plugins.kernels.cuda.build import headers

NAMESPACE = "ai.edgec"
VERSION = "1"

_HERE = Path(__file__).parent


def cuda_kernels() -> dict[str, CudaKernel]:
    """Kernel by op type of `ai.edgec`."""
    return {
        name: plugin.kernels["cuda"] for name, plugin in sorted(plugins().items()) if "cuda" in plugin.kernels
    }


def library_of(kernel: CudaKernel) -> str:
    """The file name of the library that a kernel is in."""
    return f"libedgec_{kernel.path.stem}.so"


def libraries() -> dict[str, str]:
    """Library by op type of `ai.edgec`."""
    return {op_type: library_of(kernel) for op_type, kernel in cuda_kernels().items()}


def kernels_for(compute_capability: int, *, half: bool) -> frozenset[str]:
    """The op types that have a kernel on a device.

    Args:
        compute_capability: of the device, times ten.
        half: whether the graph is fp16.
    """
    type_ = "float16" if half else "float32"
    return frozenset(
        op_type
        for op_type, kernel in cuda_kernels().items()
        if type_ in kernel.types and compute_capability >= kernel.capability
    )


def obstacle(node: ir.Node) -> str:
    """Why the kernel does not take a node of its op type; empty where it does."""
    return plugins()[node.op_type].obstacle(node, cuda_kernels()[node.op_type])


def write_sources(folder: Path, op_types: Iterable[str]) -> None:
    """Write what compiles the libraries of some ops into a new folder, flat, with `CMakeLists.txt`.

    Args:
        folder: made here.
        op_types: keys of `libraries()`.
    """
    folder.mkdir(parents=True)
    common = [path for path in _HERE.iterdir() if path.suffix in (".cpp", ".hpp", ".txt")]
    for path in (*common, _HERE.parent / "schema.hpp", *headers()):
        shutil.copyfile(path, folder / path.name)
    kernels = cuda_kernels()
    for source in sorted({kernels[op_type].path for op_type in op_types}):
        shutil.copyfile(source, folder / source.name)
        inside = [plugins()[op_type] for op_type, kernel in kernels.items() if kernel.path == source]
        (folder / f"{source.stem}_ops.cpp").write_text(library_ops(inside), encoding="utf-8")


def library_ops(chosen: Sequence[Plugin]) -> str:
    """The C++ that says which ops a library has."""
    lines = [
        "// Made from the declarations of edgec's plugins.",
        '#include "op.hpp"',
        'extern "C" {',
    ]
    made, names = [], []
    for place, plugin in enumerate(chosen):
        kernel, entry = plugin.kernels["cuda"], f"edgec_cuda_{plugin.op_type}"
        lines.append(f"int {entry}(const edgec_cuda_call*);")
        if kernel.workspace:
            lines.append(f"int64_t {entry}_workspace(const edgec_cuda_call*);")
        workspace = f"{entry}_workspace" if kernel.workspace else "nullptr"
        made.append(f"static const Op op{place}({schema(plugin, kernel.types)}, {entry}, {workspace});")
        names.append(f"&op{place}")
    lines += [
        "}",
        "namespace edgec {",
        # The ops are registered while the library is being loaded, before its other globals are there.
        "const std::vector<const Op*>& library_ops() {",
        *made,
        f"static const std::vector<const Op*> all{{{', '.join(names)}}};",
        "return all;",
        "}",
        "}  // namespace edgec",
        "",
    ]
    return "\n".join(lines)
