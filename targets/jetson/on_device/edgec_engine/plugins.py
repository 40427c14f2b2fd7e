"""The plugins that the engine loads: found built, or compiled here from the bundle's sources."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable

from edgec_engine.errors import DeviceError
from edgec_engine.plan import Plan, sha256

_loaded: list[Any] = []


def libraries(plan: Plan) -> list[str]:
    """File names of the plan's plugin libraries, each once."""
    return sorted({entry["library"] for entry in plan.fields["plugins"]})


def unbuilt(plan: Plan) -> list[str]:
    """Libraries that came only as sources and are not compiled yet."""
    return [name for name in libraries(plan) if _find(plan, name) is None]


def sources_of(plan: Plan) -> Path | None:
    """The folder of the plugins' sources, None where the bundle has none."""
    folder = plan.bundle / "plugins"
    return folder if (folder / "CMakeLists.txt").is_file() else None


def prepare(plan: Plan, say: Callable[[str], None]) -> dict[str, str]:
    """Compile what is not compiled, and load every library.

    Returns:
        library → sha256 of what was loaded.

    Raises:
        DeviceError: a library cannot be compiled or loaded.
    """
    if unbuilt(plan):
        say("compiling the plugins")
        _compile(plan)
    digests = {}
    for name in libraries(plan):
        path = _find(plan, name)
        if path is None:
            raise DeviceError(
                f"{name} was not made by the bundle's CMakeLists.txt", "compile the model again"
            )
        digests[name] = sha256(path)
        _load(path)
    return digests


def load_recorded(plan: Plan, recorded: dict[str, str]) -> None:
    """Load the libraries that an engine was built with, each only if it is still what it was.

    Args:
        plan: the plan.
        recorded: library → sha256, from the engine's sidecar.

    Raises:
        DeviceError: a library is missing or changed, or does not load.
    """
    for name in libraries(plan):
        path = _find(plan, name)
        if path is None or sha256(path) != recorded.get(name):
            raise DeviceError(
                "the plugin {} is {} since the engine was built, so it is not loaded".format(
                    name, "missing" if path is None else "changed"
                ),
                "build it again: " + plan.command("build --again"),
            )
        _load(path)


def check_registered(trt: Any, log: Any, plan: Plan) -> None:
    """See that TensorRT now knows each op of the plan.

    Raises:
        DeviceError: names the ops that no loaded library registered.
    """
    if not plan.fields["plugins"]:
        return
    trt.init_libnvinfer_plugins(log, "")
    registry = trt.get_plugin_registry()
    # 8.x lists creators of the second interface only; `all_creators` has both from 10 on.
    creators = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    known = {creator.name for creator in creators}
    missing = sorted({entry["op"] for entry in plan.fields["plugins"]} - known)
    if missing:
        raise DeviceError(
            "no loaded library registers the plugin {}".format(", ".join(missing)),
            "compile the model again, and deploy it again",
        )


def _find(plan: Plan, name: str) -> Path | None:
    for folder in (plan.state / "plugins", plan.bundle / "plugins"):
        if (folder / name).is_file():
            return folder / name
    return None


def _load(path: Path) -> None:
    try:
        # The registrars of a library run when it is loaded; global, for TensorRT resolves from it too.
        _loaded.append(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))
    except OSError as error:
        raise DeviceError(
            f"{path}: does not load ({error})",
            f"remove the state folder {path.parent.parent} and build again",
        ) from error


def _compile(plan: Plan) -> None:
    sources = sources_of(plan)
    if sources is None:
        raise DeviceError(
            "the bundle has neither {} nor its sources".format(", ".join(unbuilt(plan))),
            "compile the model again",
        )
    plan.state.mkdir(parents=True, exist_ok=True)
    scratch = plan.state / "plugins.build"
    shutil.rmtree(str(scratch), ignore_errors=True)
    capability = plan.fields["compute_capability"].replace(".", "")
    configure = ["cmake", "-S", str(sources), "-B", str(scratch), "-DCMAKE_BUILD_TYPE=Release"]
    steps = [
        [*configure, f"-DCMAKE_CUDA_ARCHITECTURES={capability}"],
        ["cmake", "--build", str(scratch), "--parallel", str(os.cpu_count() or 1)],
    ]
    try:
        for step in steps:
            done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            if done.returncode != 0:
                lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
                raise DeviceError(
                    "the plugins do not compile: {}".format("; ".join(lines[-3:])),
                    "see that cmake, g++ and nvcc of this JetPack are installed",
                )
        target = plan.state / "plugins"
        target.mkdir(parents=True, exist_ok=True)
        for name in libraries(plan):
            for made in scratch.rglob(name):
                shutil.copy2(str(made), str(target / name))
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)
