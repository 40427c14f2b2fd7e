"""The engine on disk and its sidecar: what it was built from, by what, for which GPU.

An engine holds only for the GPU and the TensorRT that built it, and TensorRT's own refusal says little; so
the sidecar is compared first, and TensorRT is never given bytes that are not what was written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgec_engine.errors import DeviceError
from edgec_engine.plan import Plan, sha256, write_atomically


def sidecar_path(plan: Plan) -> Path:
    """The sidecar's path."""
    return plan.engine.with_name(plan.engine.name + ".json")


def write(plan: Plan, engine: bytes, sidecar: dict[str, Any]) -> None:
    """Write engine and sidecar, each whole or not at all; the sidecar last, and an old one first away."""
    if sidecar_path(plan).exists():
        sidecar_path(plan).unlink()
    write_atomically(plan.engine, engine)
    text = json.dumps(sidecar, indent=1, sort_keys=True) + "\n"
    write_atomically(sidecar_path(plan), text.encode())


def adopt(trial: Plan, plan: Plan, sidecar: dict[str, Any]) -> None:
    """Make a trial's engine the plan's own, with this sidecar."""
    if sidecar_path(plan).exists():
        sidecar_path(plan).unlink()
    trial.engine.replace(plan.engine)
    sidecar_path(trial).unlink()
    text = json.dumps(sidecar, indent=1, sort_keys=True) + "\n"
    write_atomically(sidecar_path(plan), text.encode())


def read_sidecar(plan: Plan) -> dict[str, Any]:
    """The sidecar of the built engine.

    Raises:
        DeviceError: nothing is built yet.
    """
    try:
        return json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError("the engine is not built yet", "build it: " + plan.command("build")) from error
    except ValueError as error:
        raise _refused(plan, f"the engine's record {sidecar_path(plan)} is damaged") from error


def check(plan: Plan, device: dict[str, Any]) -> dict[str, Any]:
    """See that the engine is the one that was built, here, from this bundle.

    Args:
        plan: the plan.
        device: `gpu`, `compute_capability`, `tensorrt` and `tensorrt_module` of this machine.

    Returns:
        the sidecar.

    Raises:
        DeviceError: the engine is of another GPU, TensorRT or bundle, or a byte of it or of a plugin changed.
    """
    sidecar = read_sidecar(plan)
    if device.get("gpu") is None and sidecar.get("gpu") is not None:
        raise DeviceError(
            "the engine was built on {}, CUDA finds no GPU here".format(sidecar["gpu"]),
            "run this on the device; in a container, start it with --runtime nvidia",
        )
    for key, noun in (
        ("tensorrt_module", "with"),
        ("tensorrt", "with TensorRT"),
        ("gpu", "on"),
        ("compute_capability", "for compute capability"),
    ):
        if sidecar.get(key) != device.get(key):
            raise _refused(
                plan,
                f"the engine was built {noun} {sidecar.get(key)}, this machine has {device.get(key)}",
            )
    if sidecar.get("plan_sha256") != sha256(plan.bundle / "engine" / "plan.json"):
        raise _refused(plan, "the engine was built for another plan")
    if sidecar.get("model_sha256") != plan.fields["model_sha256"]:
        raise _refused(plan, "the engine was built from another model")
    if not plan.engine.is_file() or sha256(plan.engine) != sidecar.get("engine_sha256"):
        raise _refused(plan, f"{plan.engine} changed after it was built")
    return sidecar


def _refused(plan: Plan, what: str) -> DeviceError:
    return DeviceError(what + ", so it is not loaded", "build it again: " + plan.command("build --again"))
