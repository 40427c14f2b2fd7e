"""Running cells on a Ray cluster: one task a cell, a custom resource for the device that it needs alone.

The nodes share the sweep's folder and have edgec installed. A task whose node dies is run again on another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgec.core.errors import JobError, MissingExtraError, RequestError
from edgec.sweep.cells import Runner
from edgec.sweep.plan import Cell
from edgec.sweep.rows import Row

_AGAIN = -1
"""Ray's word for as often as it takes: a compile that dies is a row, so only a node or its worker can."""


def run(address: str, runner: Runner, cells: list[Cell], told: Callable[[Row], None]) -> None:
    """Run cells on a cluster; an interruption stops those that run and leaves what is done.

    Args:
        address: as `ray.init` takes it.
        runner: runs one; its folder is the same on every node.
        cells: what to run.
        told: called with each row.

    Raises:
        MissingExtraError: Ray is not installed.
        RequestError: there is no cluster, or no node of it has a device that a cell needs.
    """
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise RequestError(f"there is no Ray cluster: {said}", where=address) from None
    try:
        _check_devices(ray, cells)
        _run(ray, runner, cells, told)
    finally:
        ray.shutdown()


def _run(ray: Any, runner: Runner, cells: list[Cell], told: Callable[[Row], None]) -> None:
    task = ray.remote(num_cpus=1, max_retries=_AGAIN)(_one)
    running = {
        task.options(resources={cell.device: 1} if cell.device else {}).remote(runner, cell): cell
        for cell in cells
    }
    try:
        while running:
            for done in ray.wait(list(running), timeout=1.0)[0]:
                cell = running.pop(done)
                try:
                    row = ray.get(done)
                except ray.exceptions.RayError as error:
                    said = str(error).strip().rpartition("\n")[2]
                    raise JobError(f"Ray could not run it: {said}", where=str(cell)) from None
                if row is not None:
                    told(row)
    finally:
        for left in running:
            ray.cancel(left)


def _one(runner: Runner, cell: Cell) -> Row | None:
    """A cell, unless it was kept by a task whose node died before it could say so."""
    return runner.done(cell) or runner.run(cell)


def _check_devices(ray: Any, cells: list[Cell]) -> None:
    there = set(ray.cluster_resources())
    if missing := sorted({cell.device for cell in cells if cell.device} - there):
        raise RequestError(
            f"no node of the cluster has the device {missing[0]}",
            fix=f"start one with: ray start --resources '{{\"{missing[0]}\": 1}}'",
        )


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    return ray
