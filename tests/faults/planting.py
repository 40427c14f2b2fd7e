"""Planting faults: the table, the copy of the source tree, and the worker that runs tests against it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

_LEFT_OUT = ("__pycache__", ".*", "build", "dist", "*.egg-info")

# Libraries whose import costs more than the tests, by the tests that need them: imported before the fork.
_WARM = {
    "tests/frontends": ("torch",),
    "tests/targets": ("openvino",),
    "tests/targets/coreml": ("coremltools",),
    "tests/plugins": ("openvino",),
    "tests/runtime": ("openvino",),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: its name, once in the table.
        breaks: one sentence: what is wrong with the fault in.
        file: where, from the root of the tree.
        find: the text that is replaced; it must occur once.
        put: what replaces it.
        tests: the tests of which at least one must fail, as pytest names them.
        quick: whether `make test` plants it too.
    """

    name: str
    breaks: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]
    quick: bool = False

    def planted(self, text: str) -> str:
        """The file's text with the fault in.

        Raises:
            ValueError: the text to replace is not there exactly once, or the fault changes nothing.
        """
        count = text.count(self.find)
        if count != 1:
            raise ValueError(
                f"fault {self.name!r} does not apply: its text occurs {count} times in {self.file}"
            )
        if self.put == self.find:
            raise ValueError(f"fault {self.name!r} changes nothing")
        return text.replace(self.find, self.put)


def read_faults() -> list[Fault]:
    """All faults, from every table of this folder.

    Raises:
        ValueError: two have one name.
    """
    faults: list[Fault] = []
    for path in sorted(HERE.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
            faults.append(Fault(**{**entry, "tests": tuple(entry["tests"])}))
    names = [fault.name for fault in faults]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"more than one fault is named {', '.join(twice)}")
    return faults


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the tests said.

    Attributes:
        noticed: whether one failed by what it found.
        said: the failure, or what happened instead.
    """

    noticed: bool
    said: str


class Nursery:
    """A copy of the source tree, laid out as in a wheel, and a worker that runs tests of the copy.

    Nothing outside `folder` is written.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.tree, self._site = folder / "tree", folder / "site"
        shutil.copytree(ROOT, self.tree, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        _lay_out(self.tree, self._site / "edgec")
        # An installed edgec comes behind PYTHONPATH, so the worker and its children see the copy.
        environment = {**os.environ, "PYTHONPATH": str(self._site), "OMP_NUM_THREADS": "1"}
        self._worker = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "worker.py"), str(self._site)],
            cwd=self.tree,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ages = itertools.count(1)

    def close(self) -> None:
        """End the worker."""
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait(timeout=60)

    def try_out(self, fault: Fault) -> Verdict:
        """Plant a fault, run its tests, take it out again.

        Raises:
            ValueError: it does not apply.
        """
        with self._planted(fault):
            return _judged(self.run(fault.tests))

    def run(self, tests: tuple[str, ...]) -> dict[str, Any]:
        """Run tests against the copy as it is; what `worker.run` found."""
        warm = dict.fromkeys(
            library
            for test in tests
            for folder in _WARM
            if test.startswith(folder)
            for library in _WARM[folder]
        )
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps({"tests": tests, "warm": list(warm)}) + "\n")
        self._worker.stdin.flush()
        answer = self._worker.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended with {self._worker.wait(timeout=10)}")
        return json.loads(answer)

    @contextlib.contextmanager
    def _planted(self, fault: Fault) -> Iterator[None]:
        path = self.tree / fault.file
        before, status = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(fault.planted(before), encoding="utf-8")
        # Compiled files go by whole seconds: a time of its own for each fault, long ago.
        age = next(self._ages)
        os.utime(path, (age, age))
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _lay_out(tree: Path, package: Path) -> None:
    """Links that make one package of the rooms, as an installed edgec has them."""
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = project["tool"]["setuptools"]["package-dir"]
    package.mkdir(parents=True)
    for path in (tree / "edgec").iterdir():
        (package / path.name).symlink_to(path)
    for name, folder in rooms.items():
        if name.count(".") == 1 and folder == name.removeprefix("edgec."):
            (package / folder).symlink_to(tree / folder)


# A fault with a slip of the pen fails every test, whatever the tests look at.
_SLIPS = ("SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError", "NameError")


def _judged(found: dict[str, Any]) -> Verdict:
    """A fault is noticed where a test fails by what it found."""
    if found["broken"]:
        return Verdict(False, f"the tests could not be run: {found['broken']}")
    failures = found["failures"]
    for failure in failures:
        slip = next(
            (name for name in _SLIPS if name in failure["kinds"] or f"{name}:" in failure["text"]), None
        )
        if slip is not None:
            return Verdict(False, f"{failure['test']} failed by {slip}: {failure['text']}")
    if not failures:
        return Verdict(False, f"{found['passed']} tests passed")
    return Verdict(True, f"{failures[0]['test']}: {failures[0]['text']}")
