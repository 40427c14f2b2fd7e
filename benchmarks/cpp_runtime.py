"""The C++ runtime's latency beside the Python session's engine alone, in turns.

python benchmarks/cpp_runtime.py [--small]

Each turn is a process of its own: thread pools of two engines in one process disturb each other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import markdown, publish

import edgec
from edgec.core.bundle import Bundle
from edgec.packaging.cpp_sources import library_here, write_sources

GOAL = 1.02

PYTHON = """
import json, sys, time, edgec, numpy
with edgec.load(sys.argv[1]) as session:
    feeds = session.bundle.samples()[0][0]
    run = session.engine.run
    for _ in range(3):
        run(feeds)
    times, end = [], time.perf_counter() + float(sys.argv[2])
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(feeds)
        times.append(1e3 * (time.perf_counter() - start))
print(json.dumps({"p50": numpy.median(times)}))
"""


def measured(bundle: Path, folder: Path, turns: int, seconds: float) -> list[object]:
    """A row of the table: medians of the turns' medians, and of the turns' ratios."""
    kind = str(Bundle.open(bundle).manifest["engine"])
    sources = folder / f"{bundle.name}.cpp"
    *building, running = write_sources(Bundle.open(bundle), sources)
    for command in building:
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    library = library_here(kind)
    assert library is not None, f"{kind} brings no library with a C interface"
    bench = running.replace(" run ", " bench ", 1) + f" --seconds {seconds}"
    pairs = []
    for turn in range(turns):
        commands = {
            "python": [sys.executable, "-c", PYTHON, str(bundle), str(seconds)],
            "cpp": ["sh", "-c", bench],
        }
        names = list(commands) if turn % 2 else list(commands)[::-1]
        found = {name: _p50(commands[name]) for name in names}
        pairs.append((found["python"], found["cpp"]))
    python, cpp = np.asarray(pairs).T
    return [
        bundle.name,
        kind,
        float(np.median(python)),
        float(np.median(cpp)),
        float(np.median(cpp / python)),
    ]


def _p50(command: list[str]) -> float:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["p50"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one small model, short turns; nothing is kept")
    small = parser.parse_args().small
    names = ["vit_digits"] if small else ["vit_digits", "deit_tiny"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgec-cpp-") as scratch:
        folder = Path(scratch)
        for name in names:
            for kind in ("ort", "openvino"):
                out = folder / f"{name}.{kind}.edgec"
                bundle = edgec.compile(f"zoo:{name}", target=f"x86:{kind}", output=out).path
                rows.append(measured(bundle, folder, 3 if small else 9, 0.3 if small else 3.0))
    headers = ["bundle", "engine", "Python's engine ms", "C++ ms", f"ratio (goal {GOAL})"]
    if small:
        print(markdown(headers, rows))
    else:
        publish("cpp_runtime", "The C++ runtime beside the Python session's engine", markdown(headers, rows))


if __name__ == "__main__":
    main()
