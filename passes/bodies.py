"""The bodies of `If` and `Loop` as models of their own, for passes that know nothing of bodies.

::

    w, x ── If { then: Relu(MatMul(x, w)) … }      ⇒      model(x; w): Relu(MatMul(x, w))

What a body reads of the graphs around it is an input of that model, or an initializer where it is constant,
so that no pattern reaches across the border: a node outside may run when the body does not, and one inside
may run many times. Afterwards the body reads what it read before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx_ir as ir

NAMES_KEY = "edgec.names"
"""Of a body's model: the names that the graphs around it have taken."""


@contextlib.contextmanager
def alone(body: ir.Graph, outer: ir.Model) -> Iterator[ir.Model]:
    """The body as a model of its own, while the block runs.

    Args:
        body: a body of a node of the model, or of one inside it.
        outer: the model.
    """
    read = _captured(body)
    formals = {value: _formal(value) for value in read}
    _exchange(body, formals)
    # An input that is constant outside is one here too: passes may look at it, and none may change it.
    held = {formal for formal in formals.values() if formal.const_value is not None}
    for formal in formals.values():
        if formal in held:
            body.register_initializer(formal)
        else:
            body.inputs.append(formal)
    model = ir.Model(body, ir_version=outer.ir_version, functions=list(outer.functions.values()))
    known = dict(body.opset_imports)
    body.opset_imports.update(outer.opset_imports)
    model.meta[NAMES_KEY] = _names_around(body, outer)
    try:
        yield model
    finally:
        outer.opset_imports.update(body.opset_imports)
        body.opset_imports.clear()
        body.opset_imports.update(known)
        inputs = [value for value in body.inputs if value not in set(formals.values())]
        body.inputs.clear()
        body.inputs.extend(inputs)
        for formal in held:
            if body.initializers.get(formal.name or "") is formal:
                del body.initializers[formal.name or ""]
        _exchange(body, {formal: value for value, formal in formals.items()})


def _captured(body: ir.Graph) -> list[ir.Value]:
    """What the body and the bodies inside it read of the graphs around, each once, in order."""
    own: set[ir.Value] = set()
    for graph in (body, *body.subgraphs()):
        own.update(graph.inputs, graph.initializers.values())
        own.update(value for node in graph for value in node.outputs)
    read = [value for graph in (body, *body.subgraphs()) for node in graph for value in node.inputs]
    read += [value for graph in (body, *body.subgraphs()) for value in graph.outputs]
    return list(dict.fromkeys(value for value in read if value is not None and value not in own))


def _formal(value: ir.Value) -> ir.Value:
    formal = ir.Value(name=value.name, shape=value.shape, type=value.type)
    if not value.is_graph_input():
        with contextlib.suppress(ValueError):  # a sparse Constant
            formal.const_value = ir.convenience.get_const_tensor(value)
    return formal


def _exchange(body: ir.Graph, by: dict[ir.Value, ir.Value]) -> None:
    """Let the body, and the bodies inside it, read other values."""
    for graph in (body, *body.subgraphs()):
        for node in graph:
            for place, value in enumerate(node.inputs):
                if value in by:
                    node.replace_input_with(place, by[value])
        for place, value in enumerate(graph.outputs):
            if value in by:
                graph.outputs[place] = by[value]


def _names_around(body: ir.Graph, outer: ir.Model) -> set[str]:
    inside = {body, *body.subgraphs()}
    names: set[str] = set()
    for graph in outer.graphs():
        if graph not in inside:
            names.update(value.name for value in graph.inputs if value.name)
            names.update(graph.initializers)
            for node in graph:
                names.update([node.name] if node.name else [])
                names.update(value.name for value in node.outputs if value.name)
    return names
