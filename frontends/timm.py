"""`timm:NAME`: an image model of timm."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.core.graph import Graph
from edgec.core.progress import Progress


def from_timm(
    name: str,
    *,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    import torch

    from edgec.frontends.torch import from_module
    from edgec.frontends.torchvision_guard import require

    timm = require("timm", "timm")
    torch.manual_seed(seed)
    model = timm.create_model(name).eval()
    return from_module(
        model,
        {"x": torch.zeros(1, *model.pretrained_cfg["input_size"])},
        spec=f"timm:{name}",
        kind="timm",
        name=name,
        semantics={"x": "image"},
        inputs=inputs,
        batch=batch,
        seed=seed,
        samples=samples,
        progress=progress,
    )
