"""The C++ readers of `edgec-engine` (JSON, .npy, plans) under AddressSanitizer and UBSan, on damaged files.

    python benchmarks/sanitize_readers.py [FILES]     # 10000 where none are given

Each file is a sound one that was cut, of which bytes were changed, or of which a piece was repeated up to
thousands of times. A reader may refuse it. It may not read or write outside, overflow the stack, or make of a
number another that the type cannot hold.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import markdown, publish

SOURCE = Path(__file__).parents[1] / "targets" / "jetson" / "on_device" / "cpp" / "source"
FLAGS = ("-std=c++17", "-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow")
ENDS = "-fno-sanitize-recover=all"
BATCH = 500

MAIN = """
#include <iostream>
#include "arrays.hpp"
#include "error.hpp"
#include "json.hpp"
#include "plan.hpp"
int main() {
    for (std::string kind, path; std::cin >> kind >> path;) {
        try {
            if (kind == "npy") edgec::read_npy(path);
            else if (kind == "plan") edgec::Plan::read(path);
            else { const auto data = edgec::read_file(path); edgec::Json::parse({data.begin(), data.end()}); }
            std::cout << "read" << std::endl;
        } catch (const edgec::Error &) {
            std::cout << "refused" << std::endl;
        }
    }
}
"""

PLAN = {
    "schema": 1,
    "tensorrt": "10.3",
    "compute_capability": "8.7",
    "model": "model.onnx",
    "model_sha256": "0" * 64,
    "strongly_typed": False,
    "flags": ["FP16"],
    "layer_precisions": {"/fc/MatMul": "fp32"},
    "profiles": [{"inputs": {"x": {"min": [1, 16], "opt": [2, 16], "max": [4, 16]}}}],
    "workspace_bytes": 1 << 28,
    "optimization_level": 3,
    "plugins": [{"op": "TokenMerge", "library": "libmerge.so"}],
}

PIECES = (
    b"-1",
    b"1e400",
    b"-1e30",
    b"99999999999999999999",
    b"nan",
    b"null",
    b"{}",
    b"[[",
    b'"\\ud800',
    b"(2,)",
    b"\0",
)


def sound(kind: str, rng: np.random.Generator) -> bytes:
    """A file that a reader takes."""
    if kind == "npy":
        file = io.BytesIO()
        dtype = rng.choice(["<f4", "<i8", "|b1", "<f2"])
        np.save(file, np.zeros([int(size) for size in rng.integers(0, 4, int(rng.integers(4)))], dtype))
        return file.getvalue()
    return json.dumps(PLAN).encode()


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to three damages."""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data) + 1))
        way = int(rng.integers(5))
        if way == 0:
            data = data[:at]
        elif way == 1 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :]
        elif way == 2:
            size = int(rng.integers(1, 12))
            data = data[:at] + data[at : at + size] * int(rng.choice([2, 50, 5000])) + data[at + size :]
        elif way == 3:
            piece = PIECES[int(rng.integers(len(PIECES)))]
            data = data[:at] + piece + data[at:]
        else:  # a number of the text
            digits = [place for place in range(len(data)) if 48 <= data[place] <= 57]
            if digits:
                place = digits[int(rng.integers(len(digits)))]
                data = data[:place] + PIECES[int(rng.integers(5))] + data[place + 1 :]
    return data


def build(folder: Path) -> Path:
    """The readers' own sources, and a program that calls them."""
    (folder / "main.cpp").write_text(MAIN)
    program = folder / "readers"
    sources = [str(SOURCE / f"{name}.cpp") for name in ("arrays", "json", "plan")]
    command = ["g++", *FLAGS, ENDS, f"-I{SOURCE}", str(folder / "main.cpp"), *sources, "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def main() -> int:
    """Read the files; 1 where a sanitizer found something."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    rng = np.random.default_rng(0)
    outcomes = {kind: {"files": 0, "read": 0, "refused": 0, "found": 0} for kind in ("json", "npy", "plan")}
    with tempfile.TemporaryDirectory(prefix="readers-") as scratch:
        program = build(Path(scratch))
        environment = {**os.environ, "ASAN_OPTIONS": "max_allocation_size_mb=4096"}
        waiting = []
        for number in range(count):
            kind = list(outcomes)[number % len(outcomes)]
            place = Path(scratch) / str(number)
            file = place / "engine" / "plan.json" if kind == "plan" else place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(damaged(sound(kind, rng), rng))
            waiting.append((kind, place, file))
            if len(waiting) < BATCH and number + 1 < count:
                continue
            while waiting:
                asked = "".join(f"{kind} {place}\n" for kind, place, _ in waiting)
                done = subprocess.run(
                    [str(program)], input=asked, capture_output=True, text=True, env=environment
                )
                answers = done.stdout.split()
                for (kind, _, _), answer in zip(waiting, answers, strict=False):
                    outcomes[kind]["files"] += 1
                    outcomes[kind][answer] += 1
                if done.returncode:
                    kind, _, file = waiting[len(answers)]
                    outcomes[kind]["files"] += 1
                    outcomes[kind]["found"] += 1
                    lines = [line for line in done.stderr.splitlines() if "rror" in line or "what()" in line]
                    print(
                        json.dumps({"kind": kind, "file": repr(file.read_bytes()[:200]), "said": lines[:2]}),
                        flush=True,
                    )
                    waiting = waiting[len(answers) + 1 :]
                else:
                    waiting = []
    columns = ("files", "read", "refused", "found")
    rows = [[kind, *(outcome[column] for column in columns)] for kind, outcome in outcomes.items()]
    publish("sanitize_readers", "The C++ readers under sanitizers", markdown(("reader", *columns), rows))
    return 1 if any(outcome["found"] for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
