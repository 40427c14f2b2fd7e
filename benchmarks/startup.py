"""What edgec itself costs: import, --help, a whole compile, and Session.run beside the bare engine.

python benchmarks/startup.py
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import markdown, publish

MODEL = "timm:deit_tiny_patch16_224"
EDGEC = str(Path(sys.executable).with_name("edgec"))


def seconds(command: list[str], times: int) -> float:
    """Median wall time of a command, after one run that warms the disk's cache."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def main() -> None:
    bare = seconds([sys.executable, "-c", "pass"], 9)
    imported = seconds([sys.executable, "-c", "import edgec"], 9)
    helped = seconds([EDGEC, "--help"], 9)
    with tempfile.TemporaryDirectory() as folder:
        bundle = str(Path(folder) / "m.x86.edgec")
        start = time.perf_counter()
        subprocess.run(
            [EDGEC, "compile", MODEL, "--target", "x86", "-o", bundle, "--json"],
            check=True,
            capture_output=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        compiled = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
        code = (
            "import json, edgec, sys\n"
            "from edgec.core.timing import measure\n"
            "session = edgec.load(sys.argv[1])\n"
            "feeds = session.bundle.samples()[0][0]\n"
            "calls = {'session': lambda: session.run(feeds), 'engine': lambda: session.engine.run(feeds)}\n"
            "found = measure(calls,"
            " blocks=21, block_seconds=0.3)\n"
            "print(json.dumps(found['session'].ratio_to(found['engine'])))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, bundle], check=True, capture_output=True, text=True
        )
        overhead = json.loads(done.stdout)
    rows = [
        ["`import edgec`, over bare Python's start", f"{imported - bare:.3f} s", "0.3 s"],
        ["`edgec --help`", f"{helped:.3f} s", "0.5 s"],
        [f"`edgec compile {MODEL} --target x86`", f"{compiled:.1f} s", "25 s"],
        ["its peak memory", f"{peak:.2f} GB", "2 GB"],
        ["`Session.run` over the engine's own call", f"{overhead:.4f} ×", "1.02 ×"],
    ]
    publish("startup", "What edgec itself costs", markdown(["what", "measured", "goal"], rows))


if __name__ == "__main__":
    main()
