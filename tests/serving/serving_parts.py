"""Small bundles, and servers of them on the loopback address."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import tritonclient.http as triton
from onnx import TensorProto, helper, numpy_helper

from edgec.core import bundle as bundles
from edgec.core.bundle import InputsOutputs
from edgec.core.graph import TensorSpec
from edgec.core.numerics import GATES, Expected
from edgec.runtime.engine import EngineDescription
from edgec.serving.model import Model, Tensor
from edgec.serving.rows import Rows
from edgec.serving.server import Options, Server

WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def write_bundle(path: Path, rows: int | str = 1, mixing: bool = False) -> Path:
    """`y = x·w`, rows by rows; with `mixing` less the mean over the rows."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m" if mixing else "y"])]
    constants = {"w": WEIGHT}
    if mixing:
        constants["axes"] = np.asarray([0], np.int64)
        nodes.append(helper.make_node("ReduceMean", ["m", "axes"], ["mean"]))
        nodes.append(helper.make_node("Sub", ["m", "mean"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((2 if isinstance(rows, str) else rows, 4), np.float32)} for _ in "ab"]
    with bundles.writing(path) as scratch:
        engine = scratch / bundles.ENGINE
        engine.mkdir()
        onnx.save(model, engine / "model.onnx")
        EngineDescription("ort", "model.onnx", "fp32", 1, "exported", {}).write(engine)
        io = InputsOutputs(
            (TensorSpec("x", (rows, 4), "float32"),), (TensorSpec("y", (rows, 3), "float32"),), {}, ()
        )
        bundles.write_json(scratch / bundles.IO, io.to_json())
        bundles.write_json(scratch / bundles.REPORT_JSON, {"schema": 1, "model": {"name": "small"}})
        bundles.write_samples(scratch, feeds, Expected([{"y": feed["x"] @ WEIGHT} for feed in feeds]))
        numerics = {"gates": [{"gate": dataclasses.asdict(GATES["fp32"])}]}
        name = path.name.partition(".")[0]
        fields = {
            "model": {"name": name},
            "target": "x86",
            "engine": "ort",
            "precision": "fp32",
            "numerics": numerics,
        }
        bundles.seal(scratch, {**fields, "samples": len(feeds)})
    return path


def python_model(
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    name: str = "m",
    rows: Rows | None = None,
) -> Model:
    """A model of one float32 row of four that a function computes."""
    shape = (1 if rows is None else -1, 4)
    tensors = (Tensor("x", shape, "float32"),), (Tensor("y", shape, "float32"),)
    return Model(name, "1", "python", *tensors, fit=lambda feeds: feeds, run=run, rows=rows)


@contextlib.contextmanager
def serving(models: Sequence[Model], **options: object) -> Iterator[Server]:
    """A server of models in a thread of this process."""
    server = Server(models, "0", Options(port=0, **options))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client, for the thread that makes it."""
    made = triton.InferenceServerClient(server.address.removeprefix("http://"), network_timeout=60)
    try:
        yield made
    finally:
        made.close()


def infer(server: Server, x: np.ndarray, model: str = "m") -> np.ndarray:
    """One request by a client of its own, for any thread."""
    with client(server) as caller:
        answer: np.ndarray = caller.infer(model, asked(x)).as_numpy("y")
        return answer


def asked(x: np.ndarray, binary: bool = True, name: str = "x") -> list[triton.InferInput]:
    """An input as Triton's client sends it."""
    made = triton.InferInput(name, list(x.shape), triton_datatype(x))
    made.set_data_from_numpy(x, binary_data=binary)
    return [made]


def triton_datatype(x: np.ndarray) -> str:
    from tritonclient.utils import np_to_triton_dtype

    return str(np_to_triton_dtype(x.dtype))


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
