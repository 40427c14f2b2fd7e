"""Building a bundle's engine: Relax to one shared library, with the kernels in it, and what opens it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgec.core.errors import JobError
from edgec.core.graph import Graph
from edgec.plugins.bindings.tvm import kernel_object, plugin_entries, tvm_headers
from edgec.plugins.kernels.cpu.build import Unit, library
from edgec.runtime.engine import EngineDescription
from edgec.targets.base import Candidate
from edgec.targets.tvm.importing import Imported, imported
from edgec.targets.tvm.kernels import ENTRIES
from edgec.targets.tvm.machines import Core
from edgec.targets.tvm.prediction import multiply_accumulates
from edgec.targets.tvm.quiet import quiet
from edgec.targets.tvm.runtime_files import FILES, runtime_folder, version

MODEL = "model.so"
LOADER = "libedgec_tvm.so"
_SOURCES = Path(__file__).parent / "loader"
HEADER = "edgec_tvm.h"


def build(graph: Graph, candidate: Candidate, core: Core, kind: str, folder: Path) -> None:
    """Write the engine of a lowered graph into an empty folder, with its `engine.json`.

    Raises:
        JobError: a node cannot be imported, or a compiler failed.
    """
    runtime = runtime_folder(core)
    for name in FILES:
        shutil.copyfile(runtime / name, folder / name)
    found = imported(graph.model, core.processor)
    _export(found, core, folder)
    shutil.copyfile(loader(core), folder / LOADER)
    shutil.copyfile(_SOURCES / HEADER, folder / HEADER)
    EngineDescription(
        kind=kind,
        model=MODEL,
        precision=candidate.precision,
        threads=0,
        form=candidate.form,
        layers={str(site): layer for site, layer in enumerate(found.sites)},
        extensions=(LOADER, *FILES),
        inputs=tuple(value.name or "" for value in graph.model.graph.inputs),
        outputs=tuple(value.name or "" for value in graph.model.graph.outputs),
        settings={
            "processor": core.processor,
            "core": core.name,
            "needs": " ".join(core.needs),
            "macs": str(multiply_accumulates(graph.model)),
        },
    ).write(folder)


def _export(found: Imported, core: Core, folder: Path) -> None:
    import tvm
    from tvm import relax

    target = tvm.target.Target(dict(core.llvm))
    kernels = kernel_object([*plugin_entries().values(), *ENTRIES.values()], core.machine())
    try:
        with quiet(), tvm.transform.PassContext(opt_level=3), target:
            module = relax.get_default_pipeline(target)(found.module)
            executable = relax.build(module, target, relax_pipeline=None)
    except Exception as error:
        # TVM raises classes of its own without a common base.
        raise JobError(
            f"TVM {tvm.__version__} does not compile the lowered graph "
            f"({str(error).strip().splitlines()[-1][:300]})",
            fix="use --target x86" if core.is_here else "report the model",
        ) from error

    def link(output: str, objects: Sequence[str], **_: object) -> None:
        _run(
            [
                core.compiler(),
                "-shared",
                "-s",
                "-Wl,-Bsymbolic",
                "-o",
                output,
                *objects,
                *_libraries(folder)[:3],
            ]
        )

    # Names of temporary files reach the library, and the same model shall give the same bytes.
    with tempfile.TemporaryDirectory() as work:
        executable.export_library(
            str(folder / MODEL), addons=[str(kernels)], fcompile=link, workspace_dir=work
        )


def loader(core: Core) -> Path:
    """The library that opens an engine's, compiled at the first call for a processor.

    Raises:
        JobError: there is no compiler for the processor, or it failed.
    """
    machine = core.machine()
    unit = Unit("loader", _SOURCES / "edgec_tvm.cpp", (*core.flags, f"-isystem{tvm_headers()}"))
    link = _libraries(runtime_folder(core))
    return library(f"edgec_tvm_loader-{machine.name}", [unit], link, version(), machine)


def compile_pipe(core: Core, engine: Path, folder: Path) -> Path:
    """The program that runs an engine's library behind a pipe, compiled into a folder.

    Raises:
        JobError: there is no compiler for the processor, or it failed.
    """
    program = folder / "pipe"
    command = [
        core.compiler(),
        "-O2",
        "-std=c++17",
        *core.flags,
        str(_SOURCES / "pipe.cpp"),
        "-o",
        str(program),
    ]
    _run([*command, f"-L{engine}", f"-l:{LOADER}", f"-Wl,-rpath-link,{engine}"])
    return program


def _libraries(folder: Path) -> list[str]:
    """The runtime beside the library, as the linker is given it."""
    return [
        "-Wl,-rpath,$ORIGIN",
        f"-L{folder}",
        "-ltvm_ffi",
        "-Wl,--no-as-needed",
        "-ltvm_runtime",
        "-ldl",
        "-pthread",
    ]


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
        raise JobError(
            f"the C++ compiler failed: {lines[0][:300]}", fix="a g++ of version 11 or newer is known to work"
        )
