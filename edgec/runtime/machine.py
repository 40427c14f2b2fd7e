"""Whether a bundle's engine can run in this process, seen before anything native is loaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from edgec.core.bundle import ENGINE, Bundle
from edgec.core.errors import IntegrityError, JobError, MissingExtraError
from edgec.runtime.engine import EngineDescription

PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}
"""The package that runs an engine of each kind, which is also what the extra of that name brings."""

_ARCHITECTURES = {"AMD64": "x86_64", "arm64": "aarch64"}

_ELF_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}
"""`e_machine` (System V ABI, ELF header) of the machines that edgec knows."""


@dataclasses.dataclass(frozen=True)
class Need:
    """What an engine's numbers rest on.

    Attributes:
        any_of: instruction sets by the names of /proc/cpuinfo; one of them is enough.
        why: what happens without.
    """

    any_of: frozenset[str]
    why: str


NEEDS = {
    "bf16": Need(
        frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}),
        "without it OpenVINO computes in another precision than was verified",
    ),
    "int8": Need(
        frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}),
        "without it sums of two products saturate at 16 bits, and the numbers are others than were verified",
    ),
}
"""By precision. Both are asked for only where the machine that verified the bundle had one of them."""


def check(bundle: Bundle) -> None:
    """See that the engine's package, this processor and the plugins are what the bundle was made with.

    Raises:
        MissingExtraError: the engine's package is not installed.
        JobError: it is older than the bundle's, or the processor lacks what the engine's numbers rest on.
        IntegrityError: a plugin is not part of the bundle, or is for another processor.
    """
    description = EngineDescription.read(bundle.engine_folder)
    if description.kind not in PACKAGES:
        return  # told by `open_engine`, which knows where it runs
    for precision in (description.precision, description.rest):
        check_processor(bundle, precision)
    for name in description.extensions:
        _check_plugin(bundle, name)
    _check_package(bundle, PACKAGES[description.kind], description)


def check_processor(bundle: Bundle, precision: str, root: Path = Path("/")) -> None:
    """See that this processor has what the bundle's precision needs.

    Args:
        bundle: the bundle.
        precision: its engine's.
        root: where `/proc` is.

    Raises:
        JobError: it does not.
    """
    device = bundle.manifest.get("device", {})
    made_on = device.get("architecture")
    here = _ARCHITECTURES.get(platform.machine(), platform.machine())
    if made_on is not None and made_on != here:
        raise JobError(
            f"it was compiled and verified on {made_on}, and this machine is {here}",
            where=str(bundle.path),
            fix="compile the model on a machine like this one",
        )
    need = NEEDS.get(precision)
    had = need.any_of & set(device.get("isa", ())) if need else None
    features = _features(root)
    if need and had and features and not need.any_of & features:
        raise JobError(
            f"its {precision} engine was verified with {', '.join(sorted(had))}, which this processor lacks; "
            f"{need.why}",
            where=str(bundle.path),
            fix="compile the model on a machine like this one",
        )


def _features(root: Path) -> set[str]:
    """The processor's flags; none where the system does not tell them."""
    try:
        text = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(line.group(1).split()) if line else set()


def _check_plugin(bundle: Bundle, name: str) -> None:
    path = bundle.engine_folder / name
    if f"{ENGINE}/{name}" not in bundle.manifest.get("files", {}):
        raise IntegrityError("is not part of the bundle", where=str(path), fix="do not run this bundle")
    with path.open("rb") as file:
        head = file.read(20)
    here = _ARCHITECTURES.get(platform.machine(), platform.machine())
    if head[:4] == b"\x7fELF" and _ELF_MACHINES.get(int.from_bytes(head[18:20], "little")) != here:
        raise IntegrityError(
            f"is a library for another processor than {here}",
            where=str(path),
            fix="compile the model on a machine like this one",
        )


def _check_package(bundle: Bundle, package: str, description: EngineDescription) -> None:
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError(package, description.kind) from None
    recorded: Mapping[str, str] = bundle.manifest.get("tools", {})
    made_with = recorded.get(package)
    if not isinstance(made_with, str):
        return
    fix = f"run: pip install {package}=={made_with}, or compile the model again"
    if description.extensions and installed != made_with:
        raise JobError(
            f"its plugins were built for {package} {made_with}, and {installed} is installed",
            where=str(bundle.path),
            fix=fix,
        )
    if _numbers(installed) < _numbers(made_with):
        raise JobError(
            f"it was verified with {package} {made_with}, and {installed}, which is older, is installed",
            where=str(bundle.path),
            fix=fix,
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, as far as it is numbers: 1.32.0 of `1.32.0+cpu`."""
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, release.group().split("."))) if release else ()
