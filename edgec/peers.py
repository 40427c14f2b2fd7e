"""What a user would otherwise run: each peer on the exporter's own, untouched graph.

Settings are the ones each peer's documentation gives for latency on a CPU: one stream, one thread a
core, and nothing else touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.core.errors import JobError, MissingExtraError, RequestError
from edgec.core.graph import Arrays, Graph

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
        graph: what to run; needs `exported`, and `run_source` for torch.
        names: of `PEERS`.
        precision: `fp32`, or `bf16` for the peers that have it.

    Raises:
        RequestError: a name is not a peer's.
        JobError: a peer cannot run this source.
        MissingExtraError: a peer is not installed.
    """
    openers = {"ort": _open_ort, "openvino": _open_openvino, "torch": _open_torch}
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
def _open_ort(graph: Graph, precision: str) -> Iterator[Peer]:
    import onnxruntime

    if precision != "fp32":
        raise JobError(f"ONNX Runtime has no {precision} on a CPU", fix="leave ort out of --against")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    options.log_severity_level = 3
    path = str(_exported(graph))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    yield Peer("ort", "fp32", lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True)))


@contextlib.contextmanager
def _open_openvino(graph: Graph, precision: str) -> Iterator[Peer]:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": _cores(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
    }
    compiled = core.compile_model(str(_exported(graph)), "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(feeds: Mapping[str, np.ndarray]) -> Arrays:
        results = request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return {name: np.array(results[index]) for index, name in enumerate(names)}

    yield Peer("openvino", precision, run)


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
