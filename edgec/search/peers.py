"""What a user would otherwise run: each peer on the exporter's own, untouched graph.

Settings are the ones each peer's documentation gives for latency on a CPU: one stream, one thread a
core, and nothing else touched. In int8 a peer quantises by its own tool's recipe for transformers on a CPU:
NNCF's static post-training quantisation for OpenVINO, dynamic quantisation for ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import JobError, RequestError
from edgec.core.graph import Arrays, Graph
from edgec.runtime.openvino_core import import_openvino, new_core
from edgec.targets.x86 import quantize_openvino, quantize_ort

Run = Callable[[Mapping[str, np.ndarray]], Arrays]

PEERS = ("ort", "openvino", "torch")


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer that is ready to run.

    Attributes:
        name: `ort`, `openvino` or `torch`.
        precision: what it computes in.
        run: one run.
    """

    name: str
    precision: str
    run: Run

    @property
    def label(self) -> str:
        """`ort fp32`."""
        return f"{self.name} {self.precision}"


@contextlib.contextmanager
def opened(graph: Graph, names: Sequence[str], *, precision: str = "fp32") -> Iterator[list[Peer]]:
    """Open peers on the graph's exporter file; they are closed with the block.

    Args:
        graph: what to run; needs `exported`, and `run_source` for torch; for OpenVINO in int8 also
            `calibration`.
        names: of `PEERS`.
        precision: `fp32`; `bf16` or `int8` for the peers that have it.

    Raises:
        RequestError: a name is not a peer's.
        JobError: a peer cannot run this source.
        MissingExtraError: a peer is not installed.
    """
    openers: dict[str, Callable[[Graph, str], contextlib.AbstractContextManager[Peer]]] = {
        "ort": functools.partial(_open_engine, "ort"),
        "openvino": functools.partial(_open_engine, "openvino"),
        "torch": _open_torch,
    }
    for name in names:
        if name not in openers:
            raise RequestError(f"no peer is named {name!r}", fix=f"choose from {', '.join(PEERS)}")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(openers[name](graph, precision)) for name in names]


def installed_engines() -> tuple[str, ...]:
    """The engines among the peers that this machine has."""
    import importlib.util

    return tuple(
        name
        for name, module in (("ort", "onnxruntime"), ("openvino", "openvino"))
        if importlib.util.find_spec(module) is not None
    )


def _exported(graph: Graph) -> Path:
    if graph.exported is None:
        raise JobError("the source left no ONNX file of its own, so peers have nothing to run")
    return Path(graph.exported)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _open_engine(name: str, graph: Graph, precision: str) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory(prefix="edgec-peer-") as folder:
        yield open_file(name, precision, model_file(graph, name, precision, Path(folder)))


def model_file(graph: Graph, name: str, precision: str, folder: Path) -> Path:
    """What a peer opens: the exporter's own file, or in int8 what its own tool makes of it.

    Args:
        graph: needs `exported`; for OpenVINO in int8 also `calibration`.
        name: `ort` or `openvino`.
        precision: `fp32`, `bf16` or `int8`.
        folder: where a quantised model is written.

    Raises:
        JobError: the peer does not have the precision.
        MissingExtraError: its tool is not installed.
    """
    path = _exported(graph)
    if precision != "int8":
        if precision != "fp32" and name == "ort":
            raise JobError(f"ONNX Runtime has no {precision} on a CPU", fix="leave ort out of --against")
        return path
    if name == "ort":
        quantised = folder / "quantised.onnx"
        quantize_ort.plainly(path, quantised)
        return quantised
    if not graph.calibration:
        raise JobError("OpenVINO's int8 peer needs data to calibrate on", fix="give --calib F.npz")
    model = new_core().read_model(str(path))
    samples = [[feeds[spec.name] for spec in graph.inputs] for feeds in graph.calibration]
    done = quantize_openvino.plainly(model, samples)
    import_openvino().save_model(done, str(folder / "quantised.xml"), compress_to_fp16=False)
    return folder / "quantised.xml"


def open_file(name: str, precision: str, path: Path) -> Peer:
    """Open what `model_file` gave.

    Raises:
        MissingExtraError: the peer is not installed.
    """
    return _ort_peer(precision, path) if name == "ort" else _openvino_peer(precision, path)


def _ort_peer(precision: str, path: Path) -> Peer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return Peer(
        "ort", precision, lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
    )


def _openvino_peer(precision: str, path: Path) -> Peer:
    core = new_core()
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": _cores()}
    if precision != "int8":
        # In int8 the rest is left to OpenVINO, which takes bf16 where the processor has it.
        settings["INFERENCE_PRECISION_HINT"] = {"fp32": "f32"}.get(precision, precision)
    compiled = core.compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(feeds: Mapping[str, np.ndarray]) -> Arrays:
        results = request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return {name: np.array(results[index]) for index, name in enumerate(names)}

    return Peer("openvino", precision, run)


@contextlib.contextmanager
def _open_torch(graph: Graph, precision: str) -> Iterator[Peer]:
    if graph.source.exporter == "none" or graph.run_source is None:
        raise JobError("torch cannot run this source: it is an ONNX file", fix="leave torch out of --against")
    if precision != "fp32":
        raise JobError("torch is compared in fp32 only", fix="leave torch out of --against")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(_cores())
    try:
        yield Peer("torch", "fp32", graph.run_source)
    finally:
        torch.set_num_threads(before)
