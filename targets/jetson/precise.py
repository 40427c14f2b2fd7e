"""Precision of a lowered graph: decided on calibration feeds, written into the graph, told to the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, Graph
from edgec.passes.manager import Pipeline
from edgec.passes.precision.decide import beyond_half, decide, hot_attentions, islands
from edgec.passes.precision.half import HalfPrecision, clamp_masks
from edgec.passes.precision.judge import evaluable
from edgec.passes.precision.quantize import SCHEMES, QuantizeProducts, activation_limits, noisiest, products
from edgec.passes.precision.ranges import calibrate
from edgec.passes.precision.weights import Constants, RoundWeights
from edgec.plugins.bindings import tensorrt
from edgec.plugins.infra import plugins
from edgec.targets.base import Candidate
from edgec.targets.jetson.bodies import with_bodies, write_bodies
from edgec.targets.jetson.lowering import lower, split_attention
from edgec.targets.jetson.sites import attention_sites
from edgec.targets.jetson.versions import Dialect

KEPT_KEY = "edgec.fp32"
"""Node metadata: why the node stays in fp32."""

FEEDS = 3
"""Feeds that decide: each is run some tens of times."""

SHARES = (0.1, 0.25, 0.5)
"""Parts of the products that stay unquantised in further int8 candidates, the worst outliers first."""


@dataclasses.dataclass(frozen=True)
class Half:
    """What was decided for fp16.

    Attributes:
        keep: the nodes that stay in fp32, with the reason.
        hot: those of them that are plugins which read what fp16 does not hold.
        apart: attentions that were written in parts because their scores leave fp16's range.
        weights: by product, its constants rounded.
        error: the typed graph's error against fp32, root of the mean square over the outputs' spread.
        plain_error: likewise with every op in fp16; None where it is not finite.
    """

    keep: dict[str, str]
    hot: dict[str, str]
    apart: frozenset[str]
    weights: Mapping[str, Constants]
    error: float
    plain_error: float | None


def decision_feeds(graph: Graph) -> Sequence[Arrays]:
    """Inputs to decide on: the calibration's where there are any, else the examples."""
    return (graph.calibration or tuple(graph.examples))[:FEEDS]


def write_half(model: ir.Model, feeds: Sequence[Arrays], compute_capability: int) -> Half:
    """Write fp16 into a lowered fp32 model, in place.

    Args:
        model: the lowered model.
        feeds: inputs as the model will meet them.
        compute_capability: of the device, times ten.
    """
    clamp_masks(model)
    attentions = _hot(model, feeds)
    apart = frozenset(node.name or "" for node in attentions)
    split_attention(model, attentions)
    hot = _hot_plugins(model, feeds)
    _write_half_only(model, hot)
    fused = _fused(model, compute_capability)
    bodies, inside = _bodies(model)
    decision = decide(bodies, feeds, fused=fused, full=inside)
    keep = {name: why for name, why in decision.keep.items() if name not in inside} | hot
    plain = decision.plain_error if decision.plain_error < float("inf") else None
    write_decided(model, keep, decision.weights)
    return Half(keep, hot, apart, decision.weights, decision.error, plain)


def prepared(model: ir.Model, decided: Half) -> ir.Model:
    """A lowered fp32 model as `write_decided` takes it, where another of the same network was decided on.

    The model itself is changed, and given back.
    """
    clamp_masks(model)
    named = [node for node in model.graph if is_op(node, "Attention") and node.name in decided.apart]
    split_attention(model, named)
    _write_half_only(model, decided.hot)
    return model


def never_half(model: ir.Model, feeds: Sequence[Arrays]) -> dict[str, str]:
    """The nodes of a prepared model that stay fp32 even where norms and softmax do not, with the reason."""
    bodies, inside = _bodies(model)
    return {name: why for name, why in islands(bodies, feeds).items() if name not in inside}


def write_decided(model: ir.Model, keep: Mapping[str, str], weights: Mapping[str, Constants]) -> None:
    """Write fp16 into a lowered fp32 model whose masks are clamped, as it was decided, in place.

    Args:
        model: the lowered model.
        keep: the nodes that stay in fp32, with the reason.
        weights: constants of products, rounded.
    """
    _mark(model, keep)
    full = frozenset(keep)
    Pipeline([RoundWeights(weights, full), HalfPrecision(full)]).run(model)


def write_int8(
    model: ir.Model,
    feeds: Sequence[Arrays],
    compute_capability: int,
    *,
    scheme: str,
    layers: Collection[str],
    typed: bool,
) -> None:
    """Write int8 products into a lowered fp32 model, and fp16 around them, in place.

    Args:
        model: the lowered model.
        feeds: calibration feeds.
        compute_capability: of the device, times ten.
        scheme: how ranges are taken, one of `quantize.SCHEMES`.
        layers: source layers that are not quantised.
        typed: whether the graph's types are all there is to precision. Elsewhere the graph stays
            fp32 around its Q/DQ pairs, whose ONNX knows fp32 only, and the plan's flags say the rest.
    """
    clamp_masks(model)
    split_attention(model, _hot(model, feeds))
    hot = _hot_plugins(model, feeds[:FEEDS])
    _write_half_only(model, hot)
    limits = activation_limits(evaluable(with_bodies(model)), feeds, scheme)
    fused = _fused(model, compute_capability)
    bodies, inside = _bodies(model)
    decision = decide(bodies, feeds[:FEEDS], fused=fused, full=inside, measure=False)
    keep = {name: why for name, why in decision.keep.items() if name not in inside} | hot
    _mark(model, keep)
    full = {source_layer(one.node) for one in products(model) if one.node.name in keep}
    Pipeline([QuantizeProducts(limits, {*layers, *full})]).run(model)
    if typed:
        Pipeline([HalfPrecision(frozenset(keep))]).run(model)


def int8_candidates(engine: str, form: str, model: ir.Model, graph: Graph) -> list[Candidate]:
    """int8 engines worth trying, the most quantised first.

    Args:
        engine: the engine's kind.
        form: its form.
        model: the graph's model as lowered.
        graph: the neutral graph with calibration feeds.

    Raises:
        RequestError: there is nothing to calibrate on.
    """
    if not graph.calibration:
        raise RequestError(
            "int8 needs inputs as the model will meet them, to take the ranges from",
            fix="give --calib F.npz, or --eval-data F.npz",
        )
    layers = noisiest(model, calibrate(with_bodies(model), graph.calibration[:FEEDS]))
    found = [Candidate(engine, "int8", form, "fp16", scheme) for scheme in SCHEMES]
    for share in SHARES:
        kept = tuple(layers[: max(1, round(share * len(layers)))])
        found.append(Candidate(engine, "int8", form, "fp16", SCHEMES[0], kept))
    return found


def lowered(
    graph: Graph,
    candidate: Candidate,
    dialect: Dialect,
    compute_capability: int,
    *,
    keep: frozenset[str] = frozenset(),
) -> tuple[ir.Model, Half | None]:
    """A neutral graph in a dialect, with a candidate's precision written in, and what fp16 decided.

    Args:
        graph: the neutral graph.
        candidate: precision, and scheme and kept layers of int8.
        dialect: what the TensorRT takes.
        compute_capability: of the device, times ten.
        keep: ops of `ai.edgec` that a plugin runs.
    """
    half = candidate.precision != "fp32"
    model = lower(graph.model, dialect, native_attention=half, keep=keep)
    if candidate.precision == "int8":
        write_int8(
            model,
            graph.calibration,
            compute_capability,
            scheme=candidate.scheme,
            layers=candidate.kept,
            typed=dialect.strongly_typed,
        )
    elif half:
        return model, write_half(model, decision_feeds(graph), compute_capability)
    return model, None


def _hot(model: ir.Model, feeds: Sequence[Arrays]) -> set[ir.Node]:
    names = {node.name for node in hot_attentions(with_bodies(model), feeds)}
    return {node for node in model.graph if is_op(node, "Attention") and node.name in names}


def _bodies(model: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """The model with bodies for plugins, and the names of the bodies' nodes with why they are fp32."""
    bodies = with_bodies(model)
    own = {node.name for node in model.graph}
    inside = {node.name or "" for node in bodies.graph if node.name not in own}
    return bodies, dict.fromkeys(inside, "computed in fp32 inside a plugin")


def _hot_plugins(model: ir.Model, feeds: Sequence[Arrays]) -> dict[str, str]:
    """The plugins' nodes that stay in fp32, as what they read leaves fp16's range, with the reason.

    One that has no kernel in fp32 is written as its body then, which the decision treats node by node.
    """
    found: dict[str, str] = {}
    kernels = tensorrt.cuda_kernels()
    nodes = [node for node in model.graph if node.domain == EDGEC_DOMAIN and node.op_type in kernels]
    read = {
        node: [
            value
            for place, value in enumerate(node.inputs)
            if value is not None and place not in plugins()[node.op_type].full_inputs and value.name
        ]
        for node in nodes
    }
    names = {value.name or "" for values in read.values() for value in values}
    ranges = beyond_half(with_bodies(model), feeds, names) if nodes else {}
    for node in nodes:
        for value in read[node]:
            maker = value.producer()
            if value.name in ranges:
                found[node.name or ""] = f"{value.name!r} {ranges[value.name or '']}"
            elif maker is not None and maker.name in found:
                # With bodies in their place, results of plugins have other names.
                found[node.name or ""] = found[maker.name or ""]
    return found


def _write_half_only(model: ir.Model, hot: Collection[str]) -> None:
    """Write hot plugins that have no kernel in fp32 as their bodies, in place."""
    kernels = tensorrt.cuda_kernels()
    half_only = [
        node
        for node in model.graph
        if node.domain == EDGEC_DOMAIN
        and node.op_type in kernels
        and "float32" not in kernels[node.op_type].types
    ]
    write_bodies(model, [node for node in half_only if node.name in hot])


def _fused(model: ir.Model, compute_capability: int) -> set[str]:
    sites = attention_sites(model, compute_capability)
    return {name for site in sites if not site.obstacle for name in site.nodes}


def _mark(model: ir.Model, keep: Mapping[str, str]) -> None:
    for node in model.graph:
        reason = keep.get(node.name or "")
        if reason is not None:
            node.metadata_props[KEPT_KEY] = reason


def kept_nodes(model: ir.Model) -> dict[str, str]:
    """The nodes that stay in fp32, with their reasons."""
    return {
        node.name: node.metadata_props[KEPT_KEY]
        for node in model.graph
        if node.name and KEPT_KEY in node.metadata_props
    }
