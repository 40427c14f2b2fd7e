"""A package opened for checking: the saved program, interpreted on this machine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import IntegrityError
from edgec.core.graph import Arrays
from edgec.runtime.engine import EngineDescription, LayerTime, closed
from edgec.targets.coreml.checker.interpreter import Interpreter
from edgec.targets.coreml.checker.package import read
from edgec.targets.coreml.features import Features
from edgec.targets.coreml.lowering.classes import LABEL, Classifier
from edgec.targets.coreml.lowering.features import Feature


class CheckedPackage:
    """Runs a package's program op by op in numpy, at the precisions it declares, one thread after another.

    It says what the program computes, on any machine. It says nothing of speed: `profile` has no
    times to give, since an Apple device runs the package with other kernels.

    Attributes:
        description: the folder's `engine.json`.
        interpreter: the program.
    """

    def __init__(self, folder: Path) -> None:
        self.description = EngineDescription.read(folder)
        self.features = Features.read(folder)
        self.interpreter = Interpreter(read(folder / self.description.model))
        self._lock = threading.Lock()
        self._states = threading.local()
        self._closed = False

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once, in the graph's own names, types and shapes.

        States are kept from call to call of a thread; a call that is fed empty caches begins anew. A picture
        is rounded to whole pixels, as a phone's are. Where the package names classes, label and
        probabilities are held against the scores that they stand for.

        Raises:
            IntegrityError: the program is broken, or its label is not that of its best score.
        """
        pasts = [feeds[state.source] for state in self.features.states if state.source in feeds]
        given = {feature.name: _entering(feature, feeds[feature.source]) for feature in self.features.inputs}
        with self._lock:
            if self._closed:
                raise closed()
            known = self.interpreter.states = self._states.__dict__
            if not known or (pasts and not any(np.any(past) for past in pasts)):
                self.interpreter.reset()
            results = self.interpreter.run(given)
        found = {}
        for feature in self.features.outputs:
            array = np.asarray(results[feature.name])
            found[feature.source] = (array if feature.shape else array.reshape(())).astype(feature.dtype)
        if self.features.classifier is not None:
            self._check_classes(self.features.classifier, found, results)
        return found

    def _check_classes(
        self, classifier: Classifier, found: Mapping[str, np.ndarray], results: Mapping[str, Any]
    ) -> None:
        scores = np.asarray(found[classifier.output], np.float64).reshape(-1)
        by_label = results[f"{LABEL}_probs"]
        chances = np.array([by_label[label] for label in classifier.labels])
        best = classifier.labels.index(results[LABEL])
        # Two scores that round to one fp16 value share a probability: the label may be either's.
        agrees = np.isclose(chances[best], chances[int(scores.argmax())], rtol=1e-2)
        if not agrees or abs(chances.sum() - 1) > 1e-2:
            raise IntegrityError(
                f"its label {results[LABEL]!r} is not that of the best score",
                where=self.description.model,
                fix="compile the model again",
            )

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:  # noqa: ARG002
        """No times: only an Apple device can measure them."""
        return []

    def close(self) -> None:
        """Free the weights."""
        with self._lock:
            self._closed = True
            self.interpreter = None  # type: ignore[assignment]


def _entering(feature: Feature, array: np.ndarray) -> np.ndarray:
    if feature.image is not None:
        return feature.image.pixels(array)
    return np.asarray(array).reshape(1) if not feature.shape else np.asarray(array)
