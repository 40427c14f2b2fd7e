"""Runs tests against a copy of the tree: one process with the heavy libraries, a fork for each request.

Reads one JSON object a line (`tests`, and `warm`: libraries to import before the fork), writes one a line.
edgec itself is never imported here, so that each fork imports it with the fault in.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

_LIBRARIES = (
    "numpy",
    "onnx",
    "onnx.reference",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "hypothesis",
    "pytest",
)
_LIMIT = 240
"""Seconds: a fault may make a loop endless."""


class _Collected:
    """What pytest reports, as a plugin."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"passed": 0, "failures": [], "broken": ""}

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.found["broken"] = str(report.longrepr)[-600:]

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.excinfo is None:
            self.found["passed"] += call.when == "call"
            return
        kind = call.excinfo.type.__name__
        if kind == "Skipped":
            return
        chain, error = [], call.excinfo.value
        while error is not None:
            chain.append(type(error).__name__)
            error = error.__cause__ or error.__context__
        text = f"{kind}: {call.excinfo.value}"[:600]
        self.found["failures"].append({"test": item.nodeid, "kinds": chain, "text": text})


def run(tests: list[str]) -> dict[str, Any]:
    """Run tests in this process; how many passed, what failed, and what kept them from running."""
    import pytest

    collected = _Collected()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout"]
    code = pytest.main([*options, "--rootdir", ".", *tests], plugins=[collected])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not collected.found["broken"]:
        collected.found["broken"] = f"pytest: {pytest.ExitCode(code).name}"
    elif not collected.found["failures"] and not collected.found["passed"]:
        collected.found["broken"] = collected.found["broken"] or "every test was skipped"
    return collected.found


def _forked(tests: list[str]) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(_LIMIT)
        os.close(read)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            found = run(tests)
        except BaseException:
            found = {"passed": 0, "failures": [], "broken": traceback.format_exc()[-600:]}
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return json.loads(answer)
    return {"passed": 0, "failures": [], "broken": f"the tests ended with status {status}"}


def main() -> None:
    """Answer requests until the input ends."""
    sys.path.insert(0, sys.argv[1])
    for library in _LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        request = json.loads(line)
        for library in request["warm"]:
            importlib.import_module(library)
        assert "edgec" not in sys.modules
        print(json.dumps(_forked(request["tests"])), flush=True)


if __name__ == "__main__":
    main()
