"""The lowering forms of x86: how a neutral graph is written for each engine."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY
from edgec.core.graph import Graph
from edgec.passes.manager import Pipeline
from edgec.targets.base import Candidate
from edgec.targets.x86.blocked_linear import linear_layers
from edgec.targets.x86.layers import LayerNames

EXPORTED = "exported"
"""The exporter's own graph, untouched."""

DECOMPOSED = "decomposed"
"""Attention as products around a softmax; for OpenVINO also norms and projections as it runs them best."""

BLOCKED = "blocked"
"""`decomposed`, with every fp32 linear layer in the form that OpenVINO gives its blocked kernel."""

_OPENVINO = (
    "decompose.plugins",
    "decompose.attention",
    "decompose.norm_affine",
    "x86.flat_norm",
    "x86.separate_projections",
)

_PIPELINES: dict[tuple[str, str], tuple[str, ...]] = {
    ("ort", DECOMPOSED): ("decompose.plugins", "decompose.attention"),
    ("openvino", DECOMPOSED): _OPENVINO,
    ("openvino", BLOCKED): (*_OPENVINO, "x86.blocked_linear"),
}


def forms(graph: Graph, engine: str, precision: str, *, alone: bool) -> list[str]:
    """The forms worth measuring, most promising first.

    Args:
        graph: the neutral graph.
        engine: `ort` or `openvino`.
        precision: what the engine computes in.
        alone: whether no other engine competes; the exporter's graph then stands in for the peer that
            the result must not be slower than.
    """
    found = [DECOMPOSED]
    if engine == "openvino" and precision == "fp32" and linear_layers(graph.model):
        found.insert(0, BLOCKED)
    if graph.exported is not None and (engine == "openvino" or alone):
        found.append(EXPORTED)
    return found


def lowered(graph: Graph, candidate: Candidate) -> Graph:
    """The neutral graph in a form; the given graph is left as it is."""
    from edgec.passes.decompose import load_passes
    from edgec.targets.x86 import flat_norm, separate_projections  # noqa: F401

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
