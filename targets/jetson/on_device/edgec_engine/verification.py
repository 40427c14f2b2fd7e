"""The engine against the samples: what the source itself computed on them, by edgec's own rule."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgec_engine.errors import DeviceError
from edgec_engine.numerics import Gate
from edgec_engine.plan import Plan
from edgec_engine.runner import Runner


def verify(plan: Plan, runner: Runner) -> dict[str, Any]:
    """Run every sample and judge the outputs as the compile did: `numerics.py` and `ties.py` are edgec's own.

    Returns:
        `samples`, `gate`, `passed`, `broken` (what is beyond its bound, in words), and the fields of
        `numerics.Difference`.

    Raises:
        DeviceError: the bundle has no samples, or an output is missing or has another shape.
    """
    count = plan.sample_count()
    if count == 0:
        raise DeviceError("the bundle has no samples", "compile the model again")
    feeds, expected = plan.samples(count)
    gate = Gate(**plan.fields["gate"])
    try:
        difference = expected.difference([runner.run(feed) for feed in feeds], gate)
    except ValueError as error:
        raise DeviceError(str(error), "compile the model again") from error
    broken = gate.broken(difference)
    return dict(
        dataclasses.asdict(difference),
        samples=count,
        gate=dataclasses.asdict(gate),
        passed=not broken,
        broken=broken,
    )


def require(result: dict[str, Any]) -> None:
    """Refuse an engine that is too far off.

    Raises:
        DeviceError: says how far, and how far is allowed.
    """
    if not result["passed"]:
        raise DeviceError(
            "output {!r} is {}".format(result["output"], result["broken"]),
            "compile again with a higher --precision",
        )
