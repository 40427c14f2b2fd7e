"""The engine `ort`: an ONNX model run by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec.core.errors import IntegrityError, MissingExtraError
from edgec.core.graph import Arrays
from edgec.runtime.engine import EngineDescription, LayerTime, closed
from edgec.runtime.layer_times import summarize
from edgec.runtime.threads import worker_threads


class OrtEngine:
    """A model opened by ONNX Runtime.

    Args:
        folder: the engine's folder, with its `engine.json`.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        IntegrityError: the description or the model cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.description = EngineDescription.read(folder)
        self._model = folder / self.description.model
        self._threads = worker_threads(self.description.threads)
        self._session: Any = _open(self._model, session_options(self._threads, self.description.settings))
        self._outputs = [output.name for output in self._session.get_outputs()]
        # The inner session: the outer `run` walks all feeds three times before it calls this.
        self._inner: Any = self._session._sess

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once; the outputs are fresh arrays."""
        inner = self._inner
        if inner is None:
            raise closed()
        return dict(zip(self._outputs, inner.run(self._outputs, feeds, None), strict=True))

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:
        """Run with ONNX Runtime's own timers, in a session of its own; in execution order."""
        options = session_options(self._threads, self.description.settings)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory(prefix="edgec-profile-") as folder:
            options.profile_file_prefix = str(Path(folder) / "ort")
            session = _open(self._model, options)
            warmup = 2
            for _ in range(warmup + runs):
                session.run(self._outputs, dict(feeds))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        calls: dict[str, list[float]] = {}
        ops: dict[str, str] = {}
        for event in events:
            name = str(event.get("name", ""))
            if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
                continue
            layer = name.removesuffix("_kernel_time")
            calls.setdefault(layer, []).append(float(event["dur"]))
            ops[layer] = str(event["args"].get("op_name", ""))
        return summarize(calls, ops, self.description.layers, warmup)

    def close(self) -> None:
        """Free the session and its threads, once the runs under way have ended."""
        self._session = self._inner = None


def session_options(threads: int, settings: Mapping[str, str] = MappingProxyType({})) -> Any:
    """ONNX Runtime's options for one stream of runs with the lowest latency.

    The threads of the pool keep spinning for a moment after a run (ONNX Runtime's default): waking
    them costs more than the small layers of these models take.
    """
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    return options


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "ort") from error
    return onnxruntime


def _open(model: Path, options: Any) -> Any:
    onnxruntime = _import_onnxruntime()
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # The binding raises classes of its own, one a status code, without a common base.
        raise IntegrityError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open it ({error})",
            where=str(model),
            fix="compile the model again with this version of edgec",
        ) from error
