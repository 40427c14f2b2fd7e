"""A package opened for checking: the saved program, interpreted on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgec.core.graph import Arrays
from edgec.runtime.engine import EngineDescription, LayerTime
from edgec.targets.coreml.checker.interpreter import Interpreter
from edgec.targets.coreml.checker.package import read
from edgec.targets.coreml.features import read_features


class CheckedPackage:
    """Runs a package's program op by op in numpy, at the precisions it declares.

    It says what the program computes, on any machine. It says nothing of speed: `profile` has no
    times to give, since an Apple device runs the package with other kernels.

    Attributes:
        description: the folder's `engine.json`.
        interpreter: the program.
    """

    def __init__(self, folder: Path) -> None:
        self.description = EngineDescription.read(folder)
        self._inputs, self._outputs = read_features(folder)
        self.interpreter = Interpreter(read(folder / self.description.model))

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once, in the graph's own names, types and shapes."""
        given = {
            feature.name: np.asarray(feeds[feature.source]).reshape(feature.mil_shape or (1,))
            if not any(isinstance(size, str) for size in feature.mil_shape)
            else np.asarray(feeds[feature.source])
            for feature in self._inputs
        }
        results = self.interpreter.run(given)
        found = {}
        for name, feature in zip(self.interpreter.outputs, self._outputs, strict=True):
            array = np.asarray(results[name])
            found[feature.source] = (array if feature.shape else array.reshape(())).astype(feature.dtype)
        return found

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:  # noqa: ARG002
        """No times: only an Apple device can measure them."""
        return []

    def close(self) -> None:
        """Free the weights."""
        self.interpreter = None  # type: ignore[assignment]
