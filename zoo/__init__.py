"""The catalogue of models that edgec promises to compile, four of them with trained weights and data."""

from __future__ import annotations

from edgec.zoo.catalogue import Entry, entry, names
from edgec.zoo.evaluation import Evaluation, calibration, evaluation
from edgec.zoo.loading import load, module

__all__ = ["Entry", "Evaluation", "calibration", "entry", "evaluation", "load", "module", "names"]
