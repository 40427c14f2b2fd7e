"""From the neutral graph to what TVM is given."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, source_layer
from edgec.core.graph import Graph
from edgec.passes.infra import registered
from edgec.passes.manager import Pipeline
from edgec.plugins.bindings.tvm import plugin_entries
from edgec.plugins.infra import plugins
from edgec.targets.tvm.importing import convertible

FORM = "kernels"
"""The one lowering form: heavy ops by edgec's kernels, the rest by TVM's loops."""

_STEPS = (
    "decompose.quantised",
    "decompose.rotary_embedding",
    "x86.blocked_attention",
    "decompose.attention",
    "tvm.whole_layers",
)


def lowered(graph: Graph) -> Graph:
    """The neutral graph in the target's dialect; the given graph is left as it is."""
    from edgec.passes.decompose import load_passes
    from edgec.passes.decompose.plugins import DecomposePlugins
    from edgec.targets.tvm import whole_layers  # noqa: F401 - registers its pass
    from edgec.targets.x86 import blocked_attention  # noqa: F401 - registers its pass

    load_passes()
    copy = graph.clone()
    steps = [DecomposePlugins(frozenset(plugin_entries())), *(registered()[name]() for name in _STEPS)]
    Pipeline(steps).run(copy.model)
    return copy


def obstacles(model: ir.Model) -> list[str]:
    """Everything of a neutral model that cannot be imported, one line each; empty where all can."""
    found = []
    for value in model.graph.inputs:
        if value.shape is None or not all(isinstance(size, int) for size in value.shape):
            found.append(f"input {value.name!r} has an open size: a library is compiled for one shape")
    taken = convertible() | _WRITTEN_OUT
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            if node.op_type not in taken:
                found.append(f"{node.op_type} {node.name!r} (layer {source_layer(node)})")
        elif node.domain == EDGEC_DOMAIN and node.op_type in plugins():
            continue
        elif node.op_identifier() not in model.functions:
            layer = source_layer(node)
            found.append(f"{node.domain}::{node.op_type} {node.name!r} (layer {layer}): unknown domain")
    return found


_WRITTEN_OUT = frozenset({"Attention", "RotaryEmbedding"})
"""Ops that the passes of the lowering write in others."""
