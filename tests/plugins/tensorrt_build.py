"""Compiles the TensorRT plugins and what drives them, against simulated headers or NVIDIA's own."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgec.plugins.bindings import tensorrt
from edgec.plugins.infra import KERNELS, Plugin, plugins
from edgec.plugins.kernels.cpu.build import kernel_library

HERE = Path(__file__).parent / "tensorrt_lifecycle"
SIMULATED = Path(__file__).parents[1] / "targets" / "jetson" / "simulation" / "cpp"
GENERATIONS = {"IPluginV2DynamicExt": 8, "IPluginV3": 10}
WARNINGS = ("-Wall", "-Wextra", "-Werror")


@functools.cache
def on_host(generation: int, headers: str = "", op_types: tuple[str, ...] = ()) -> Path:
    """A folder with the harness and the plugins over kernels of the host.

    Args:
        generation: which TensorRT the simulated headers are, 8 or 10.
        headers: a folder of NVIDIA's headers in their stead.
        op_types: whose libraries; all where none are given.
    """
    folder = Path(tempfile.mkdtemp(prefix="edgec-tensorrt-plugins-"))
    flags = _flags(generation, headers)
    compile_harness(folder, flags)
    chosen = op_types or tuple(tensorrt.libraries())
    sources = folder / "plugins"
    tensorrt.write_sources(sources, chosen)
    common = [path for path in sources.glob("*.cpp") if not path.stem.endswith("_ops")]
    for name in {tensorrt.libraries()[op_type] for op_type in chosen}:
        inside = [plugins()[op_type] for op_type, library in tensorrt.libraries().items() if library == name]
        stem = Path(name).stem.removeprefix("libedgec_")
        host = sources / f"{stem}_host.cc"
        host.write_text(_host_kernels(inside), encoding="utf-8")
        kernels = kernel_library(inside)
        link = [kernels, f"-Wl,-rpath,{kernels.parent}", *linked_harness(folder)]
        compiled = [*common, sources / f"{stem}_ops.cpp", host]
        hidden = ["-shared", "-fvisibility=hidden", f"-I{sources}", f"-I{KERNELS}"]
        _run("g++", *flags, *hidden, *compiled, *link, "-o", folder / name)
    return folder


def _host_kernels(chosen: Sequence[Plugin]) -> str:
    lines = [f'#include "{HERE / "host_kernels.hpp"}"', 'extern "C" {']
    for plugin in chosen:
        room = str(plugin.kernels["cuda"].workspace).lower()
        numbers = f"{len(plugin.inputs)}, {len(plugin.outputs)}, {room}"
        entry = f"edgec_cuda_{plugin.op_type}"
        lines += [
            f"int edgec_{plugin.op_type}(const edgec_cpu_call*);",
            f"int {entry}(const edgec_cuda_call* call) {{",
            f"    return host::run(*call, {numbers}, edgec_{plugin.op_type});",
            "}",
            f"int64_t {entry}_workspace(const edgec_cuda_call* call) {{ return host::workspace(*call); }}",
        ]
    return "\n".join([*lines, "}", ""])


def with_cmake(
    folder: Path, sources: Path, generation: int, architectures: Sequence[str], *, on_gpu: bool = False
) -> Path:
    """The real kernels and their plugins by `CMakeLists.txt`, as a device compiles them.

    Args:
        folder: where to build; libraries and the harness, which stands for libnvinfer, lie in it afterwards.
        sources: has `CMakeLists.txt`.
        generation: which TensorRT the simulated headers are, 8 or 10.
        architectures: compute capabilities, without the dot.
        on_gpu: whether the harness is for a machine with a GPU.
    """
    include = folder / "include"
    include.mkdir(parents=True)
    for path in SIMULATED.glob("*.h"):
        # The toolkit has the real cuda_runtime_api.h.
        if path.name != "cuda_runtime_api.h":
            shutil.copy(path, include)
    cuda = cuda_headers()
    assert cuda is not None
    flags = ["-std=c++17", "-O1", "-fPIC", *WARNINGS, f"-DEDGEC_SIMULATED_TENSORRT={generation}"]
    flags += [f"-I{include}", f"-isystem{cuda}"]
    static = next(path for path in cuda.parent.glob("lib*/libcudart_static.a"))
    runtime = ("-DHARNESS_CUDA", str(static), "-ldl", "-lrt", "-lpthread") if on_gpu else ()
    compile_harness(folder, flags, *runtime)
    _run(
        "cmake", "-S", sources, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(architectures)}", f"-DTENSORRT_INCLUDE={include}",
        f"-DNVINFER={folder / 'harness.so'}",
        f"-DCMAKE_CXX_FLAGS=-DEDGEC_SIMULATED_TENSORRT={generation}",
    )  # fmt: skip
    _run("cmake", "--build", folder / "build")
    for path in (folder / "build").glob("libedgec*.so"):
        shutil.move(path, folder / path.name)
    return folder


def compile_harness(folder: Path, flags: Sequence[str], *more: str) -> None:
    """Compile the harness into the folder, under a name of its own for every folder."""
    # The loader takes two libraries of one name for one.
    soname = f"-Wl,-soname,harness-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}.so"
    _run("g++", *flags, "-shared", soname, HERE / "harness.cpp", "-o", folder / "harness.so", *more)


def linked_harness(folder: Path) -> list[str]:
    """What links a library to the harness, as to libnvinfer: each finds its own version's registry."""
    return ["-Wl,--no-as-needed", str(folder / "harness.so")]


def _flags(generation: int, headers: str) -> tuple[str, ...]:
    found = [f"-isystem{headers}", f"-isystem{cuda_headers()}"] if headers else [f"-I{SIMULATED}"]
    # NVIDIA's own headers deprecate what 8.5's interface is derived from.
    quiet = ["-Wno-deprecated-declarations"] if headers else []
    simulated = f"-DEDGEC_SIMULATED_TENSORRT={generation}"
    return ("-std=c++17", "-O1", "-fPIC", *WARNINGS, *quiet, simulated, *found)


def cuda_headers() -> Path | None:
    """The CUDA toolkit's headers, None where there is no nvcc."""
    found = shutil.which("nvcc")
    if found is None:
        return None
    said = subprocess.run([found, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
    return Path(next(line for line in said.splitlines() if "TOP=" in line).split("TOP=")[1]) / "include"


def _run(*command: object) -> None:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
