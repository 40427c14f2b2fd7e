"""The engine `openvino`: an OpenVINO IR compiled for the CPU when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import IntegrityError
from edgec.core.graph import Arrays
from edgec.runtime.engine import EngineDescription, LayerTime, closed
from edgec.runtime.layer_times import summarize
from edgec.runtime.openvino_core import import_openvino, new_core, said
from edgec.runtime.openvino_requests import Requests, plain_infer, shared_tensors
from edgec.runtime.openvino_states import States
from edgec.runtime.threads import worker_threads

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A model compiled by OpenVINO's CPU plugin.

    Args:
        folder: the engine's folder, with its `engine.json`.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        IntegrityError: the description, the model or an extension cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.description = EngineDescription.read(folder)
        openvino = import_openvino()
        self._core: Any = new_core()
        model = folder / self.description.model
        try:
            for extension in self.description.extensions:
                self._core.add_extension(str((folder / extension).resolve()))
            self._model: Any = self._core.read_model(str(model))
            self._compiled: Any = self._compile({})
        except RuntimeError as error:
            raise IntegrityError(
                f"OpenVINO {openvino.__version__} cannot open it ({said(error)[-1]})",
                where=str(model),
                fix="compile the model again with this version of edgec",
            ) from error
        # By place, where the description has the names: OpenVINO lets a tensor have several.
        inputs = self.description.inputs or [port.get_any_name() for port in self._compiled.inputs]
        outputs = self.description.outputs or [port.get_any_name() for port in self._compiled.outputs]
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._requests = self._pool()

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once; the outputs are fresh arrays."""
        return dict(zip(self._outputs, self._requests.run(feeds), strict=True))

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:
        """Run with OpenVINO's own counters, compiled once more with them on; in execution order."""
        compiled = self._compile({"PERF_COUNT": True})
        request, infer = compiled.create_infer_request(), plain_infer()
        arrays = {name: np.array(feeds[name], order="C") for name in self._inputs}
        tensors = shared_tensors(arrays, self._inputs)
        calls: dict[str, list[float]] = {}
        ops: dict[str, str] = {}
        warmup = 2
        for _ in range(warmup + runs):
            infer(request, tensors, share_outputs=True, decode_strings=True)
            for layer in request.get_profiling_info():
                if layer.status.name != "EXECUTED":
                    continue
                calls.setdefault(layer.node_name, []).append(layer.real_time.total_seconds() * 1e6)
                ops[layer.node_name] = f"{layer.node_type} {layer.exec_type}"
        return summarize(calls, ops, sources(compiled, self.description.layers), warmup)

    def _pool(self) -> Requests | States:
        """What runs."""
        return Requests(self._core, self._compiled, self._inputs)

    def close(self) -> None:
        """Free the compiled model and its threads, once the runs under way have ended."""
        self._requests.close()
        self._compiled = self._model = self._core = None

    def _compile(self, more: Mapping[str, object]) -> Any:
        core, model = self._core, self._model
        if core is None or model is None:
            raise closed()
        precision = self.description.rest or self.description.precision
        config = configuration(precision, worker_threads(self.description.threads))
        return core.compile_model(model, "CPU", {**config, **self.description.settings, **more})


def configuration(precision: str, threads: int) -> dict[str, object]:
    """OpenVINO's settings for one stream of runs with the lowest latency.

    The precision is always said: left alone, the plugin takes bf16 on a CPU that has it.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
    }


def sources(compiled: Any, layers: Mapping[str, str]) -> dict[str, str]:
    """The user's layer of everything the plugin runs after its fusions, by the plugin's own name.

    The plugin's names are new in every process; the names that it says it fused are the IR's. What it
    inserted for itself (a change of layout) fused nothing: it belongs to the layer that reads it.
    """
    sources: dict[str, str] = {}
    for operation in reversed(compiled.get_runtime_model().get_ordered_ops()):
        name = operation.get_friendly_name()
        originals = operation.get_rt_info()["originalLayersNames"].astype(str).split(",")
        source = next((layers[original] for original in reversed(originals) if original in layers), None)
        if source is None:
            # The binding gives the readers in no order of its own.
            readers = {
                target.get_node().get_friendly_name()
                for output in operation.outputs()
                for target in output.get_target_inputs()
            }
            source = next((sources[reader] for reader in sorted(readers) if reader in sources), None)
        if source is not None:
            sources[name] = source
    return sources
