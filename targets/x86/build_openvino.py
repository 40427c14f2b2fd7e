"""Building the engine `openvino`: the lowered model as OpenVINO's own IR."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgec.core.errors import JobError
from edgec.core.evaluation import save_model
from edgec.core.graph import Graph
from edgec.runtime.engine import EngineDescription
from edgec.runtime.engine_openvino import configuration, import_openvino
from edgec.runtime.threads import worker_threads
from edgec.targets.base import Candidate
from edgec.targets.x86.layers import LayerNames

_MODEL = "model.xml"


def build(graph: Graph, candidate: Candidate, folder: Path) -> None:
    """Write a lowered graph as an OpenVINO engine.

    Weights keep their fp32 bits whatever the engine computes in: OpenVINO rounds them when it opens
    the engine, and a later fp32 opening loses nothing.

    Raises:
        JobError: OpenVINO does not take the model.
    """
    openvino = import_openvino()
    core = openvino.Core()
    try:
        with tempfile.TemporaryDirectory(prefix="edgec-openvino-") as scratch:
            path = Path(scratch) / "model.onnx"
            save_model(graph.model, path)
            model = core.read_model(str(path))
            openvino.save_model(model, str(folder / _MODEL), compress_to_fp16=False)
        settings = configuration(candidate.precision, worker_threads())
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise JobError(
            f"OpenVINO {openvino.__version__} does not take the lowered graph ({_gist(error)})",
            fix="choose another engine with --target x86:ort",
        ) from error
    EngineDescription(
        kind="openvino",
        model=_MODEL,
        precision=candidate.precision,
        threads=0,
        form=candidate.form,
        layers=_layers(compiled, LayerNames(graph.model)),
    ).write(folder)


def _layers(compiled: Any, names: LayerNames) -> dict[str, str]:
    """OpenVINO's own layers, after its fusions, with the user's layer of each.

    A layer that OpenVINO inserted for itself (a change of layout) has no originals: it belongs to the
    layer that reads it.
    """
    layers: dict[str, str] = {}
    for operation in reversed(compiled.get_runtime_model().get_ordered_ops()):
        originals = operation.get_rt_info()["originalLayersNames"].astype(str).split(",")
        name = operation.get_friendly_name()
        layer = names.find([*reversed(originals), name])
        if layer is None:
            readers = (
                target.get_node() for output in operation.outputs() for target in output.get_target_inputs()
            )
            layer = next(
                (layers[node.get_friendly_name()] for node in readers if node.get_friendly_name() in layers),
                None,
            )
        if layer is not None:
            layers[name] = layer
    return layers


def _gist(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[-2:]) if lines else type(error).__name__
