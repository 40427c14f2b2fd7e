"""Writing the engine's folder: the model, the plan, the preview's record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.core.bundle import file_sha256, write_json
from edgec.core.dialect import EDGEC_DOMAIN, source_layer
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph
from edgec.core.numerics import GATES, Gate, guarding
from edgec.passes.decompose.quantised import has_pairs
from edgec.plugins.bindings import tensorrt
from edgec.targets.jetson.devices import Device
from edgec.targets.jetson.engine import runnable
from edgec.targets.jetson.plan import (
    MODEL,
    Needs,
    Plan,
    PlanTensor,
    PluginUse,
    Variant,
)
from edgec.targets.jetson.precise import kept_nodes
from edgec.targets.jetson.shapes import shape_profiles
from edgec.targets.jetson.sites import attention_sites

PREVIEW = "preview.json"

OBEY = "obey_precision_constraints"
TF32 = "tf32"

_PROTOBUF_BYTES = 1_900_000_000
"""A protobuf ends at 2 GB; larger weights go to a file beside the model."""

_LARGEST_WORKSPACE = 2**30

_BUILDER_BYTES = 700_000_000
"""What CUDA, cuDNN's and TensorRT's libraries take on a device before any model is loaded."""


def write_model(model: ir.Model, folder: Path) -> str | None:
    """Write `model.onnx`; returns the name of its weights' file, None where they are inside."""
    weights = model_bytes(model)
    finish(model)
    name = Path(MODEL).with_suffix(".weights").name if weights > _PROTOBUF_BYTES else None
    ir.save(model, folder / MODEL, external_data=name)
    return name


def finish(model: ir.Model) -> None:
    """What a model is given before it is written, in place."""
    model.graph.sort()
    model.producer_name, model.producer_version = "edgec", None


def model_bytes(model: ir.Model) -> int:
    """Bytes of a model's weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


def write_plan(
    graph: Graph,
    device: Device,
    precision: str,
    folder: Path,
    weights: str | None,
    variants: tuple[Variant, ...] = (),
) -> Plan:
    """Write `plan.json` of a lowered graph whose model is in the folder."""
    model, dialect = graph.model, device.dialect
    size = model_bytes(model)
    workspace = min(_LARGEST_WORKSPACE, device.memory_bytes // 4)
    plan = Plan(
        tensorrt=device.tensorrt,
        jetpack=device.jetpack,
        cuda=device.cuda,
        compute_capability=device.capability,
        device=device.name,
        model_sha256=file_sha256(folder / MODEL),
        weights=weights,
        weights_sha256=None if weights is None else file_sha256(folder / weights),
        strongly_typed=dialect.strongly_typed,
        flags=builder_flags(graph, device, precision),
        layer_precisions=dict.fromkeys(sorted(kept_nodes(model)), "fp32"),
        profiles=shape_profiles(graph),
        workspace_bytes=workspace,
        plugins=_plugins(model),
        # The model, its optimised copy and the engine at once; the engine and its timing cache on the disk.
        needs=Needs(_BUILDER_BYTES + workspace + 3 * size, 3 * size + 64 * 2**20),
        inputs=_tensors(list(model.graph.inputs), narrow=dialect.narrow_integers),
        outputs=_tensors(list(model.graph.outputs), narrow=dialect.narrow_integers),
        gate=shipped_gate(graph, precision),
        sources=_sources(graph),
        variants=variants,
    )
    plan.write(folder)
    return plan


def write_preview(fields: dict[str, Any], folder: Path) -> None:
    """Write what the preview found, without what differs from run to run."""
    write_json(folder / PREVIEW, fields)


def attention_summary(model: ir.Model, compute_capability: int) -> dict[str, Any]:
    """How many attentions the graph has, and which of them TensorRT runs in parts and why."""
    sites = attention_sites(model, compute_capability)
    return {
        "sites": len(sites),
        "native": sum(site.kind == "native" for site in sites),
        "pattern": sum(site.kind == "pattern" for site in sites),
        "plugin": sum(site.kind == "plugin" for site in sites),
        "in_parts": [{"layer": site.source, "reason": site.obstacle} for site in sites if site.obstacle],
    }


def plugin_summary(model: ir.Model) -> dict[str, Any]:
    """Nodes by op type that plugins run on the device, and what stood for them in the preview."""
    counts: dict[str, int] = {}
    for node in model.graph.all_nodes():
        if node.domain == EDGEC_DOMAIN:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    previewed = "their function bodies: the previewing builder has no plugins" if counts else ""
    return {"nodes": dict(sorted(counts.items())), "previewed_as": previewed}


def builder_flags(graph: Graph, device: Device, precision: str) -> tuple[str, ...]:
    """Builder flags of a weakly typed build: without `obey` it may move kept layers to fp16 for speed."""
    if device.dialect.strongly_typed:
        return ()
    quantised = has_pairs(graph.model)
    lower = ("int8",) if precision == "int8" or quantised else ()
    return lower if precision == "fp32" else (*lower, "fp16", OBEY)


def _sources(graph: Graph) -> dict[str, str]:
    """The user's layer of every node, of the graph and of its variants."""
    return {
        node.name: source_layer(node)
        for model in (*getattr(graph, "others", {}).values(), graph.model)
        for node in model.graph
        if node.name
    }


def _plugins(model: ir.Model) -> tuple[PluginUse, ...]:
    used = sorted({node.op_type for node in model.graph.all_nodes() if node.domain == EDGEC_DOMAIN})
    return tuple(PluginUse(op_type, tensorrt.libraries()[op_type]) for op_type in used)


def _tensors(values: list[ir.Value], *, narrow: bool) -> tuple[PlanTensor, ...]:
    found = []
    for value in values:
        assert value.dtype is not None
        dtype = value.dtype.numpy().name
        shape = tuple(size if isinstance(size, int) else -1 for size in value.shape or ())
        found.append(PlanTensor(value.name or "", shape, "int32" if narrow and dtype == "int64" else dtype))
    return tuple(found)


def shipped_gate(graph: Graph, precision: str) -> Gate:
    """What the device holds the engine to: the gate that the compile itself holds the graph to.

    A reduced graph brings gates of its own, in which a choice between nearly equal tokens may fall otherwise.
    int8 has none: what it shows here guards it.
    """
    gate = graph.gates.get(precision) or GATES.get(precision)
    if gate is not None:
        return gate
    with Evaluator(runnable(graph.model)) as evaluator:
        found = [evaluator.run(feeds) for feeds in graph.examples]
    return guarding(graph.expected.difference(found, GATES["bf16"]))
