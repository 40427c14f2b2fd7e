"""Running ONNX files as they are: ONNX Runtime with its optimisations off."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, ONNX_OPSET
from edgec.core.errors import JobError
from edgec.core.evaluation import save_model
from edgec.core.graph import Arrays, moved_by_rounding
from edgec.core.numerics import GATES, compare
from edgec.core.older_kernels import for_onnxruntime
from edgec.frontends.quiet import first_line

_logger = logging.getLogger("edgec.frontends")

_INLINE_BYTES = 1_000_000_000
"""A converted model with more weights inside is run with its weights in a file of their own."""


class OnnxFile:
    """An ONNX file that runs as it was written; opened at the first call.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = Path(path)
        self._threads = threads
        self._session: Any = None
        self._inputs: list[str] = []
        self._outputs: list[str] = []

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run it; feeds that the file does not take are left out.

        Raises:
            Exception: whatever ONNX Runtime raises on a file or a feed it cannot take.
        """
        if self._session is None:
            self._session = open_session(self.path, threads=self._threads)
            self._inputs = [value.name for value in self._session.get_inputs()]
            self._outputs = [value.name for value in self._session.get_outputs()]
        taken = {name: feeds[name] for name in self._inputs if name in feeds}
        results = self._session.run(self._outputs, taken)
        return dict(zip(self._outputs, results, strict=True))


class ReferenceFile:
    """An ONNX file run by onnx's own evaluator: slow, and complete where ONNX Runtime lacks an op.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._evaluator: Any = None

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


def check_conversion(
    model: ir.Model,
    opset: int,
    feeds: Sequence[Arrays],
    references: Sequence[Arrays],
    *,
    folder: Path,
    where: str,
    run: Callable[[Mapping[str, np.ndarray]], Arrays],
) -> str | None:
    """Run a model whose opset was converted, and compare it with what the source computed.

    Args:
        model: the converted model.
        opset: what it was converted from; nothing is run where that is edgec's own.
        feeds: what to run it on.
        references: the source's outputs on them.
        folder: where the model's external data lies.
        where: the source, for messages.
        run: runs the source: what it moves by itself where its inputs are rounded, no conversion is to blame
            for. Numbers of little spread among many, probabilities of thousands of classes, do by more than
            the gate has for them.

    Returns:
        what to tell the user where ONNX Runtime lacks an op of the newer opset, else None.

    Raises:
        JobError: it does not run, or computes something else.
    """
    if opset == ONNX_OPSET or any(node.domain == EDGEC_DOMAIN for node in model.graph.all_nodes()):
        return None
    advice = f"export the model with opset {ONNX_OPSET}"
    try:
        if _inline_bytes(model) > _INLINE_BYTES:
            with tempfile.TemporaryDirectory(prefix="edgec-") as temporary:
                path = Path(temporary) / "model.onnx"
                save_model(model, path)
                results = _run(open_session(path), feeds)
        else:
            results = _run(
                open_session(ir.to_proto(for_onnxruntime(model)).SerializeToString(), folder=folder), feeds
            )
    except Exception as error:  # ONNX Runtime's own classes
        _logger.debug("the converted model does not run", exc_info=error)
        if "NOT_IMPLEMENTED" in str(error):
            return (
                f"The conversion from opset {opset} to {ONNX_OPSET} could not be checked by running it "
                f"({first_line(error)})."
            )
        raise JobError(
            f"the model does not run any more after conversion from opset {opset} to {ONNX_OPSET}: "
            f"{first_line(error)}",
            where=where,
            fix=advice,
        ) from error
    difference = compare(references, results)
    if not GATES["fp32"].accepts(difference):
        floats = {name for name, array in feeds[0].items() if array.dtype == np.float32}
        moves = moved_by_rounding(run, feeds, references, floats, "fp32")
        difference = difference if moves is None else compare(references, results, moves=moves)
    if not GATES["fp32"].accepts(difference):
        raise JobError(
            f"conversion from opset {opset} to {ONNX_OPSET} changes output {difference.output!r} "
            f"by {difference.max_abs:.3g}",
            where=where,
            fix=advice,
        )
    return None


def _run(session, feeds: Sequence[Arrays]) -> list[Arrays]:  # type: ignore[no-untyped-def]
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def _inline_bytes(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and not isinstance(value.const_value, ir.ExternalTensor)
    )
