"""Nodes written so that a parser cannot misread them.

A parser that overlooks an attribute, or takes another default for one that is left out, builds another
network without a word. What each overlooks is data (`versions.toml`), read off its importers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY, source_layer
from edgec.passes.editing import attribute, sizes
from edgec.passes.infra import MatchLog, Pass, register
from edgec.targets.jetson.versions import Dialect, defaults_differ


@register
class Readable(Pass):
    """Write in other words what the parser would misread, and in full what it would fill in otherwise.

    ::

        Constant[value_ints = (2, 3)]    ⇒      Constant[value = tensor (2, 3)]
        x ── Shape[start = 1, end = 2]   ⇒      x ── Shape ── Slice(1, 2); a Constant where the size is known
        x ── Trilu                       ⇒      x ── Trilu[upper = 1]

    Args:
        dialect: what the parser takes; nothing is rewritten where None.
    """

    name = "jetson.readable"

    def __init__(self, dialect: Dialect | None = None) -> None:
        self.dialect = dialect

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place, in the bodies of control flow too."""
        if self.dialect is None:
            return
        opset = model.opset_imports[""]
        for node in list(model.graph.all_nodes()):
            if node.domain != "":
                continue
            rule = _RULES.get(node.op_type)
            if rule is not None and misread(node, self.dialect, opset):
                rule(node)
                log.matched(node)
            for name in defaults_differ().get(node.op_type, ()):
                default = _default(node.op_type, name, opset)
                if default is not None and name not in node.attributes:
                    node.attributes[name] = ir.serde.deserialize_attribute(default)
                    log.matched(node)


def misread(node: ir.Node, dialect: Dialect, opset: int) -> list[str]:
    """The attributes of a node that the parser would overlook or take for something else.

    One that says what it is without it, the default, is none of them.
    """
    if node.domain != "":
        return []
    found = []
    for name in sorted(dialect.misread.get(node.op_type, ())):
        given, default = attribute(node, name), _default(node.op_type, name, opset)
        if given is not None and (default is None or given != onnx.helper.get_attribute_value(default)):
            found.append(name)
    return found


def _default(op_type: str, name: str, opset: int) -> onnx.AttributeProto | None:
    """The attribute as ONNX fills it in; None where it fills in nothing."""
    known = onnx.defs.get_schema(op_type, opset, "").attributes.get(name)
    if known is None or known.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    return known.default_value


def _constant(node: ir.Node) -> None:
    """Before: Constant[value_ints]. After: Constant[value], a tensor of the same int64 numbers."""
    for name in ("value_int", "value_ints"):
        given = node.attributes.pop(name, None)
        if given is not None:
            _hold(node, np.asarray(given.value, np.int64))


def _shape(node: ir.Node) -> None:
    """Before: Shape[start, end](x). After: Slice(Shape(x), start, end), a Constant where it is known."""
    known = sizes(node.inputs[0])
    start, end = attribute(node, "start", 0), attribute(node, "end")
    for name in ("start", "end"):
        node.attributes.pop(name, None)
    part = None if known is None else known[start:end]
    if part is not None and None not in part:
        node.op_type = "Constant"
        node.resize_inputs(0)
        _hold(node, np.asarray(part, np.int64))
        return
    whole = _in_front(node, "Shape", [node.inputs[0]])
    bounds = []
    for number in (start, _FAR if end is None else end, 0):
        bound = _in_front(node, "Constant", [])
        maker = bound.producer()
        assert maker is not None
        _hold(maker, np.array([number], np.int64))
        bounds.append(bound)
    node.op_type = "Slice"
    node.resize_inputs(4)
    for place, value in enumerate((whole, *bounds)):
        node.replace_input_with(place, value)


def _hold(node: ir.Node, array: np.ndarray) -> None:
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _in_front(node: ir.Node, op_type: str, inputs: list[ir.Value | None]) -> ir.Value:
    """The int64 output of a new node in front of another, in the same graph or body."""
    assert node.graph is not None
    place = sum(1 for one in node.graph if (one.name or "").startswith(f"{node.name}/"))
    made = ir.Node("", op_type, inputs, num_outputs=1, name=f"{node.name}/{op_type}_{place}")
    made.outputs[0].name = f"{made.name}_out"
    made.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    made.metadata_props[SOURCE_KEY] = source_layer(node)
    node.graph.insert_before(node, made)
    return made.outputs[0]


_FAR = int(np.iinfo(np.int32).max)

_RULES: dict[str, Callable[[ir.Node], None]] = {"Constant": _constant, "Shape": _shape}
