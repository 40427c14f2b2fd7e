"""Whether edgec's packages are there, new enough, and can be imported.

What should be there is read from edgec's own metadata. Each import runs in a child process with a time
limit: a package that hangs, crashes or calls exit must not take the doctor with it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from edgec.devices.check import Check

IMPORT_SECONDS = 12.0
"""For all imports together; on two idle cores they take about six."""

_MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}
"""Import names that are not the package's name with underscores."""

_TORCH_FAMILY = ("torch", "torchvision", "timm", "transformers", "nncf")
"""Packages that import torch, in the order in which one process tries them: torch is loaded once."""

_DEVELOPMENT = "dev"

_PROBE = """
import importlib, json, os, sys
report = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
for name in sys.argv[1:]:
    report.write(json.dumps({"begin": name}) + "\\n")
    try:
        importlib.import_module(name)
        error = None
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}".splitlines()[0][:300]
    report.write(json.dumps({"end": name, "error": error}) + "\\n")
    if error and "torchvision::nms does not exist" in error:
        # What edgec's frontends do before they import timm or transformers.
        import torch
        declared = torch.library.Library("torchvision", "DEF")
        for schema in ("nms", "qnms"):
            declared.define(schema + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
report.flush()
os._exit(0)
"""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A package that edgec or one of its extras asks for.

    Attributes:
        package: its name in the index.
        extra: the extra; empty for edgec itself.
        versions: the versions it takes, `>=2.9`; empty where any will do.
    """

    package: str
    extra: str
    versions: str

    @property
    def name(self) -> str:
        """As the doctor prints it."""
        return f"{self.package} [{self.extra}]" if self.extra else self.package

    @property
    def install(self) -> str:
        """The command that brings it."""
        return f"run: pip install --upgrade 'edgec[{self.extra}]'" if self.extra else "reinstall edgec"


@dataclasses.dataclass(frozen=True)
class Imported:
    """What became of an import.

    Attributes:
        finished: whether it came to an end in time.
        error: why it failed; None where it went through, or was not finished.
    """

    finished: bool
    error: str | None = None


def check_packages(seconds: float = IMPORT_SECONDS) -> list[Check]:
    """One check a package of edgec and of its extras, in the order of edgec's metadata."""
    try:
        wanted = wanted_packages()
    except importlib.metadata.PackageNotFoundError:
        found = "edgec runs from a folder that was never installed"
        return [Check("edgec", "broken", found, "run: pip install edgec, or pip install -e . in its folder")]
    versions = {need.package: _version(need.package) for need in wanted}
    installed = [need.package for need in wanted if versions[need.package]]
    imports = try_imports([_module(package) for package in installed], seconds)
    return [
        judge(need, versions[need.package], imports.get(_module(need.package)), versions) for need in wanted
    ]


def wanted_packages(distribution: str = "edgec") -> list[Wanted]:
    """What edgec's metadata asks for, each package once, edgec's own first; development tools are left out.

    Raises:
        PackageNotFoundError: edgec is not installed.
    """
    from packaging.requirements import Requirement

    wanted: dict[str, Wanted] = {}
    for line in importlib.metadata.requires(distribution) or []:
        need = Requirement(line)
        extra = line.partition("extra ==")[2].strip().strip("\"'")
        if need.name != distribution and extra != _DEVELOPMENT:
            wanted.setdefault(need.name, Wanted(need.name, extra, str(need.specifier)))
    return list(wanted.values())


def judge(
    need: Wanted, version: str | None, imported: Imported | None, versions: dict[str, str | None]
) -> Check:
    """The verdict on one package.

    Args:
        need: what is wanted.
        version: the version installed; None where it is not.
        imported: what became of its import; None where it was not tried.
        versions: the versions of all packages, for packages that must fit each other.
    """
    from packaging.specifiers import SpecifierSet

    if version is None:
        return Check(need.name, "missing" if need.extra else "broken", "not installed", need.install)
    if not SpecifierSet(need.versions).contains(version, prereleases=True):
        return Check(need.name, "broken", f"{version}, edgec needs {need.versions}", need.install)
    if imported is None or not imported.finished:
        found = f"{version}, installed; its import was not finished in time"
        return Check(need.name, "unknown", found, "run the doctor again when the machine is less busy")
    if imported.error is None:
        return Check(need.name, "ok", version)
    found = f"{version}, does not import: {imported.error}"
    if "torchvision::nms does not exist" in imported.error:
        fix = (
            f"install the torchvision that was built for torch {versions.get('torch') or ''}; until then "
            "edgec declares the missing operators itself, and timm and transformers models load"
        )
        return Check(need.name, "broken", found, fix)
    return Check(need.name, "broken", found, f"run: pip install --force-reinstall {need.package}")


def try_imports(modules: Sequence[str], seconds: float = IMPORT_SECONDS) -> dict[str, Imported]:
    """Import modules in child processes, torch's family in one and the rest in another.

    Args:
        modules: import names.
        seconds: when all of it must have ended.

    Returns:
        what became of each module.
    """
    end = time.monotonic() + seconds
    family = [name for name in _TORCH_FAMILY if name in modules]
    others = [name for name in modules if name not in _TORCH_FAMILY]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda names: _import_in_turn(names, end), (family, others))
        return {name: result for found in results for name, result in found.items()}


def _import_in_turn(modules: Sequence[str], end: float) -> dict[str, Imported]:
    """Import modules one after the other in one process; a crash starts another for the rest."""
    found: dict[str, Imported] = {}
    while (left := [name for name in modules if name not in found]) and time.monotonic() < end:
        output, status = _run_probe(left, end - time.monotonic())
        begun = None
        for line in output.splitlines():
            entry = json.loads(line)
            begun = entry.get("begin")
            if "end" in entry:
                found[entry["end"]] = Imported(True, entry["error"])
        if status is None or (begun is None and status == 0):
            break
        if begun is None:  # it did not even begin: do not try for ever
            begun = left[0]
        found[begun] = Imported(True, f"the process ended with {_ending(status)}")
    return {name: found.get(name, Imported(False)) for name in modules}


def _run_probe(modules: Sequence[str], seconds: float) -> tuple[str, int | None]:
    """What the probe wrote and its exit status; None where the time ran out."""
    # -P keeps the working folder off the path: a file of the user's named like a package is not it.
    command = [sys.executable, "-P", "-c", _PROBE, *modules]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        try:
            return process.communicate(timeout=max(seconds, 0.01))[0], process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[0], None


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _module(package: str) -> str:
    return _MODULES.get(package, package.replace("-", "_"))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
