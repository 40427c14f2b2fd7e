"""The attentions of a lowered graph, and whether TensorRT can run each as one kernel."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.passes.editing import attribute, constant, consumers, producer, rank, sizes, sole_consumer
from edgec.targets.jetson.versions import fused_attention


@dataclasses.dataclass(frozen=True)
class AttentionSite:
    """One attention of a lowered graph.

    Attributes:
        source: the layer of the user's model.
        kind: `native` where it is one node, `pattern` where TensorRT's own fusion finds it, `plugin`.
        nodes: names of its nodes from the first product to the second.
        head_size: width of a head; None where unknown.
        obstacle: why TensorRT runs it in parts; empty where it can run it as one kernel.
    """

    source: str
    kind: str
    nodes: tuple[str, ...]
    head_size: int | None
    obstacle: str = ""


def attention_sites(model: ir.Model, compute_capability: int) -> list[AttentionSite]:
    """Every attention in the forms that lowering leaves: nodes, products around a softmax, plugins.

    The pattern is what TensorRT's documentation gives for its fusion: both operands of the first product
    straight from where they are made, the scale on one of them; at most one addition of a mask; a softmax
    over the last axis that only the second product reads.

    Args:
        model: the lowered model, before or after precision is written into it.
        compute_capability: of the device, times ten.
    """
    found = []
    for node in model.graph:
        if is_op(node, "Attention"):
            found.append(_native(node, compute_capability))
        elif node.domain == EDGEC_DOMAIN and node.op_type.endswith("Attention"):
            found.append(AttentionSite(source_layer(node), "plugin", (node.name or "",), None))
        elif is_op(node, "Softmax"):
            site = _pattern(node, compute_capability)
            if site is not None:
                found.append(site)
    return found


def _native(node: ir.Node, compute_capability: int) -> AttentionSite:
    width = head_size(node)
    obstacle = _head_obstacle(width, compute_capability)
    return AttentionSite(source_layer(node), "native", (node.name or "",), width, obstacle)


def head_size(node: ir.Node) -> int | None:
    """The head size of an `Attention`; None where it is not known."""
    query = sizes(node.inputs[0])
    width = None if query is None else query[-1]
    if width is not None and query is not None and len(query) == 3:
        width //= attribute(node, "q_num_heads")
    return width


def fits_kernel(width: int | None) -> bool:
    """Whether TensorRT has a fused kernel for a head size."""
    return not _head_obstacle(width, fused_attention().compute_capability)


def _pattern(softmax: ir.Node, compute_capability: int) -> AttentionSite | None:
    """The attention around a softmax; None where there is none."""
    axis = attribute(softmax, "axis", -1)
    size = rank(softmax.inputs[0])
    if size is None or axis not in (-1, size - 1):
        return None
    nodes = [softmax]
    before = _through_casts(softmax.inputs[0])
    scores = producer(before, "MatMul")
    obstacle = ""
    added = producer(before, "Add")
    if scores is None and added is not None:
        nodes.insert(0, added)
        scores = next(
            (
                maker
                for value in added.inputs
                if (maker := producer(_through_casts(value), "MatMul")) is not None
            ),
            None,
        )
    if scores is None or any(constant(value) is not None for value in scores.inputs):
        return None
    nodes.insert(0, scores)
    reader = _reader(softmax.outputs[0])
    if reader is None or not is_op(reader, "MatMul"):
        inside = any(is_op(one, "MatMul") for one in consumers(softmax.outputs[0]))
        if not inside:
            return None
        obstacle = f"its probabilities {softmax.outputs[0].name!r} have a second reader"
        reader = next(one for one in consumers(softmax.outputs[0]) if is_op(one, "MatMul"))
    nodes.append(reader)
    if constant(reader.inputs[1]) is not None:
        return None
    query = sizes(scores.inputs[0])
    width = None if query is None else query[-1]
    obstacle = obstacle or _head_obstacle(width, compute_capability)
    if not obstacle and any(
        sole_consumer(one.outputs[0]) is None for one in nodes[:-1] if one is not softmax
    ):
        obstacle = "its scores have a second reader"
    names = tuple(one.name or "" for one in nodes)
    return AttentionSite(source_layer(softmax), "pattern", names, width, obstacle)


def _head_obstacle(width: int | None, compute_capability: int) -> str:
    limits = fused_attention()
    if compute_capability < limits.compute_capability:
        return f"compute capability {compute_capability / 10} is older than {limits.compute_capability / 10}"
    if width is None:
        return "its head size is not known"
    if not limits.smallest_head <= width <= limits.largest_head:
        return f"head size {width} is not within {limits.smallest_head} to {limits.largest_head}"
    if width % limits.multiple:
        return f"head size {width} is no multiple of {limits.multiple}"
    return ""


def _through_casts(value: ir.Value | None) -> ir.Value | None:
    while (cast := producer(value, "Cast")) is not None:
        value = cast.inputs[0]
    return value


def _reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, behind casts."""
    reader = sole_consumer(value)
    while reader is not None and is_op(reader, "Cast"):
        reader = sole_consumer(reader.outputs[0])
    return reader
