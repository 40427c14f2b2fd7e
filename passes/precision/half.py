"""fp16 written into the graph, with chosen nodes kept in fp32."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.op_traits import MOVEMENT
from edgec.passes.editing import Editor, constant
from edgec.passes.infra import MatchLog, Pass, register
from edgec.plugins.infra import plugins

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT

LARGEST = 65504.0
"""The largest finite fp16."""

MASKED = -3e4
"""What stands for minus infinity where fp16 has no such number: far under every score, and finite when
another mask is added to it."""


@register
class HalfPrecision(Pass):
    """Write fp16 into an fp32 graph.

    ::

        x ── MatMul(W) ── Softmax ── y
        ⇒
        x ── Cast(fp16) ── MatMul(W as fp16) ── Cast(fp32) ── Softmax ── y

    Inputs and outputs of the graph keep their types. A value is cast once for all its readers. Nodes that
    move values compute in the type of what they move. What ONNX defines for fp32 alone stays there, and so do
    the sizes and scores that a plugin's op takes and gives.

    Args:
        keep: names of the nodes that stay in fp32.
    """

    name = "precision.half"
    exact = False

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        self.keep = keep

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a node that computes in fp16."""
        editor = Editor(model, self.name, log)
        writer = _Writer(editor)
        types = node_types(model, self.keep)
        for node in list(model.graph):
            wanted = types.get(node)
            if wanted is None:
                continue
            writer.retype(node, wanted)
            if wanted == HALF:
                log.matched(node)
        writer.restore_outputs()
        editor.remove_dead()


def node_types(model: ir.Model, keep: frozenset[str]) -> dict[ir.Node, ir.DataType]:
    """What each node with floating operands computes in; nodes without any are left out."""
    types: dict[ir.Node, ir.DataType] = {}
    for node in model.graph:
        if not _floats(node):
            continue
        if node.name in keep or not takes_half(node):
            types[node] = FULL
        elif moves(node):
            maker = _data(node).producer() if node.inputs else None
            types[node] = types.get(maker, HALF) if maker is not None else HALF
        else:
            types[node] = HALF
    # Behind an fp32 maker and before fp16 readers alone, a move is cheaper after the cast.
    for node in reversed(list(model.graph)):
        if types.get(node) == FULL and moves(node) and node.name not in keep:
            readers = [use.node for value in node.outputs for use in value.uses()]
            if readers and all(types.get(reader) == HALF for reader in readers):
                types[node] = HALF
    return types


def moves(node: ir.Node) -> bool:
    """Whether the node moves values and computes none."""
    return node.domain == "" and node.op_type in MOVEMENT


def takes_half(node: ir.Node) -> bool:
    """Whether the op may compute in fp16: its first floating result may have that type."""
    if node.domain == EDGEC_DOMAIN:
        return True
    if any(isinstance(one.value, ir.Graph) for one in node.attributes.values()):
        return False
    if node.op_type in ("Cast", "Range", "ConstantOfShape", "Constant", "EyeLike", "NonMaxSuppression"):
        # Numbers that come from or go to integers are positions and counts: they stay exact.
        return False
    allowed = _half_places(node.op_type, len(node.inputs), _opset(node))
    return bool(allowed)


def _opset(node: ir.Node) -> int:
    graph = node.graph
    return 0 if graph is None else graph.opset_imports.get("", 0)


@functools.cache
def _half_places(op_type: str, inputs: int, opset: int) -> frozenset[int]:
    """Inputs of a standard op that may be fp16 instead of fp32."""
    if not onnx.defs.has(op_type):
        return frozenset()
    schema = onnx.defs.get_schema(op_type, opset, "") if opset else onnx.defs.get_schema(op_type)
    types = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}
    places = set()
    for place in range(inputs):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if "tensor(float16)" in types.get(formal.type_str, ()):
            places.add(place)
    return frozenset(places)


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _floats(node: ir.Node) -> bool:
    values = [*(value for value in node.inputs if value is not None), *node.outputs]
    return any(value.dtype in (FULL, HALF) for value in values)


class _Writer:
    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._outputs = {value: value.dtype for value in editor.graph.outputs}

    def retype(self, node: ir.Node, wanted: ir.DataType) -> None:
        """Give a node's floating operands the type, and its outputs with them."""
        plugin = plugins().get(node.op_type) if node.domain == EDGEC_DOMAIN else None
        places = (
            frozenset(range(len(node.inputs))) - (plugin.full_inputs if plugin else frozenset())
            if node.domain == EDGEC_DOMAIN
            else _half_places(node.op_type, len(node.inputs), _opset(node))
        )
        for place, value in enumerate(node.inputs):
            if value is None or value.dtype not in (FULL, HALF):
                continue
            here = wanted if place in places else FULL
            if value.dtype != here:
                node.replace_input_with(place, self._as(value, here, node))
        self._inner(node)
        if wanted == HALF:
            for place, value in enumerate(node.outputs):
                if value.dtype == FULL and not (plugin and place in plugin.full_outputs):
                    value.type = ir.TensorType(HALF)

    def restore_outputs(self) -> None:
        """Let the graph's outputs keep their types."""
        for value, dtype in self._outputs.items():
            if value.dtype == dtype or dtype is None:
                continue
            maker = value.producer()
            assert maker is not None
            wide = self._editor.node(
                "Cast",
                [value],
                like=maker,
                after=maker,
                attributes={"to": int(dtype)},
                dtype=dtype,
                shape=value.shape,
            )
            cast = wide.producer()
            assert cast is not None
            inner_type = value.type
            self._editor.replace(value, wide)
            cast.replace_input_with(0, value)
            wide.type, value.type = ir.TensorType(dtype), inner_type

    def _as(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        key = (value, dtype)
        if key not in self._casts:
            self._casts[key] = self._cast(value, dtype, reader)
        return self._casts[key]

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        array = constant(value)
        if array is not None and value.is_initializer():
            return self._editor.initializer(rounded(array) if dtype == HALF else array, f"{value.name}/fp16")
        maker = value.producer()
        # Behind the maker, so that every later reader may share it.
        first = self._editor.graph[0] if maker is None else None
        return self._editor.node(
            "Cast",
            [value],
            like=maker or reader,
            before=first,
            after=maker,
            attributes={"to": int(dtype)},
            dtype=dtype,
            shape=value.shape,
        )

    def _inner(self, node: ir.Node) -> None:
        """Bodies read outer values as they were: in fp32."""
        for one in node.attributes.values():
            if not isinstance(one.value, ir.Graph):
                continue
            own = {value for inner in one.value.all_nodes() for value in inner.outputs}
            for inner in one.value.all_nodes():
                for place, value in enumerate(inner.inputs):
                    if value is not None and value not in own and value.dtype == HALF:
                        inner.replace_input_with(place, self._as(value, FULL, node))


def clamp_masks(model: ir.Model) -> None:
    """Let constants that stand for minus infinity fit into fp16, in an fp32 model, in place.

    A mask of -1e30 or -3.4e38 would keep its addition out of fp16; behind a softmax -3e4 hides a key as well.
    """
    editor = Editor(model, "precision.half")
    for value in list(model.graph.initializers.values()):
        if value.dtype != FULL or value.is_graph_input():
            continue
        array = constant(value)
        if array is None or not (array <= -LARGEST).any():
            continue
        clamped = np.where(array <= -LARGEST, np.float32(MASKED), array)
        replacement = editor.initializer(clamped, f"{value.name}/finite")
        ir.convenience.replace_all_uses_with(value, replacement)
    editor.remove_dead()


def rounded(array: np.ndarray) -> np.ndarray:
    """An fp32 array in fp16; what stands for minus infinity stays finite."""
    masked = array <= -LARGEST
    if array.size and masked.any():
        array = np.where(masked, np.float32(MASKED), array)
    with np.errstate(over="ignore"):
        return array.astype(np.float16)
