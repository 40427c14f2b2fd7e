"""Trained weights as committed: float16 in an .npz, float32 once loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def save(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a module's state in float16. Same state, same bytes."""
    halves = {name: tensor.detach().cpu().numpy().astype(np.float16) for name, tensor in state.items()}
    np.savez(path, **halves)  # type: ignore[arg-type]


def load(path: Path) -> dict[str, torch.Tensor]:
    """Read what `save` wrote, as float32 tensors."""
    import torch

    with np.load(path, allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored.files}
