"""How many worker threads an engine gets: the physical cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from edgec.core.errors import RequestError

VARIABLE = "EDGEC_THREADS"

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def worker_threads(described: int = 0) -> int:
    """Worker threads for an engine.

    `EDGEC_THREADS` in the environment comes first, then what the bundle says, then the physical cores:
    a second thread on one core shares its vector units and makes dense products slower.

    Args:
        described: what the engine's description says; 0 leaves it open.

    Raises:
        RequestError: `EDGEC_THREADS` is not a positive number.
    """
    override = os.environ.get(VARIABLE)
    if override is None or not override.strip():
        return described or physical_cores()
    if not override.strip().isdigit() or int(override) == 0:
        raise RequestError(
            f"{VARIABLE}={override!r} is not a number of threads", fix=f"set {VARIABLE} to 1 or more"
        )
    return int(override)


def physical_cores() -> int:
    """Physical cores that this process may run on, no more than its control group's CPU quota."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_core_of(cpu) for cpu in usable}
    return max(1, min(len(cores), _quota()))


def _core_of(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """CPUs that the control group allows at once (cgroup v2 `cpu.max`), rounded up."""
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16
