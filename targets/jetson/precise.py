"""Precision of a lowered graph: decided on calibration feeds, written into the graph, told to the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from edgec.core.graph import Arrays, Graph
from edgec.passes.manager import Pipeline
from edgec.passes.precision.decide import decide, hot_attentions
from edgec.passes.precision.half import HalfPrecision, clamp_masks
from edgec.targets.jetson.lowering import split_attention
from edgec.targets.jetson.sites import attention_sites

KEPT_KEY = "edgec.fp32"
"""Node metadata: why the node stays in fp32."""

FEEDS = 2
"""Feeds that decide: each is run some tens of times."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What was decided, as the report tells it.

    Attributes:
        layers: reasons by node name.
        error: the typed graph's error against fp32, root of the mean square over the outputs' spread.
        plain_error: likewise with every op in fp16; None where it is not finite.
    """

    layers: dict[str, str]
    error: float
    plain_error: float | None


def decision_feeds(graph: Graph) -> Sequence[Arrays]:
    """Inputs to decide on: the calibration's where there are any, else the examples."""
    return (graph.calibration or tuple(graph.examples))[:FEEDS]


def write_half(model: ir.Model, feeds: Sequence[Arrays], compute_capability: int) -> Kept:
    """Write fp16 into a lowered fp32 model, in place.

    Args:
        model: the lowered model.
        feeds: inputs as the model will meet them.
        compute_capability: of the device, times ten.
    """
    clamp_masks(model)
    split_attention(model, set(hot_attentions(model, feeds)))
    fused = {
        name
        for site in attention_sites(model, compute_capability)
        if not site.obstacle
        for name in site.nodes
    }
    decision = decide(model, feeds, fused=fused)
    for node in model.graph:
        if node.name in decision.keep:
            node.metadata_props[KEPT_KEY] = decision.keep[node.name]
    Pipeline([HalfPrecision(frozenset(decision.keep))]).run(model)
    plain = decision.plain_error if decision.plain_error < float("inf") else None
    return Kept(decision.keep, decision.error, plain)


def kept_nodes(model: ir.Model) -> dict[str, str]:
    """The nodes that stay in fp32, with their reasons."""
    return {
        node.name: node.metadata_props[KEPT_KEY]
        for node in model.graph
        if node.name and KEPT_KEY in node.metadata_props
    }
