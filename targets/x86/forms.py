"""The lowering forms of x86: how a neutral graph is written for each engine."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, SOURCE_KEY
from edgec.core.graph import Graph
from edgec.passes.decompose.quantised import has_pairs
from edgec.passes.infra import registered
from edgec.passes.manager import Pipeline
from edgec.plugins.bindings import openvino as extension
from edgec.targets.base import Candidate
from edgec.targets.x86.blocked_attention import LONG, longest
from edgec.targets.x86.blocked_linear import linear_layers
from edgec.targets.x86.decoders import DRAFTED, STATEFUL
from edgec.targets.x86.layers import LayerNames
from edgec.targets.x86.pack_tokens import packable
from edgec.targets.x86.separate_projections import packed_projections
from edgec.targets.x86.whole_rows import ragged

EXPORTED = "exported"
"""The exporter's own graph, untouched."""

DECOMPOSED = "decomposed"
"""Attention as products around a softmax; for OpenVINO also norms and projections as it runs them best."""

BLOCKED = "blocked"
"""`decomposed`, with every fp32 linear layer in the form that OpenVINO gives its blocked kernel."""

WHOLE_ROWS = "whole rows"
"""`decomposed`, with token streams padded to a number of rows that OpenVINO's bf16 product likes."""

PACKED = "packed projections"
"""`decomposed`, with queries, keys and values still made by one product: better where it is int8 and wide."""

PADDING_FREE = "padding-free"
"""`decomposed`, with everything that works token by token on the real tokens of a padded batch only."""

BLOCKED_ATTENTION = "blocked attention"
"""`decomposed`, with attention over long sequences by edgec's own kernel."""

BY_KERNELS = {
    PADDING_FREE: "the other forms, which compute padded places too",
    BLOCKED_ATTENTION: "the other forms, with the engine's own attention",
}
"""Forms whose only point are edgec's kernels, and what is there without them."""

_OPENVINO = (
    "decompose.plugins",
    "decompose.quantised",
    "decompose.attention",
    "decompose.norm_affine",
    "x86.flat_norm",
    "x86.separate_projections",
    "x86.axis_linear",
    "x86.flat_linear",
    "x86.factor_by_place",
)

_PIPELINES: dict[tuple[str, str], tuple[str, ...]] = {
    ("ort", DECOMPOSED): ("decompose.plugins", "decompose.attention", "x86.gathered_rows", "x86.axis_linear"),
    ("openvino", DECOMPOSED): _OPENVINO,
    ("openvino", BLOCKED): (*_OPENVINO, "x86.blocked_linear"),
    ("openvino", WHOLE_ROWS): ("x86.whole_rows", *_OPENVINO),
    ("openvino", PADDING_FREE): ("x86.pack_tokens", *_OPENVINO),
    ("openvino", BLOCKED_ATTENTION): ("x86.blocked_attention", *_OPENVINO),
    ("openvino", STATEFUL): ("decompose.plugins", "decompose.quantised", "x86.cached_attention"),
    ("openvino", DRAFTED): ("decompose.plugins", "decompose.quantised", "x86.cached_attention"),
    ("openvino", PACKED): tuple(name for name in _OPENVINO if name != "x86.separate_projections"),
}


def forms(graph: Graph, engine: str, precision: str) -> list[str]:
    """The forms worth measuring, most promising first.

    The exporter's graph stands in for the peer that the result must not be slower than.

    Args:
        graph: the neutral graph.
        engine: `ort` or `openvino`.
        precision: what the engine computes in.
    """
    found = [DECOMPOSED]
    if engine == "openvino" and precision == "fp32" and linear_layers(graph.model):
        found.insert(0, BLOCKED)
    if engine == "openvino" and precision != "fp32" and ragged(graph.model):
        found.insert(0, WHOLE_ROWS)
    if engine == "openvino" and longest(graph.model) >= LONG:
        found.insert(0, BLOCKED_ATTENTION)
    if engine == "openvino" and packable(graph.model):
        found.insert(0, PADDING_FREE)
    if engine == "openvino" and precision == "int8" and packed_projections(graph.model):
        found.append(PACKED)
    # OpenVINO has no switch for its integer kernels, and in those a quantised file gives other answers.
    fuses = engine == "openvino" and has_pairs(graph.model)
    if graph.exported is not None and not graph.is_reduced and not fuses:
        found.append(EXPORTED)
    return found


def kernel_ops(model: ir.Model) -> list[str]:
    """The ops of a model that OpenVINO runs by edgec's own kernels, each once."""
    ours = extension.ops()
    return sorted(
        {node.op_type for node in model.graph if node.domain == EDGEC_DOMAIN and node.op_type in ours}
    )


def lowered(graph: Graph, candidate: Candidate, kernels: frozenset[str]) -> Graph:
    """The neutral graph in a form; the given graph is left as it is.

    Args:
        graph: the neutral graph.
        candidate: its engine, precision and form.
        kernels: the ops of `ai.edgec` that the engine has kernels for; the others are written out.
    """
    from edgec.passes.decompose import load_passes
    from edgec.passes.decompose.plugins import DecomposePlugins
    from edgec.targets.x86 import (  # noqa: F401 - each registers its pass
        axis_linear,
        blocked_attention,
        cached_attention,
        factor_by_place,
        flat_linear,
        flat_norm,
        gathered_rows,
        pack_tokens,
        separate_projections,
        size_bias,
        whole_rows,
        wide_bias,
    )

    load_passes()
    copy = graph.clone()
    names = _PIPELINES[candidate.engine, candidate.form]
    if "SizeBias" in kernels and kernel_ops(copy.model):
        names = (*names, "x86.size_bias")
    if "bf16" in (candidate.precision, candidate.rest):
        names = (*names, "x86.wide_bias")
    steps = [
        DecomposePlugins(kernels) if name == DecomposePlugins.name else registered()[name]() for name in names
    ]
    Pipeline(steps).run(copy.model)
    return copy


def exported(graph: Graph) -> Graph:
    """The exporter's own graph, its nodes under the source layers that the neutral graph knows."""
    assert graph.exported is not None
    model = ir.load(graph.exported)
    names = LayerNames(graph.model)
    nodes = list(model.graph.all_nodes())
    for node in nodes:
        layer = names.find([node.name or "", *(value.name for value in node.outputs if value.name)])
        if layer is not None:
            node.metadata_props[SOURCE_KEY] = layer
    # What the passes rewrote has another name now: it belongs to whom it feeds.
    for node in reversed(nodes):
        if SOURCE_KEY not in node.metadata_props:
            readers = (use.node for value in node.outputs for use in value.uses())
            layers = (reader.metadata_props.get(SOURCE_KEY) for reader in readers)
            node.metadata_props[SOURCE_KEY] = next(filter(None, layers), node.name or node.op_type)
    return graph.with_model(model)
