"""Building the engine `ort`: the lowered model on disk, and what became of its layers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgec.core.errors import JobError
from edgec.core.evaluation import save_model
from edgec.core.graph import Graph
from edgec.core.older_kernels import for_onnxruntime
from edgec.passes.decompose.quantised import has_pairs
from edgec.runtime.engine import EngineDescription
from edgec.runtime.engine_ort import session_options
from edgec.targets.base import Candidate
from edgec.targets.x86.layers import LayerNames
from edgec.targets.x86.quantize_ort import quantised

_MODEL = "model.onnx"

_EXACT = {"session.disable_quant_qdq": "1"}
"""Of a file that is quantised already: its Q/DQ pairs round where it says, not inside integer kernels."""


def build(graph: Graph, candidate: Candidate, folder: Path) -> None:
    """Write a lowered graph as an ONNX Runtime engine.

    The model is stored as lowered, not as ONNX Runtime optimised it: its layouts are those of the
    processor it was optimised on, and optimising again at opening costs less than a second.

    Raises:
        JobError: ONNX Runtime does not take the model.
    """
    model = for_onnxruntime(quantised(graph, candidate) if candidate.scheme else graph.model)
    save_model(model, folder / _MODEL)
    settings = _EXACT if candidate.precision == "fp32" and has_pairs(model) else {}
    layers = _layers(folder / _MODEL, LayerNames(model), settings)
    EngineDescription(
        kind="ort",
        model=_MODEL,
        precision=candidate.precision,
        threads=0,
        form=candidate.form,
        layers=layers,
        rest=candidate.rest,
        settings=settings,
    ).write(folder)


def _layers(path: Path, names: LayerNames, settings: Mapping[str, str]) -> dict[str, str]:
    """ONNX Runtime's own layers, after its fusions, with the user's layer of each."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="edgec-ort-") as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        options = session_options(1, settings)
        options.optimized_model_filepath = str(optimised)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimised.weights"
        )
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
        )
        # The warning that the optimised model suits this processor only: it is read and thrown away.
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # The binding raises classes of its own, one a status code, without a common base.
            raise JobError(
                f"ONNX Runtime {onnxruntime.__version__} does not take the lowered graph ({error})",
                fix="choose another engine with --target x86:openvino",
            ) from error
        model = onnx.load(str(optimised), load_external_data=False)
    layers = {}
    for node in model.graph.node:
        layer = names.find([node.name, *node.output])
        if node.name and layer is not None:
            layers[node.name] = layer
    return layers
