"""A sweep whose compiles answer as `edgec compile` does, by the model's name and in no time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from edgec.sweep.cells import Runner
from edgec.sweep.plan import PLAIN, Plan, made

COMPILE = """
import json, os, signal, sys, time
from pathlib import Path
model, out = sys.argv[2], sys.argv[sys.argv.index("-o") + 1]
calls = Path(__file__).parent / "calls"
with calls.open("a") as file:
    file.write(f"begin {model}\\n")
kind = Path(model).stem.rstrip("0123456789")
if kind == "dies":
    print("half a sente", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if kind in ("slow", "held"):
    time.sleep(0.4 if kind == "held" else 60)
error = None
if kind == "refused":
    error = {"where": "m.onnx", "what": "op Mystery has no kernel", "fix": "leave it out"}
if kind == "bug":
    error = {"where": None, "what": "this is a bug of edgec: unexpected KeyError", "fix": "report it"}
if kind == "silent":
    sys.exit(3)
with calls.open("a") as file:
    file.write(f"end {model}\\n")
if error:
    print(json.dumps({"error": error, "exit_status": 1}))
    sys.exit(1)
Path(out).mkdir()
latency = {"p50": 2.0, "interval": [1.9, 2.1], "ratio": 0.8}
print(json.dumps({"engine": "ort", "precision": "fp32", "latency_ms": latency, "accuracy": None,
                  "numerics": {"scaled": 1e-6}}))
"""


class Stand:
    """A sweep's folder, the stand-in for `edgec`, and what it was called for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        script = folder / "compile.py"
        script.write_text(COMPILE)
        self.runner = Runner(self.out, program=(sys.executable, "-S", str(script)))

    def plan(self, *names: str, targets: tuple[str, ...] = ("x86",), **more: object) -> Plan:
        for name in names:
            if not (self.folder / name).exists():
                (self.folder / name).write_text(name)
        return made("p", names, targets, {PLAIN: {}}, beside=self.folder, **more)  # type: ignore[arg-type]

    @property
    def calls(self) -> list[str]:
        """Every beginning and end of a compile, in order."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.replace(f"{self.folder}/", "") for line in lines]

    def wait_for(self, call: str) -> None:
        while call not in self.calls:
            threading.Event().wait(0.02)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)
