"""Running ONNX files as they are: ONNX Runtime with its optimisations off."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgec.core.graph import Arrays


class OnnxFile:
    """An ONNX file that runs as it was written; opened at the first call.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = Path(path)
        self._threads = threads
        self._session = None
        self._outputs: list[str] = []

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run it.

        Raises:
            Exception: whatever ONNX Runtime raises on a file or a feed it cannot take.
        """
        if self._session is None:
            self._session = open_session(self.path, threads=self._threads)
            self._outputs = [output.name for output in self._session.get_outputs()]
        results = self._session.run(self._outputs, dict(feeds))
        return dict(zip(self._outputs, results, strict=True))


class ReferenceFile:
    """An ONNX file run by onnx's own evaluator: slow, and complete where ONNX Runtime lacks an op.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._evaluator = None

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run it.

        Raises:
            Exception: whatever the evaluator raises on a file or a feed it cannot take.
        """
        from onnx.reference import ReferenceEvaluator

        if self._evaluator is None:
            self._evaluator = ReferenceEvaluator(str(self.path))
        results = self._evaluator.run(None, dict(feeds))
        return dict(zip(self._evaluator.output_names, results, strict=True))


def open_session(model, *, folder: Path | None = None, threads: int | None = None):  # type: ignore[no-untyped-def]
    """An ONNX Runtime session on the CPU without graph optimisation.

    Args:
        model: a path, or the bytes of a model.
        folder: where the external data of a model given as bytes lies.
        threads: worker threads; ONNX Runtime's default where not given.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
