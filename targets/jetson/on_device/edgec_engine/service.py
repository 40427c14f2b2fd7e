"""The built engine as a model that the server has."""

from __future__ import annotations

import json
from typing import Any

from edgec_engine.plan import Plan
from edgec_engine.runner import Runner
from edgec_engine.serving.model import Model, Tensor, address_name


def model_of(plan: Plan, runner: Runner) -> Model:
    """The engine under its model's name; the runner itself checks what it is fed."""
    told = json.loads((plan.bundle / "io.json").read_text(encoding="utf-8"))
    manifest = json.loads((plan.bundle / "manifest.json").read_text(encoding="utf-8"))
    return Model(
        address_name(manifest["model"]["name"]),
        str(manifest["sha256"])[:12],
        "edgec_tensorrt",
        tuple(map(_tensor, told["inputs"])),
        tuple(map(_tensor, told["outputs"])),
        fit=lambda feeds: feeds,
        run=runner.run,
    )


def _tensor(fields: dict[str, Any]) -> Tensor:
    sizes = tuple(size if isinstance(size, int) else -1 for size in fields["shape"])
    return Tensor(fields["name"], sizes, fields["dtype"])
