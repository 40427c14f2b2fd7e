"""What `edgec-runtime` costs where it is installed: its wheel, all its packages, and the start of a program.

python benchmarks/runtime_cost.py

A fresh environment gets the wheel, and ONNX Runtime from the package index. In turns, fresh processes import,
open vit_digits and run it once: by edgec-runtime, and by ONNX Runtime alone on the same file.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tables import markdown, publish

import edgec
from edgec.packaging.wheel import write_runtime_wheel

TURNS = 9

OURS = """
import sys, edgec_runtime
with edgec_runtime.load(sys.argv[1]) as session:
    session.run(session.bundle.samples()[0][0])
"""

PLAIN = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1] + "/engine/model.onnx", providers=["CPUExecutionProvider"])
with numpy.load(sys.argv[1] + "/samples/0.inputs.npz") as feeds:
    session.run(None, dict(feeds))
"""


def seconds(python: Path, code: str, bundle: Path) -> float:
    """Wall time of a process."""
    started = time.perf_counter()
    subprocess.run([str(python), "-c", code, str(bundle)], check=True, capture_output=True)
    return time.perf_counter() - started


def megabytes(folder: Path) -> float:
    """All files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="edgec-runtime-cost-") as scratch:
        folder = Path(scratch)
        bundle = edgec.compile("zoo:vit_digits", target="x86:ort", output=folder / "d.x86.edgec").path
        wheel = write_runtime_wheel(folder)
        venv.create(folder / "env", symlinks=True)
        python = folder / "env" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, f"{wheel}[ort]"], check=True)
        site = next((folder / "env").glob("lib/python*/site-packages"))
        size = megabytes(site)
        taken: dict[str, list[float]] = {OURS: [], PLAIN: []}
        for turn in range(TURNS + 1):
            for code in (OURS, PLAIN) if turn % 2 else (PLAIN, OURS):
                found = seconds(python, code, bundle)
                if turn:  # the first fills the disk's cache and writes the modules' bytecode
                    taken[code].append(found)
        kilobytes = wheel.stat().st_size / 1000
    ours, plain = (statistics.median(taken[code]) for code in (OURS, PLAIN))
    rows = [
        ["the wheel", f"{kilobytes:.0f} KB", "100 KB"],
        ["installed with ONNX Runtime, beyond Python", f"{size:.0f} MB", "120 MB"],
        ["import, open and first run of vit_digits", f"{ours:.2f} s", "1.0 s"],
        ["the same by ONNX Runtime alone, the hashes not compared", f"{plain:.2f} s", ""],
    ]
    publish("runtime_cost", "What edgec-runtime costs", markdown(["what", "measured", "goal"], rows))


if __name__ == "__main__":
    main()
