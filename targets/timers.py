"""What times a target's engines: this machine, a connected device, or a device's profile."""

from __future__ import annotations

import dataclasses

from edgec.core.errors import RequestError
from edgec.core.progress import Progress, Silent
from edgec.devices.connections.base import Connection
from edgec.devices.profiles import DeviceProfile
from edgec.devices.profiles import profile as profile_named
from edgec.targets.base import Candidate, Target
from edgec.targets.device_timer import DeviceTimer
from edgec.targets.jetson.target import Jetson
from edgec.targets.predicted_timer import PredictedTimer
from edgec.targets.segment_timer import HostTimer, Timer
from edgec.targets.x86.forms import EXPORTED


def timer_for(
    target: Target,
    candidate: Candidate,
    *,
    connection: Connection | None = None,
    profile: DeviceProfile | None = None,
    progress: Progress | None = None,
) -> Timer:
    """What times a target's engines: this machine, a connected device, or a device's profile.

    Args:
        target: the target.
        candidate: one of its engines.
        connection: the device, where one is connected.
        profile: the device to predict for, where none is; a Jetson target knows its own.
        progress: told what a connected device does.

    Raises:
        RequestError: the candidate is no engine of a cut graph, the connection leads to a device that the
            target is not for, or there is nothing to predict from.
    """
    if candidate.form == EXPORTED:
        raise RequestError(
            f"{candidate.name} is built from the exporter's own file, which no plan cuts",
            fix="take another engine",
        )
    candidate = dataclasses.replace(candidate, kept=())
    if target.runs_here:
        if connection is not None or profile is not None:
            raise RequestError(
                f"engines of {target.name} are timed on this machine", fix="leave --device out"
            )
        return HostTimer(target, candidate)
    if isinstance(target, Jetson):
        if connection is not None:
            return DeviceTimer(target, candidate, connection, progress or Silent())
        profile = profile or profile_named(target.device.name)
    elif connection is not None:
        raise RequestError(
            f"engines of {target.name} are not timed over a connection",
            fix="give a device's profile with --device",
        )
    if profile is None:
        raise RequestError(
            f"the device of {target.name} is not known, so nothing can be predicted",
            fix="name its profile with --device; edgec devices lists them",
        )
    return PredictedTimer(profile, candidate)
