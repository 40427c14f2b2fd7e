"""The C++ runtime as a folder that CMake builds, with a bundle inside.

DIR/
CMakeLists.txt  include/edgec_runtime.h  source/  example/main.cpp
bundle/         the bundle
sample/         its first sample's inputs as .npy files, which the example reads
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
from pathlib import Path

import numpy as np

from edgec.core import appearing
from edgec.core.bundle import Bundle, check_writable_folder, copy_bundle
from edgec.core.errors import JobError
from edgec.packaging.wheel import check_runs_here
from edgec.runtime.engine import EngineDescription
from edgec.runtime.engine_openvino import PRECISION_HINTS
from edgec.runtime.machine import NEEDS
from edgec.targets.jetson import on_device

_OWN = Path(__file__).parent / "cpp"
_SHARED = Path(on_device.__file__).parent / "cpp" / "source"
_SHARED_FILES = ("arrays.cpp", "arrays.hpp", "error.hpp", "json.cpp", "json.hpp", "sha256.cpp", "sha256.hpp")
_LIBRARIES = {
    "ort": ("onnxruntime/capi", "libonnxruntime.so*"),
    "openvino": ("openvino/libs", "libopenvino_c.so*"),
}
"""By the engine's kind: the folder in the wheel, and the library's name."""


def write_sources(bundle: Bundle, folder: Path) -> list[str]:
    """Write the runtime's sources, the bundle and a sample; the folder is whole or not there at all.

    Args:
        bundle: a bundle for x86.
        folder: does not exist yet, or is one of these that is replaced.

    Returns:
        the commands that build the example and run it.

    Raises:
        RequestError: something else is at the folder.
        JobError: the bundle is for a device of another kind, or a decoder.
    """
    check_runs_here(bundle)
    if EngineDescription.read(bundle.engine_folder).decoding is not None:
        raise JobError(
            "the C++ runtime steps no decoders",
            where=str(bundle.path),
            fix="package it with --wheel or --docker: Session.generate is in both",
        )
    check_writable_folder(folder, "CMakeLists.txt", "folder of C++ sources")
    with appearing.folder(folder) as scratch:
        write_library(scratch)
        copy_bundle(bundle, scratch / "bundle")
        feeds = _write_sample(bundle, scratch / "sample")
    made = folder / "build"
    words = [f"{name}={folder / 'sample' / file}" for name, file in feeds.items()]
    library = library_here(bundle.manifest["engine"])
    words += ["--engine", str(library)] if library else []
    return [
        shlex.join(["cmake", "-S", str(folder), "-B", str(made)]),
        shlex.join(["cmake", "--build", str(made)]),
        shlex.join([str(made / "edgec-run"), "run", str(folder / "bundle"), *words]),
    ]


def library_here(kind: str) -> Path | None:
    """The library with the C interface of an engine inside its installed wheel; None where there is none."""
    folder, pattern = _LIBRARIES[kind]
    spec = importlib.util.find_spec(folder.partition("/")[0])
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [path for place in places for path in sorted((Path(place).parent / folder).glob(pattern))]
    return found[0] if found else None


def write_library(folder: Path) -> None:
    """Write the sources of the library and the example alone, into a folder that is there."""
    shutil.copytree(_OWN, folder, dirs_exist_ok=True)
    for name in _SHARED_FILES:
        shutil.copyfile(_SHARED / name, folder / "source" / name)
    (folder / "source" / "needs.hpp").write_text(_needs(), encoding="utf-8")


def _needs() -> str:
    """`needs.hpp`: what `edgec.runtime` knows of precisions, for the C++ side."""
    rows = [
        f"    {{{json.dumps(precision)}, {{{', '.join(json.dumps(name) for name in sorted(need.any_of))}}},\n"
        f"     {json.dumps(need.why)}}},"
        for precision, need in NEEDS.items()
    ]
    hints = [f"    {{{json.dumps(ours)}, {json.dumps(theirs)}}}," for ours, theirs in PRECISION_HINTS.items()]
    return "\n".join(
        [
            "// Written by edgec from its own tables.",
            "#pragma once",
            "",
            "#include <string>",
            "#include <utility>",
            "#include <vector>",
            "",
            "namespace edgec {",
            "",
            "// What an engine's numbers rest on: one of these instruction sets, and what happens without.",
            "struct Need {",
            "    std::string precision;",
            "    std::vector<std::string> any_of;",
            "    std::string why;",
            "};",
            "",
            "inline const std::vector<Need> kNeeds = {",
            *rows,
            "};",
            "",
            "// OpenVINO's names of precisions, by edgec's.",
            "inline const std::vector<std::pair<std::string, std::string>> kPrecisionHints = {",
            *hints,
            "};",
            "",
            "}  // namespace edgec",
            "",
        ]
    )


def _write_sample(bundle: Bundle, folder: Path) -> dict[str, str]:
    """The first sample's inputs; the files' names by input."""
    folder.mkdir()
    files = {}
    for index, (name, array) in enumerate(bundle.samples()[0][0].items()):
        files[name] = f"{index}.npy"
        np.save(folder / files[name], np.ascontiguousarray(array), allow_pickle=False)
    return files
