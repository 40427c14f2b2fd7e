"""Bytes as TensorRT takes them: it knows them at the edges of a network, behind and in front of a Cast."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.editing import Editor, constant, consumers
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.precision.half import moves

_BYTES = (ir.DataType.UINT8, ir.DataType.INT8)
_WIDE = ir.DataType.FLOAT


@register
class BytesAsFloats(Pass):
    """Cast bytes to fp32 in front of what moves them, not behind.

    ::

        image (uint8) ── Transpose ── Cast(fp32) ── Sub ── …
        ⇒
        image (uint8) ── Cast(fp32) ── Transpose ── Sub ── …

    fp32 holds every byte, so no number changes. An output of bytes is cast back at the end. Bytes that
    something quantises or computes with stay as they are.
    """

    name = "jetson.bytes_as_floats"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a node that moves bytes."""
        editor = Editor(model, self.name, log)
        made: dict[ir.Value, ir.Value] = {}
        for node in list(model.graph):
            if not moves(node) or node.outputs[0].dtype not in _BYTES or not _only_moved(node):
                continue
            for place, value in enumerate(node.inputs):
                if value is not None and value.dtype in _BYTES:
                    node.replace_input_with(place, _wide(editor, node, value, made))
            for value in node.outputs:
                _widen(editor, node, value)
            log.matched(node)
        editor.remove_dead()


def _only_moved(node: ir.Node) -> bool:
    """Whether what the node gives is moved and cast alone, up to the graph's outputs."""
    readers = [reader for value in node.outputs for reader in consumers(value)]
    return all(
        reader.graph is node.graph and (reader.op_type == "Cast" or (moves(reader) and _only_moved(reader)))
        for reader in readers
    )


def _wide(editor: Editor, node: ir.Node, value: ir.Value, made: dict[ir.Value, ir.Value]) -> ir.Value:
    if value not in made:
        array = constant(value)
        if array is not None:
            made[value] = editor.initializer(array.astype(_WIDE.numpy()), f"{value.name}/fp32")
        else:
            maker = value.producer()
            made[value] = editor.node(
                "Cast", [value], like=node,
                before=editor.graph[0] if maker is None else None, after=maker,
                attributes={"to": int(_WIDE)}, dtype=_WIDE, shape=value.shape,
            )  # fmt: skip
    return made[value]


def _widen(editor: Editor, node: ir.Node, value: ir.Value) -> None:
    """Let a value be fp32; where the graph gives it, bytes again behind it."""
    narrow = value.dtype
    assert narrow is not None
    readers = consumers(value)
    if value.is_graph_output():
        back = editor.node(
            "Cast", [value], like=node, after=node,
            attributes={"to": int(narrow)}, dtype=narrow, shape=value.shape,
        )  # fmt: skip
        maker = back.producer()
        assert maker is not None
        editor.replace(value, back)
        for reader in (maker, *readers):
            for place, given in enumerate(reader.inputs):
                if given is back:
                    reader.replace_input_with(place, value)
    value.type = ir.TensorType(_WIDE)
    for reader in readers:
        if reader.op_type == "Cast" and reader.outputs[0].dtype == _WIDE:
            editor.replace(reader.outputs[0], value)
