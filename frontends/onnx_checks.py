"""What must hold of an ONNX graph before anything is done with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import RequestError
from edgec.core.op_traits import DRAWS

_WEIGHT_INPUTS = {"MatMul": (0, 1), "Gemm": (0, 1, 2), "Conv": (1, 2), "ConvTranspose": (1, 2)}
"""Inputs where an infinite value is never meant; elsewhere -inf is a mask."""

_CHUNK = 1 << 24


def check(model: ir.Model, where: str) -> None:
    """Check ops, wiring and weights of a model whose functions are inlined.

    Raises:
        RequestError: an op or domain is unknown, an op is random, a value is read that nothing makes, the
            graph has a cycle, or a weight is NaN or infinite.
    """
    _check_ops(model, where)
    for graph in model.graphs():
        _check_wiring(graph, where)
    _check_weights(model, where)


def label(node: ir.Node) -> str:
    """How a message names a node."""
    made = node.outputs[0].name if node.outputs else ""
    return f"{node.name or made!r} ({node.op_type})"


def _check_ops(model: ir.Model, where: str) -> None:
    for node in model.graph.all_nodes():
        if not node.outputs:
            raise RequestError(
                f"node {label(node)} has no output",
                where=where,
                fix="export the model again; this file is broken",
            )
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = model.opset_imports.get(node.domain, model.opset_imports.get(domain))
        if domain == EDGEC_DOMAIN:
            continue
        if domain == "com.microsoft" and node.op_type == "DynamicQuantizeLSTM":
            raise RequestError(
                f"node {label(node)} rounds its state to 8 bits at every step, by that step's own range: "
                "only ONNX Runtime does so, and an LSTM in floats is no equal of it",
                where=where,
                fix="give the model as it was before it was quantised, or leave LSTM out of the "
                "op_types_to_quantize of ONNX Runtime's quantize_dynamic",
            )
        if domain == "com.microsoft":
            raise RequestError(
                f"node {label(node)} is of the domain com.microsoft, which only ONNX Runtime knows",
                where=where,
                fix="give the model as it was before ONNX Runtime optimised or quantised it",
            )
        if domain not in ("", "ai.onnx.ml"):
            raise RequestError(
                f"node {label(node)} is of the unknown domain {domain!r}, "
                "and the file defines no such function",
                where=where,
                fix="export the model with standard ops only",
            )
        if domain == "" and node.op_type in DRAWS:
            raise RequestError(
                f"node {label(node)} draws random numbers, so no two runs of the model compare",
                where=where,
                fix="export the model without sampling or noise, or make the numbers an input",
            )
        latest = onnx.defs.onnx_opset_version() if domain == "" else None
        if opset is None:
            raise RequestError(
                f"node {label(node)} is of a domain whose opset the file does not state", where=where
            )
        if latest is not None and opset > latest:
            raise RequestError(
                f"the file has opset {opset}, and the installed onnx knows up to {latest}",
                where=where,
                fix="export the model with opset 23 or older",
            )
        if not onnx.defs.has(node.op_type, opset, domain):
            ops = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == domain}
            near = difflib.get_close_matches(node.op_type, ops, n=1)
            if node.op_type in ops:
                since = onnx.defs.get_schema(node.op_type, domain).since_version
                fix = f"the op needs opset {since}; export the model with that" if since > opset else None
            else:
                fix = f"did you mean {near[0]}?" if near else "export the model with standard ops only"
            raise RequestError(f"node {label(node)} is no op of ONNX opset {opset}", where=where, fix=fix)


def _check_wiring(graph: ir.Graph, where: str) -> None:
    for node in graph:
        for value in node.inputs:
            if value is not None and not _is_made(value):
                raise RequestError(
                    f"node {label(node)} reads {value.name!r}, which nothing makes",
                    where=where,
                    fix="export the model again; this file is broken",
                )
    for value in graph.outputs:
        if not _is_made(value):
            raise RequestError(
                f"nothing makes the output {value.name!r}",
                where=where,
                fix="export the model again; this file is broken",
            )
    try:
        graph.sort()
    except ValueError as error:
        # A graph is sorted with its subgraphs: the cycle may lie in one of them.
        cycles = (_cycle(inner) for inner in (graph, *graph.subgraphs()))
        nodes = next((nodes for nodes in cycles if nodes), [])
        along = ": " + " -> ".join(label(node) for node in nodes) if nodes else " through its subgraphs"
        raise RequestError(
            f"the graph has a cycle{along}",
            where=where,
            fix="export the model again; this file is broken",
        ) from error


def _is_made(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _cycle(graph: ir.Graph) -> list[ir.Node]:
    """Nodes along one cycle, none where there is none: walk back from any node that never becomes ready."""
    left = {node: set(_makers(node, graph)) for node in graph}
    while ready := [node for node, makers in left.items() if not makers]:
        for node in ready:
            del left[node]
        for makers in left.values():
            makers.difference_update(ready)
    if not left:
        return []
    node = next(iter(left))
    seen: list[ir.Node] = []
    while node not in seen:
        seen.append(node)
        node = next(maker for maker in left[node] if maker in left)
    return [*seen[seen.index(node) :], node][::-1]


def _makers(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Node]:
    for value in _read(node):
        maker = None if value is None else value.producer()
        if maker is not None and maker.graph is graph:
            yield maker


def _read(node: ir.Node) -> Iterator[ir.Value | None]:
    """Values that a node reads, those that its subgraphs take from outside among them."""
    yield from node.inputs
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            for inner in (
                attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else [attribute.as_graph()]
            ):
                for within in inner:
                    yield from _read(within)
                yield from inner.outputs


def _check_weights(model: ir.Model, where: str) -> None:
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None and value.const_value.dtype.is_floating_point():
                _check_tensor(name, value, value.const_value, where)
        for node in graph:
            held = node.attributes.get("value")
            if node.op_type == "Constant" and held is not None and held.type == ir.AttributeType.TENSOR:
                tensor = held.as_tensor()
                if tensor.dtype.is_floating_point():
                    _check_tensor(node.outputs[0].name or "", node.outputs[0], tensor, where)


def _check_tensor(name: str, value: ir.Value, tensor: ir.TensorProtocol, where: str) -> None:
    array = np.asarray(tensor.numpy()).reshape(-1)
    for start in range(0, array.size, _CHUNK):
        chunk = array[start : start + _CHUNK]
        if bool(np.isfinite(chunk).all()):
            continue
        if bool(np.isnan(chunk).any()):
            raise RequestError(
                f"the weight {name!r} holds NaN", where=where, fix="check the training run or the export"
            )
        if any(use.idx in _WEIGHT_INPUTS.get(use.node.op_type, ()) for use in value.uses()):
            raise RequestError(
                f"the weight {name!r} holds infinity", where=where, fix="check the training run or the export"
            )
