"""GELU, however it was spelled out."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, consumers, producer, same_shape, scalar, sole_consumer
from edgec.passes.fuse.matching import (
    Polynomial,
    matches,
    operand_beside,
    polynomial,
    with_scalar,
)
from edgec.passes.infra import MatchLog, Pass, register

_ERF: Polynomial = {1: math.sqrt(0.5)}
_TANH: Polynomial = {1: math.sqrt(2 / math.pi), 3: 0.044715 * math.sqrt(2 / math.pi)}
_TWICE_TANH: Polynomial = {power: 2 * factor for power, factor in _TANH.items()}
_QUICK: Polynomial = {1: 1.702}


@register
class Gelu(Pass):
    """Fuse GELU into one `Gelu` node (opset 20).

    ::

        x ──┬── Div √2 ── Erf ── Add 1 ── Mul ── Mul ½ ── y      ⇒      x ── Gelu ── y
            └──────────────────────────────┘

        x ──┬── (x + 0.044715 x³) √(2/π) ── Tanh ── Add 1 ── Mul ── Mul ½ ── y
            └─────────────────────────────────────────────────┘      ⇒   x ── Gelu(tanh) ── y

        x ──┬── Mul 1.702 ── Sigmoid ── Mul ── y    ⇒   the same, operands in this order
            └────────────────────────────┘

    The gate is recognised by what it computes: the argument of Erf, Tanh or Sigmoid is read as a
    polynomial of x, and the factors around it may be multiplied in any order, so that every
    association and `sigmoid(2z)` for `(1 + tanh z) / 2` match (Hendrycks and Gimpel,
    arXiv:1606.08415). Quick GELU has no ONNX op; its neutral form is `Mul(x, Sigmoid(Mul(x, 1.702)))`,
    which the engines fuse themselves. `Gelu` nodes that are there already count as matches.
    """

    name = "fuse.gelu"
    enters = True
    after = ("canonicalize.constants", "canonicalize.identity", "canonicalize.exporter")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fuse in place; a match is a GELU of the resulting graph."""
        editor = Editor(model, self.name, log)
        for node in editor.graph:
            if is_op(node, "Gelu"):
                if node.metadata_props.get("edgec.pass") != self.name:
                    log.matched(node)
            elif is_op(node, "Erf", "Tanh", "Sigmoid"):
                _fuse(editor, node)


def _fuse(editor: Editor, gate: ir.Node) -> None:
    """Follow the gate to the product with x and check what it all computes."""
    argument, value = gate.inputs[0], gate.outputs[0]
    assert argument is not None
    slope, offset, x = 1.0, 0.0, None
    path = [gate]
    while True:
        reader = sole_consumer(value)
        if reader is None or not is_op(reader, "Add", "Sub", "Mul", "Div"):
            break
        if x is None and is_op(reader, "Mul") and with_scalar(reader, "Mul") is None:
            other = operand_beside(reader, value)
            found = _multiplicand(gate, argument, other)
            if found is None:
                break
            x, by = found
            slope, offset = slope * by, offset * by
        elif (scaled := with_scalar(reader, "Add", "Sub", "Mul", "Div")) is not None:
            number = scaled[1]
            if reader.op_type in ("Add", "Sub"):
                if x is not None:
                    break
                offset += number if reader.op_type == "Add" else -number
            else:
                if reader.op_type == "Div" and number == 0:
                    break
                factor = number if reader.op_type == "Mul" else 1 / number
                slope, offset = slope * factor, offset * factor
        else:
            break
        path.append(reader)
        value = reader.outputs[0]
        if x is not None and _done(gate, x, slope, offset):
            _replace(editor, gate, argument, x, path[-1])
            return
    _explain(editor, gate, value, x)


def _multiplicand(gate: ir.Node, argument: ir.Value, other: ir.Value | None) -> tuple[ir.Value, float] | None:
    """The x among what multiplies the gate, and its factor: the value itself, or what it is a scaling of."""
    factor, candidate = 1.0, other
    for _ in range(3):
        if candidate is None:
            return None
        found = polynomial(argument, candidate)
        if found is not None and any(matches(found, wanted, candidate.dtype) for wanted in _wanted(gate)):
            return candidate, factor
        scaled = with_scalar(candidate.producer(), "Mul", "Div")
        if scaled is None:
            return None
        node = candidate.producer()
        assert node is not None
        candidate = scaled[0]
        factor *= scaled[1] if node.op_type == "Mul" else 1 / scaled[1]
    return None


def _wanted(gate: ir.Node) -> tuple[Polynomial, ...]:
    return {"Erf": (_ERF,), "Tanh": (_TANH,), "Sigmoid": (_TWICE_TANH, _QUICK)}[gate.op_type]


def _done(gate: ir.Node, x: ir.Value, slope: float, offset: float) -> bool:
    """Whether x times (slope · gate + offset) is GELU."""
    wanted = {1: 1.0} if gate.op_type == "Sigmoid" else {0: 0.5, 1: 0.5}
    return matches({0: offset, 1: slope}, wanted, x.dtype)


def _replace(editor: Editor, gate: ir.Node, argument: ir.Value, x: ir.Value, last: ir.Node) -> None:
    out = last.outputs[0]
    if not same_shape(x, out) and (x.shape is None or out.shape is None or len(x.shape) != len(out.shape)):
        editor.log.missed(gate, f"a constant gives {out.name} more axes than {x.name}")
        return
    if gate.op_type == "Sigmoid" and matches(polynomial(argument, x), _QUICK, x.dtype):
        _order_quick(editor, gate, x, last)
        return
    approximate = "none" if gate.op_type == "Erf" else "tanh"
    made = editor.node(
        "Gelu", [x], like=gate, before=last, attributes={"approximate": approximate}, shape=out.shape
    )
    editor.log.matched(gate)
    editor.replace(out, made)
    editor.prune(last)


def _order_quick(editor: Editor, gate: ir.Node, x: ir.Value, last: ir.Node) -> None:
    """Bring quick GELU to `Mul(x, Sigmoid(Mul(x, 1.702)))`."""
    editor.log.matched(gate)
    scaled = producer(gate.inputs[0], "Mul")
    if last.inputs[0] is x and scaled is not None and scaled.inputs[0] is x:
        return
    number = scalar(scaled.inputs[1]) if scaled is not None else None
    out = last.outputs[0]
    if scaled is None or number is None or scaled.inputs[0] is not x:
        return
    made = editor.node("Mul", [x, gate.outputs[0]], like=gate, before=last, shape=out.shape)
    editor.replace(out, made)
    editor.prune(last)


def _explain(editor: Editor, gate: ir.Node, value: ir.Value, x: ir.Value | None) -> None:
    """Say why a gate that must be a GELU's, or was multiplied with its own x, was left alone."""
    if gate.op_type != "Erf" and x is None:
        return
    if x is not None:
        editor.log.missed(gate, f"the factors around {gate.op_type} are not those of GELU")
    elif sole_consumer(value) is None:
        readers = [f"{reader.op_type} {reader.name}" for reader in consumers(value)]
        if value.is_graph_output():
            readers.append("the caller")
        editor.log.missed(gate, f"{value.name} is read by {', '.join(readers) or 'nobody'}")
    else:
        editor.log.missed(gate, f"no factor beside {value.name} is the x of the gate's argument")
