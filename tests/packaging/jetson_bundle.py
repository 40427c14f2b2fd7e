"""The hand-made Jetson bundle of the Jetson target's tests, importable from here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "targets" / "jetson"))

from device_bundles import SIMULATION, cuda_folder, write_bundle

__all__ = ["SIMULATION", "cuda_folder", "write_bundle"]
