"""A lowered graph opened for checking: what an engine built from it computes, on this machine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.core.errors import IntegrityError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays
from edgec.passes.precision.judge import spelled_out
from edgec.runtime.engine import EngineDescription, LayerTime, closed
from edgec.targets.jetson.bodies import with_bodies

KINDS = ("tensorrt", "tensorrt-rtx")


class CheckedGraph:
    """Runs the graph that TensorRT builds, in ONNX Runtime, each fp16 result rounded to fp16.

    It says what the engine computes up to the order of sums. It says nothing of speed: `profile` has no times
    to give. Threads run one after another.

    Attributes:
        description: the folder's `engine.json`.

    Raises:
        IntegrityError: the model cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.description = EngineDescription.read(folder)
        self._lock = threading.Lock()
        path = folder / self.description.model
        try:
            model = ir.load(path)
            self._evaluator: Evaluator | None = Evaluator(runnable(model))
        except Exception as error:
            # Protobuf, onnx-ir and ONNX Runtime share no class for a file they cannot read.
            raise IntegrityError(
                f"cannot be run by ONNX Runtime ({error})", where=str(path), fix="compile the model again"
            ) from error

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once, in the model's own names, types and shapes."""
        with self._lock:
            if self._evaluator is None:
                raise closed()
            return self._evaluator.run(feeds)

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:  # noqa: ARG002
        """No times: only the device can measure them."""
        return []

    def close(self) -> None:
        """Free the session."""
        with self._lock:
            if self._evaluator is not None:
                self._evaluator.close()
            self._evaluator = None


def runnable(model: ir.Model) -> ir.Model:
    """A lowered model as ONNX Runtime can judge it: plugins by their bodies, fp16 as fp32 with roundings."""
    return spelled_out(with_bodies(model))
