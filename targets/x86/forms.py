"""The lowering forms of x86: how a neutral graph is written for each engine."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY
from edgec.core.graph import Graph
from edgec.passes.manager import Pipeline
from edgec.targets.base import Candidate
from edgec.targets.x86.layers import LayerNames

EXPORTED = "exported"
"""The exporter's own graph, untouched."""

DECOMPOSED = "decomposed"
"""Attention as products around a softmax."""

FORMS: dict[str, tuple[str, ...]] = {
    "ort": (DECOMPOSED,),
    "openvino": (DECOMPOSED, EXPORTED),
}
"""The forms worth measuring, by engine, most promising first."""

_PIPELINES: dict[tuple[str, str], tuple[str, ...]] = {
    ("ort", DECOMPOSED): ("decompose.plugins", "decompose.attention"),
    ("openvino", DECOMPOSED): ("decompose.plugins", "decompose.attention"),
}


def lowered(graph: Graph, candidate: Candidate) -> Graph:
    """The neutral graph in a form; the given graph is left as it is."""
    from edgec.passes.decompose import load_passes

    load_passes()
    copy = graph.clone()
    Pipeline.named(_PIPELINES[candidate.engine, candidate.form]).run(copy.model)
    return copy


def exported(graph: Graph) -> Graph:
    """The exporter's own graph, its nodes under the source layers that the neutral graph knows."""
    assert graph.exported is not None
    model = ir.load(graph.exported)
    names = LayerNames(graph.model)
    for node in model.graph.all_nodes():
        outputs = (value.name for value in node.outputs if value.name)
        layer = names.find([node.name or "", *outputs])
        if layer is not None:
            node.metadata_props[SOURCE_KEY] = layer
    return graph.with_model(model)
