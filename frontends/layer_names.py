"""Debug handles: every node learns the name of the user's layer it came from."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection

import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def name_layers(model: ir.Model, *, modules: Collection[str] = (), wrapper: str = "") -> None:
    """Give every node a unique name and its source layer, and drop all other metadata.

    The other metadata (stack traces, graph signatures) carries paths of the machine that exported.

    Args:
        model: the model, edited in place.
        modules: the names of the source's modules, where it has any.
        wrapper: attribute under which the exported wrapper held the source; taken off all names.
    """
    nodes = list(model.graph.all_nodes())
    layers = {node: _own_layer(node, modules, wrapper) for node in nodes}
    for node in nodes:
        node.doc_string = None
        node.metadata_props.clear()
    _name_nodes(nodes)
    _inherit(nodes, layers)
    for node in nodes:
        node.metadata_props[SOURCE_KEY] = layers[node] or node.name or node.op_type
        for value in node.outputs:
            value.doc_string = None
            value.metadata_props.clear()
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in [*graph.inputs, *graph.outputs, *graph.initializers.values()]:
            value.metadata_props.clear()
            value.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None


def _own_layer(node: ir.Node, modules: Collection[str], wrapper: str) -> str:
    """The layer the node itself names; empty where it names none."""
    known = node.metadata_props.get(SOURCE_KEY)
    if known:
        return known
    scopes = node.metadata_props.get(_SCOPES_KEY)
    if scopes is not None:
        return _dynamo_layer(scopes, wrapper)
    if modules and node.name and node.name.startswith("/"):
        return torchscript_layer(node.name, modules, wrapper)
    if modules:
        return ""
    return node.name or f"{node.op_type}:{node.outputs[0].name}"


def _dynamo_layer(scopes: str, wrapper: str) -> str:
    """The deepest module path of `['', 'blocks', 'blocks.0', 'add_1']`; the op where that is the root."""
    *paths, operation = ast.literal_eval(scopes)
    deepest = _without_wrapper(paths[-1], wrapper) if paths else ""
    return deepest or operation


def _without_wrapper(path: str, wrapper: str) -> str:
    if not wrapper:
        return path
    return "" if path == wrapper else path.removeprefix(f"{wrapper}.")


def torchscript_layer(name: str, modules: Collection[str], wrapper: str = "") -> str:
    """The module path in a TorchScript node name.

    `/blocks/blocks.0/attn/qkv/MatMul` is `blocks.0.attn.qkv`: a component that repeats the one before
    it with a suffix is an entry of a container. A module that is called again has `_1` after its name.

    Args:
        name: the node's name.
        modules: the names of the source's modules.
        wrapper: attribute under which the exported wrapper held the source.
    """
    *scopes, operation = name.strip("/").split("/")
    if wrapper and scopes and scopes[0] == wrapper:
        scopes = scopes[1:]
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path[-1] = scope
        else:
            path.append(scope)
        joined = ".".join(path)
        if joined not in modules:
            unnumbered = re.sub(r"_\d+$", "", joined)
            if unnumbered in modules:
                path = [*path[:-1], re.sub(r"_\d+$", "", path[-1])]
    return ".".join(path) or operation


def _name_nodes(nodes: list[ir.Node]) -> None:
    taken: Counter[str] = Counter()
    names = {node.name for node in nodes if node.name}
    for node in nodes:
        stem = node.name or f"{node.op_type}_{next((v.name for v in node.outputs if v.name), '')}"
        name = stem
        while taken[name] or (name != node.name and name in names):
            taken[stem] += 1
            name = f"{stem}_{taken[stem]}"
        taken[name] += 1
        node.name = name


def _inherit(nodes: list[ir.Node], layers: dict[ir.Node, str]) -> None:
    """Nodes the exporter made up (folded constants, shape arithmetic) belong to whom they feed."""
    for node in reversed(nodes):
        if not layers[node]:
            readers = (use.node for value in node.outputs for use in value.uses())
            layers[node] = next((layers[reader] for reader in readers if layers.get(reader)), "")
    for node in nodes:
        if not layers[node]:
            makers = (value.producer() for value in node.inputs if value is not None)
            layers[node] = next((layers[maker] for maker in makers if maker and layers.get(maker)), "")
