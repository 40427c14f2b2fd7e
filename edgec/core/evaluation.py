"""Running an ONNX model exactly as it is written: ONNX Runtime, its graph optimiser off unless asked for.

This is the judge of what a graph means, never the engine that ships.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgec.core.errors import JobError
from edgec.core.graph import Arrays
from edgec.core.older_kernels import for_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.weights"


class Evaluator:
    """A model opened for evaluation; a context manager.

    Args:
        model: the model, or the path of an ONNX file.
        outputs: names of inner values to return as well; ignored for a path.
        threads: worker threads; 0 takes every core.
        optimized: let ONNX Runtime optimise the graph: the same values up to rounding, sooner. For
            calibration, never for a judgement.

    Raises:
        JobError: ONNX Runtime has no kernel for an op, or not for its types.
        onnxruntime's own exceptions where it cannot take the model otherwise.
    """

    def __init__(
        self,
        model: ir.Model | str | Path,
        *,
        outputs: Sequence[str] = (),
        threads: int = 0,
        optimized: bool = False,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgec-evaluate-")
        try:
            if isinstance(model, ir.Model):
                path = Path(self._folder.name) / MODEL_FILE
                save_model(with_outputs(model, outputs) if outputs else model, path)
            else:
                path = Path(model)
            self._session = _open_session(path, threads, optimized)
        except BaseException:
            self._folder.cleanup()
            raise
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Every output by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))

    def close(self) -> None:
        """Free the session and its files."""
        del self._session
        self._folder.cleanup()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def save_model(model: ir.Model, path: Path) -> None:
    """Save a model of any size for ONNX Runtime: weights go beside it, so no protobuf passes 2 GB."""
    ir.save(for_onnxruntime(model), path, external_data=path.with_suffix(".weights").name)


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of the model that also returns the named inner values."""
    copy = model.clone()
    wanted = set(names) - {output.name for output in copy.graph.outputs}
    for node in copy.graph:
        copy.graph.outputs.extend(value for value in node.outputs if value.name in wanted)
    return copy


def _open_session(path: Path, threads: int, optimized: bool) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 4
    no_spinning: dict[str, Any] = {"session.intra_op.allow_spinning": "0"}
    for key, value in no_spinning.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its class is known to a private module only
        what = re.search(r"NOT_IMPLEMENTED : (Could not find an implementation for .*)", str(error))
        if what is None:
            raise
        raise JobError(
            f"ONNX Runtime, which judges the graph, cannot run it: {what[1]}",
            fix="export the model with ops and types that ONNX Runtime has on the CPU",
        ) from error
