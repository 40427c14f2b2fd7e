"""Engines and bundles written by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as h

from edgec.core import bundle as bundles
from edgec.core.bundle import InputsOutputs
from edgec.core.graph import TensorSpec
from edgec.runtime.engine import EngineDescription


def small_model(batch=2):
    """y = relu(x·w + b), n = ids + 1."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((4, 3)).astype(np.float32),
        "b": rng.standard_normal(3).astype(np.float32),
        "one": np.asarray(1, np.int64),
    }
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        h.make_node("Add", ["m", "b"], ["a"], name="bias"),
        h.make_node("Relu", ["a"], ["y"], name="relu"),
        h.make_node("Add", ["ids", "one"], ["n"], name="count"),
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [
            h.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4]),
            h.make_tensor_value_info("ids", TensorProto.INT64, [batch]),
        ],
        [
            h.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3]),
            h.make_tensor_value_info("n", TensorProto.INT64, [batch]),
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11), constants


def write_engine(folder, kind, proto):
    """An engine's folder, written by hand."""
    folder.mkdir()
    if kind == "ort":
        onnx.save(proto, folder / "model.onnx")
        model = "model.onnx"
    else:
        openvino = pytest.importorskip("openvino")
        onnx.save(proto, folder / "source.onnx")
        read = openvino.Core().read_model(folder / "source.onnx")
        openvino.save_model(read, folder / "model.xml", compress_to_fp16=False)
        (folder / "source.onnx").unlink()
        model = "model.xml"
    # What the two engines make of the product, its bias and its activation.
    fused = ("product", "bias", "relu", "fused product/MatMulAddFusion")
    layers = dict.fromkeys(fused, "head.fc")
    EngineDescription(kind, model, "fp32", 1, "decomposed", layers).write(folder)


def write_bundle(tmp_path, kind, batch):
    proto, constants = small_model(batch)
    path = tmp_path / "small.x86.edgec"
    with bundles.writing(path) as scratch:
        write_engine(scratch / bundles.ENGINE, kind, proto)
        io = InputsOutputs(
            (TensorSpec("x", (batch, 4), "float32"), TensorSpec("ids", (batch,), "int64")),
            (TensorSpec("y", (batch, 3), "float32"), TensorSpec("n", (batch,), "int64")),
            {},
            (),
        )
        bundles.write_json(scratch / bundles.IO, io.to_json())
        bundles.seal(scratch, {"samples": 0})
    return path, constants
