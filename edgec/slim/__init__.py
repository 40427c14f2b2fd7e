"""Slimming for torch users: a plan applied to a module, and a loss to train what is left."""

from __future__ import annotations

from edgec.slim.distillation import DistillationLoss, distil
from edgec.slim.module import slimmed

__all__ = ["DistillationLoss", "distil", "slimmed"]
