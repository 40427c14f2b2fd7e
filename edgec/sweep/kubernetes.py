"""The jobs of a sweep for a Kubernetes cluster: one indexed job a device, one cell an index.

Every pod runs one cell with `edgec sweep PLAN --cell N` into a volume that all share; whoever calls the same
sweep with that folder afterwards finds every cell done and writes the table and the page.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgec.core.errors import RequestError
from edgec.sweep.plan import Plan

PLACE = "/sweep"
"""Where the shared volume is mounted: the plan, the files that it names and the results."""


def jobs(plan: Plan, file: Path, image: str, claim: str, parallel: int) -> str:
    """The jobs as one YAML file of JSON documents, which YAML takes.

    Args:
        plan: the plan.
        file: its file, by its path in the shared volume.
        image: an image with edgec.
        claim: the claim of a volume that many pods may write.
        parallel: cells at once where no device is needed; a device is one cell's at a time.

    Raises:
        RequestError: a cell names a file outside the volume.
    """
    outside = [path for cell in plan.cells for path in _paths(cell.model, cell.files)]
    if outside := sorted({path for path in outside if not Path(path).is_relative_to(file.parent)}):
        raise RequestError(
            f"lies outside the plan's folder, which is what the pods share: {outside[0]}", where=str(file)
        )
    devices: dict[str, list[int]] = {}
    for index, cell in enumerate(plan.cells):
        devices.setdefault(cell.device, []).append(index)
    documents = [
        _job(plan.name, device, cells, file.name, image, claim, 1 if device else parallel)
        for device, cells in devices.items()
    ]
    return "---\n".join(json.dumps(document, indent=1) + "\n" for document in documents)


def _paths(model: str, files: tuple[str, ...]) -> list[str]:
    kind, colon, rest = model.partition(":")
    if colon and kind in ("zoo", "timm"):
        return list(files)
    return [rest if kind == "hf" else kind, *files]


def _job(
    name: str, device: str, cells: list[int], file: str, image: str, claim: str, parallel: int
) -> dict[str, Any]:
    numbers = " ".join(map(str, cells))
    script = f'set -- {numbers}; shift "$JOB_COMPLETION_INDEX"; '
    script += f'exec edgec sweep {PLACE}/{file} -o {PLACE}/results --cell "$1"'
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "edgec",
                "image": image,
                "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "sweep", "mountPath": PLACE}],
            }
        ],
        "volumes": [{"name": "sweep", "persistentVolumeClaim": {"claimName": claim}}],
    }
    if device:
        pod["nodeSelector"] = {f"edgec.device/{device}": "true"}
    title = re.sub(r"[^a-z0-9-]+", "-", f"edgec-{name}-{device}".lower()).strip("-")[:52]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": title, "labels": {"app": "edgec-sweep"}},
        "spec": {
            "completionMode": "Indexed",
            "completions": len(cells),
            "parallelism": min(parallel, len(cells)),
            "backoffLimit": 3 * len(cells),
            "template": {"metadata": {"labels": {"app": "edgec-sweep"}}, "spec": pod},
        },
    }
