"""What a bundle has beside its engine: a C++ program with CMake that runs it without Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from edgec.core.bundle import IO

FOLDER = "cpp"
_EXAMPLE = Path(__file__).parent / "example"
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


def ship_example(bundle: Path) -> None:
    """Write the example into a bundle that has its `io.json`."""
    folder = bundle / FOLDER
    folder.mkdir()
    for name in ("CMakeLists.txt", "example.cpp"):
        shutil.copyfile(_EXAMPLE / name, folder / name)
    inputs = json.loads((bundle / IO).read_text(encoding="utf-8"))["inputs"]
    rows = []
    for spec in inputs:
        dtype = np.dtype(spec["dtype"])
        sizes = ", ".join(str(size) for size in spec["shape"])
        name = json.dumps(spec["name"])
        rows.append(f"    {{{name}, {_CODES[dtype.kind]}, {8 * dtype.itemsize}, {{{sizes}}}}},")
    lines = [
        "// The model's inputs, in the order of io.json; types as edgec_array has them.",
        "#pragma once",
        "",
        "#include <cstdint>",
        "#include <vector>",
        "",
        "struct Input {",
        "    const char* name;",
        "    int32_t code, bits;",
        "    std::vector<int64_t> sizes;",
        "};",
        "",
        "static const std::vector<Input> INPUTS = {",
        *rows,
        "};",
        "",
    ]
    (folder / "inputs.h").write_text("\n".join(lines), encoding="utf-8")
