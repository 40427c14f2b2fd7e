"""Building the engine `openvino`: the lowered model as OpenVINO's own IR."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edgec.core.decoder import DRAFT, LOGITS, SCORES_FROM
from edgec.core.errors import JobError
from edgec.core.evaluation import save_model
from edgec.core.graph import Graph
from edgec.runtime.engine import EngineDescription
from edgec.runtime.openvino_core import import_openvino, new_core, said
from edgec.targets.base import Candidate
from edgec.targets.x86 import openvino_steps
from edgec.targets.x86.bf16 import in_bf16, kernels_in_bf16, stays_full
from edgec.targets.x86.decoders import DRAFTED, STEPS, draft_of, settings
from edgec.targets.x86.forms import kernel_ops
from edgec.targets.x86.layers import LayerNames
from edgec.targets.x86.quantize_openvino import quantised

_KERNELS = "edgec_kernels.so"
_MODEL = "model.xml"


def build(graph: Graph, candidate: Candidate, folder: Path, library: Path | None) -> None:
    """Write a lowered graph as an OpenVINO engine.

    Weights keep their fp32 bits whatever the engine computes in: OpenVINO rounds them when it opens the
    engine, and a later fp32 opening loses nothing. Only where a bf16 engine keeps layers in fp32, the model
    itself says which, and holds the other layers' weights in bf16. OpenVINO compiles for the processor when
    it opens the engine.

    Args:
        graph: the lowered graph.
        candidate: the candidate.
        folder: an empty folder.
        library: edgec's own kernels, where the graph has ops that they compute.

    Raises:
        JobError: OpenVINO does not take the model.
    """
    openvino = import_openvino()
    core = new_core()
    extensions: tuple[str, ...] = ()
    inputs = tuple(value.name or "" for value in graph.model.graph.inputs if not value.is_initializer())
    outputs = tuple(value.name or "" for value in graph.model.graph.outputs)
    if kernel_ops(graph.model):
        assert library is not None
        shutil.copyfile(library, folder / _KERNELS)
        core.add_extension(str(folder / _KERNELS))
        extensions = (_KERNELS,)
    try:
        with tempfile.TemporaryDirectory(prefix="edgec-openvino-") as scratch:
            path = Path(scratch) / "model.onnx"
            save_model(graph.model, path)
            if candidate.form in STEPS:
                core.add_extension(openvino_steps.attention_extension())
            model = core.read_model(str(path))
            if candidate.form in STEPS:
                assert graph.decoder is not None
                openvino_steps.keep_caches(model, graph.decoder.caches)
                inputs, outputs = openvino_steps.inputs_of_steps(graph.decoder.crosses), (LOGITS,)
            is_drafted = candidate.form == DRAFTED and openvino_steps.open_scores(model)
            if is_drafted:
                inputs = (*inputs, SCORES_FROM)
                (folder / DRAFT).mkdir()
                build(graph, draft_of(), folder / DRAFT, library)
            names = LayerNames(graph.model)
            _rename(model, names)
            layers = _layers(model, names)
            full = stays_full(model, graph.model) if candidate.precision == "bf16" else frozenset()
            if candidate.precision == "bf16" and (candidate.kept or full):
                in_bf16(model, layers, frozenset(candidate.kept), full)
                layers |= _layers(model, names)
            elif "bf16" in (candidate.precision, candidate.rest):
                kernels_in_bf16(model)
            if candidate.scheme:
                model = quantised(model, graph, candidate, layers)
                layers |= _layers(model, names)
            openvino.save_model(model, str(folder / _MODEL), compress_to_fp16=False)
    except RuntimeError as error:
        gist = "; ".join(said(error)[-2:])
        raise JobError(
            f"OpenVINO {openvino.__version__} does not take the lowered graph ({gist})",
            fix="choose another engine with --target x86:ort",
        ) from error
    EngineDescription(
        kind="openvino",
        model=_MODEL,
        precision=candidate.precision,
        threads=0,
        form=candidate.form,
        layers=layers,
        inputs=inputs,
        outputs=outputs,
        extensions=extensions,
        rest="fp32" if full else candidate.rest,
        settings=settings(candidate) if candidate.form in STEPS else {},
        decoder={} if graph.decoder is None else graph.decoder.decoding.to_json(),
    ).write(folder)


def _rename(model: Any, names: LayerNames) -> None:
    """Number the operations that OpenVINO named itself: its own numbers run on through the process."""
    numbered = re.compile(r"^[A-Z]\w*_\d+$")
    for index, operation in enumerate(model.get_ordered_ops()):
        name = operation.get_friendly_name()
        if numbered.match(name) and name not in names:
            operation.set_friendly_name(f"{operation.get_type_name()}_at_{index}")


def _layers(model: Any, names: LayerNames) -> dict[str, str]:
    """The user's layer of every operation of the IR, by its name.

    An operation that OpenVINO made for itself (a constant's reshape) belongs to the layer that reads it.
    """
    layers: dict[str, str] = {}
    for operation in reversed(model.get_ordered_ops()):
        name = operation.get_friendly_name()
        outputs = operation.outputs()
        layer = names.find([name, *(tensor for output in outputs for tensor in sorted(output.get_names()))])
        if layer is None:
            # The binding gives the readers in no order of its own.
            readers = {
                target.get_node().get_friendly_name()
                for output in outputs
                for target in output.get_target_inputs()
            }
            layer = next((layers[reader] for reader in sorted(readers) if reader in layers), None)
        if layer is not None:
            layers[name] = layer
    return layers
