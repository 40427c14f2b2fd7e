"""Which device a target's name means: a profile, and one of the JetPack releases it may have."""

from __future__ import annotations

import dataclasses
import difflib
import re

from edgec.core.errors import RequestError
from edgec.devices.profiles import DeviceProfile, Software, profiles
from edgec.targets.jetson.versions import Dialect, dialect

DEFAULT = "orin-nano-8gb"
"""What plain `jetson` stands for: the module of the developer kit that most people have."""

DEFAULT_JETPACK = 6
"""The major release taken where a device may have several: what the Orin modules run in the field."""

_PREFIX = "jetson-"


@dataclasses.dataclass(frozen=True)
class Device:
    """What an engine is built for.

    Attributes:
        name: the profile's name, `jetson-orin-nano-8gb`.
        title: the vendor's name.
        jetpack: `6.2`; empty where the device is no Jetson.
        tensorrt: major.minor.
        cuda: major.minor.
        compute_capability: times ten, 87.
        memory_bytes: memory that the processor and the GPU share.
        dialect: what its TensorRT takes.
        assumed: what the name left open and edgec chose, one sentence each.
    """

    name: str
    title: str
    jetpack: str
    tensorrt: str
    cuda: str
    compute_capability: int
    memory_bytes: int
    dialect: Dialect
    assumed: tuple[str, ...] = ()

    @property
    def capability(self) -> str:
        """`8.7`."""
        return f"{self.compute_capability // 10}.{self.compute_capability % 10}"


def device(name: str | None) -> Device:
    """The device that `jetson:NAME` names.

    Args:
        name: a profile without `jetson-`, with a JetPack release behind a colon where it may have
            several: `orin-nano-8gb`, `orin-nano-8gb:jetpack5`, `thor-t5000:jetpack7.0`; None for the default.

    Raises:
        RequestError: there is no such profile (says the nearest), or it never had that release.
    """
    known = {found.name.removeprefix(_PREFIX): found for found in profiles() if found.kind == "jetson"}
    wanted, _, release = (name or DEFAULT).lower().partition(":")
    wanted = wanted.removeprefix(_PREFIX)
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
        raise RequestError(
            f"no Jetson profile is named {wanted!r}",
            fix=f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(known)}",
        )
    profile = known[wanted]
    software, assumed = _software(profile, release)
    if name is None:
        assumed = (f"jetson without a device means {profile.name}", *assumed)
    return Device(
        name=profile.name,
        title=profile.title,
        jetpack=software.release.removeprefix("JetPack "),
        tensorrt=".".join(software.tensorrt.split(".")[:2]),
        cuda=software.cuda,
        compute_capability=round(profile.compute["sm"].value),
        memory_bytes=round(profile.memory["capacity_gb"].value * 1e9),
        dialect=dialect(software.tensorrt),
        assumed=assumed,
    )


def names() -> tuple[str, ...]:
    """Every `jetson:…` there is, without the JetPack releases."""
    found = [f"jetson:{one.name.removeprefix(_PREFIX)}" for one in profiles() if one.kind == "jetson"]
    return ("jetson", *found)


def _software(profile: DeviceProfile, release: str) -> tuple[Software, tuple[str, ...]]:
    with_engine = [one for one in profile.software if one.tensorrt]
    if release:
        match = re.fullmatch(r"(?:jetpack|jp)?-?(\d+(?:\.\d+)*)", release)
        found = [one for one in with_engine if match and _is_release(one.release, match[1])]
        if not found:
            listed = ", ".join(one.release.replace("JetPack ", "jetpack") for one in with_engine)
            raise RequestError(
                f"{profile.name} has no release {release!r} in its profile", fix=f"choose from {listed}"
            )
        return found[-1], ()
    if len(with_engine) == 1:
        return with_engine[0], ()
    chosen = next((one for one in with_engine if _is_release(one.release, str(DEFAULT_JETPACK))), None)
    chosen = chosen or with_engine[0]
    others = ", ".join(one.release for one in with_engine if one is not chosen)
    return chosen, (f"{profile.name} is taken to run {chosen.release}; it may also have {others}",)


def _is_release(release: str, number: str) -> bool:
    have = release.removeprefix("JetPack ").split(".")
    return have[: len(number.split("."))] == number.split(".")
