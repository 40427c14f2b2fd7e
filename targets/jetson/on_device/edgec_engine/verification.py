"""The engine against the samples: what the source itself computed on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from edgec_engine.errors import DeviceError
from edgec_engine.plan import Plan
from edgec_engine.runner import Runner


def verify(plan: Plan, runner: Runner) -> dict[str, Any]:
    """Run every sample and compare with the source's outputs at the plan's tolerance.

    The measures are those of edgec's own gates: the largest difference over max(1, the output's standard
    deviation), and the smallest cosine.

    Returns:
        `samples`, `max_abs`, `scaled`, `cosine`, `output` (the worst one), `gate`, `passed`.

    Raises:
        DeviceError: the bundle has no samples, or an output is missing or has another shape.
    """
    count = plan.sample_count()
    if count == 0:
        raise DeviceError("the bundle has no samples", "compile the model again")
    worst: dict[str, Any] = {"max_abs": 0.0, "scaled": 0.0, "cosine": 1.0, "output": ""}
    for index in range(count):
        feeds, references = plan.sample(index)
        outputs = runner.run(feeds)
        for name, reference in references.items():
            if name not in outputs or outputs[name].shape != reference.shape:
                found = "missing" if name not in outputs else f"of shape {list(outputs[name].shape)}"
                raise DeviceError(
                    f"output {name!r} is {found}, the source's has {list(reference.shape)}",
                    "compile the model again",
                )
            max_abs, scaled, cosine = _difference(reference, outputs[name])
            if not worst["output"] or scaled > worst["scaled"]:
                worst["output"] = name
            worst["max_abs"] = max(worst["max_abs"], max_abs)
            worst["scaled"] = max(worst["scaled"], scaled)
            worst["cosine"] = min(worst["cosine"], cosine)
    gate = {key: plan.fields["tolerance"][key] for key in ("scaled", "cosine")}
    passed = worst["scaled"] <= gate["scaled"] and worst["cosine"] >= gate["cosine"]
    return dict(worst, samples=count, gate=gate, passed=bool(passed))


def require(result: dict[str, Any]) -> None:
    """Refuse an engine that is too far off.

    Raises:
        DeviceError: says how far, and how far is allowed.
    """
    if not result["passed"]:
        gate = result["gate"]
        raise DeviceError(
            f"output {result['output']!r} is off by {result['scaled']:.1e} of its spread "
            f"(allowed {gate['scaled']:.0e}) with cosine {result['cosine']:.7f} (at least {gate['cosine']})",
            "compile again with a higher --precision",
        )


def _difference(reference: np.ndarray, actual: np.ndarray) -> tuple[float, float, float]:
    expected = np.asarray(reference, dtype=np.float64).ravel()
    found = np.asarray(actual, dtype=np.float64).ravel()
    finite = np.isfinite(expected)
    same = np.array_equal(finite, np.isfinite(found)) and _equal(expected[~finite], found[~finite])
    if not same:
        return float("inf"), float("inf"), -1.0
    expected, found = expected[finite], found[finite]
    if expected.size == 0:
        return 0.0, 0.0, 1.0
    max_abs = float(np.max(np.abs(expected - found)))
    norms = float(np.linalg.norm(expected) * np.linalg.norm(found))
    cosine: float | None = None
    if norms == 0.0:
        cosine = 1.0 if max_abs == 0.0 else 0.0
    else:
        cosine = float(np.clip(expected @ found / norms, -1.0, 1.0))
    return max_abs, max_abs / max(1.0, float(np.std(expected))), cosine


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.all((one == other) | (np.isnan(one) & np.isnan(other))))
