"""The device against the plan, before anything is built."""

from __future__ import annotations

import shutil
from typing import Any

from edgec_engine.errors import DeviceError
from edgec_engine.machine import describe
from edgec_engine.plan import Plan
from edgec_engine.plugins import sources_of, unbuilt
from edgec_engine.tensorrt_module import PORTABLE, version

OK, WARNING, ERROR = "ok", "warning", "error"


def check(plan: Plan, plan_only: bool = False) -> dict[str, Any]:
    """Check the bundle's files, then the device.

    Args:
        plan: the plan.
        plan_only: leave out the bundle's files, where only its plan and builder have come so far.

    Returns:
        `device`, the facts, and `checks`, a list of `name`, `status` (ok, warning, error), `what`, `fix`.

    Raises:
        DeviceError: a file of the bundle is missing or changed.
    """
    if not plan_only:
        plan.check_files()
    facts = describe(plan.state)
    checks = [
        _architecture(facts, plan),
        _jetpack(facts, plan),
        _tensorrt(facts, plan),
        _cuda(facts, plan),
        _gpu(facts, plan),
        _room(
            "memory", facts["memory_free_bytes"], plan.fields["needs"].get("memory_bytes"), "close programs"
        ),
        _room("disk", facts["disk_free_bytes"], plan.fields["needs"].get("disk_bytes"), "free some space"),
        None if plan_only else _compilers(plan),
        _clocks(facts),
    ]
    return {"device": facts, "checks": [entry for entry in checks if entry is not None]}


def require(report: dict[str, Any]) -> None:
    """Refuse to go on where a check is an error.

    Raises:
        DeviceError: all errors in one sentence, with the fix of the first.
    """
    errors = [entry for entry in report["checks"] if entry["status"] == ERROR]
    if errors:
        raise DeviceError("; ".join(entry["what"] for entry in errors), errors[0]["fix"])


def _entry(name: str, status: str, what: str, fix: str = "") -> dict[str, str]:
    return {"name": name, "status": status, "what": what, "fix": fix}


_RECOMPILE = "compile again for this device (edgec devices lists the names for --target jetson:NAME)"


def _architecture(facts: dict[str, Any], plan: Plan) -> dict[str, str] | None:
    if facts["machine"] in ("aarch64", "arm64") or facts["tensorrt_module"] == PORTABLE:
        return None
    return _entry(
        "architecture",
        WARNING,
        "this is a {} machine, the bundle is for {}".format(facts["machine"], plan.fields["device"]),
    )


def _jetpack(facts: dict[str, Any], plan: Plan) -> dict[str, str]:
    found, wanted = facts["jetpack"], plan.fields.get("jetpack")
    if found is None:
        return _entry("jetpack", WARNING, "JetPack's version cannot be seen from here")
    if wanted and version(found)[:1] != version(wanted)[:1]:
        return _entry(
            "jetpack",
            ERROR,
            f"the device has JetPack {found}, the bundle is for JetPack {wanted}",
            _RECOMPILE,
        )
    return _entry("jetpack", OK, f"JetPack {found}")


def _tensorrt(facts: dict[str, Any], plan: Plan) -> dict[str, str]:
    found, wanted = facts["tensorrt"], plan.fields["tensorrt"]
    if found is None:
        return _entry(
            "tensorrt",
            ERROR,
            "TensorRT's Python module does not load",
            "install it from JetPack: sudo apt install nvidia-jetpack python3-libnvinfer",
        )
    if facts["tensorrt_module"] == PORTABLE:
        return _entry("tensorrt", WARNING, f"TensorRT-RTX {found}: its engines do not run on a Jetson")
    have, need = version(found)[:2], version(wanted)[:2]
    if have[0] != need[0] or have < need:
        return _entry(
            "tensorrt",
            ERROR,
            f"the device has TensorRT {found}, the bundle is for {wanted}",
            _RECOMPILE,
        )
    if have > need:
        return _entry("tensorrt", WARNING, f"TensorRT {found} is newer than the plan's {wanted}")
    return _entry("tensorrt", OK, f"TensorRT {found}")


def _cuda(facts: dict[str, Any], plan: Plan) -> dict[str, str]:
    if facts["cuda"] is None:
        return _entry(
            "cuda",
            _needs_gpu(facts),
            "the CUDA runtime (libcudart.so) is not found",
            "install CUDA from JetPack: sudo apt install nvidia-jetpack",
        )
    wanted = plan.fields.get("cuda")
    if wanted and version(facts["cuda"])[:1] != version(wanted)[:1]:
        return _entry("cuda", WARNING, "CUDA {}, the plan was made for {}".format(facts["cuda"], wanted))
    return _entry("cuda", OK, "CUDA {}".format(facts["cuda"]))


def _gpu(facts: dict[str, Any], plan: Plan) -> dict[str, str]:
    found, wanted = facts["compute_capability"], plan.fields["compute_capability"]
    if found is None:
        return _entry(
            "gpu",
            _needs_gpu(facts),
            "CUDA finds no GPU here",
            "run this on the device; in a container, start it with --runtime nvidia",
        )
    if found != wanted:
        return _entry(
            "gpu",
            ERROR,
            "the GPU ({}) has compute capability {}, the bundle is for {}".format(
                facts["gpu"], found, wanted
            ),
            _RECOMPILE,
        )
    return _entry("gpu", OK, "{}, compute capability {}".format(facts["gpu"], found))


def _needs_gpu(facts: dict[str, Any]) -> str:
    return WARNING if facts["tensorrt_module"] == PORTABLE else ERROR


def _room(name: str, free: int | None, needed: int | None, how: str) -> dict[str, str] | None:
    if free is None or needed is None:
        return None
    what = f"{free / 1e6:.0f} MB of {name} free, about {needed / 1e6:.0f} MB needed"
    if free >= needed:
        return _entry(name, OK, what)
    return _entry(name, ERROR, "only " + what, how)


def _compilers(plan: Plan) -> dict[str, str] | None:
    """Plugins that came as sources need a compiler."""
    libraries = unbuilt(plan)
    if not libraries:
        return None
    if sources_of(plan) is None:
        return _entry(
            "plugins",
            ERROR,
            "the bundle has neither {} nor its sources".format(", ".join(libraries)),
            "compile the model again",
        )
    lacking = [tool for tool in ("cmake", "nvcc") if shutil.which(tool) is None]
    if lacking:
        return _entry(
            "plugins",
            ERROR,
            "{} not found, the bundle's plugins are compiled with it".format(" and ".join(lacking)),
            "sudo apt install cmake nvidia-jetpack, and put /usr/local/cuda/bin on PATH",
        )
    return _entry("plugins", OK, "{} will be compiled".format(", ".join(libraries)))


def _clocks(facts: dict[str, Any]) -> dict[str, str]:
    mode, gpu = facts["power_mode"], facts["clocks"].get("gpu")
    said = "power mode {}".format(mode or "unknown")
    if gpu is None:
        return _entry("clocks", OK, said)
    if gpu["min"] != gpu["max"]:
        return _entry(
            "clocks",
            WARNING,
            "{}, the GPU's clock moves between {} and {} MHz".format(
                said, gpu["min"] // 1000, gpu["max"] // 1000
            ),
            "lock it before measuring: sudo jetson_clocks",
        )
    return _entry("clocks", OK, "{}, GPU locked at {} MHz".format(said, gpu["cur"] // 1000))
