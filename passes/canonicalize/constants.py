"""Constant folding."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY, is_op, source_layer
from edgec.core.op_traits import CREATION, DRAWS, QUANTIZATION
from edgec.passes.bodies import NAMES_KEY
from edgec.passes.canonicalize.evaluate import evaluate
from edgec.passes.canonicalize.shapes import infer_node
from edgec.passes.canonicalize.written_out import WritingOut
from edgec.passes.editing import Editor, attribute, constant, constant_tensor
from edgec.passes.infra import MatchLog, Pass, Refusal, register

_KEPT = DRAWS | QUANTIZATION | {"Dropout"}
"""Another result each time; or says how a weight is stored, which would be lost."""
_REPLICATES = CREATION | {"Expand", "Tile"}
"""Ops that make much of little: `_REPLICATED_BYTES` bounds them."""
_REPLICATED_BYTES = 2**20
"""A causal mask of 512 tokens in fp32 still folds; a broadcast weight does not."""
_GROWN_BYTES = 32 * 2**20
"""A relative-position bias gathered for 577 tokens and 16 heads folds (21 MB)."""
_TOTAL_BYTES = 256 * 2**20
"""What all folding of one run may add to the model."""


Vector = list[int | ir.SymbolicDim]
"""The numbers of an integer vector; a symbol for a size that only the input decides."""


@register
class Constants(Pass):
    """Turn Constant nodes into initializers and compute whatever depends on constants alone.

    ::

        x ── Shape ── Gather(0) ── Concat(·, -1) ─┐
                                 x ─────────── Reshape ── y      ⇒     x ── Reshape([1, -1]) ── y

        table ── Gather(index) ── Reshape ── Transpose ── bias   ⇒     bias

    Shapes are inferred on the way, so a Shape of fixed sizes is a constant, and a Shape whose open
    dimension ends in a Reshape becomes that Reshape's -1. A folded value keeps its name. An `If` or a loop
    that constants decide is written out (`written_out`). Draws of
    random numbers and (de)quantisation are never folded; a result that would make the model grow
    by more than a bound is left to the engine, with the reason.
    """

    name = "canonicalize.constants"
    enters = True
    after = ("canonicalize.functions",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fold in place."""
        fold(Editor(model, self.name, log))


def fold(editor: Editor) -> None:
    """Infer and fold over the graph once, in order."""
    _Folding(editor).run()


class _Folding:
    """One walk over a graph that folds as it infers."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.log = editor.log
        self.inference = MatchLog()
        self.writing = WritingOut(editor)
        self.grown = 0
        self.vectors: dict[ir.Value, Vector] = {}
        """What is known of integer vectors made from shapes with open dimensions."""

    def run(self) -> None:
        """Walk the graph once, in order."""
        for node in self.editor.graph:
            self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        infer_node(node, self.editor.model, self.inference)
        if is_op(node, node.op_type) and self._fold(node):
            self.log.matched(node)
            self.editor.prune(node)

    def _fold(self, node: ir.Node) -> bool:
        if node.op_type in _KEPT:
            return False
        if node.op_type in ("If", "Loop", "Scan"):
            return self._write_out(node)
        self._follow(node)
        if node.op_type == "Reshape" and self._open_reshape(node):
            return True
        if any(value.is_graph_output() for value in node.outputs):
            return False
        if node.op_type in ("Shape", "Size"):
            return self._sizes(node)
        if node.op_type == "Constant":
            tensor = constant_tensor(node.outputs[0])
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                return False
            self._become(node, 0, tensor)
            return True
        return self._compute(node)

    def _write_out(self, node: ir.Node) -> bool:
        if NAMES_KEY in self.editor.model.meta:
            # A body that does not run for these sizes may hold what cannot be: its sides stay as they are.
            return False
        try:
            return self.writing.write_out(node, self._visit)
        except Refusal as refusal:
            self.log.missed(node, refusal)
            return False

    def _become(self, node: ir.Node, index: int, tensor: ir.TensorProtocol) -> None:
        """Put an initializer of the same name in the place of an output."""
        old = node.outputs[index]
        name = old.name
        old.name = self.editor.fresh_name(f"{name}_folded")
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        tensor.name = name
        value.metadata_props.update(old.metadata_props)
        value.metadata_props[SOURCE_KEY] = source_layer(node)
        self.editor.graph.register_initializer(value)
        self.editor.replace(old, value)

    def _become_array(self, node: ir.Node, index: int, array: np.ndarray) -> None:
        self._become(node, index, ir.tensor(np.asarray(array, order="C")))

    def _sizes(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        if value is None or value.shape is None:
            return False
        if node.op_type == "Size":
            if not value.shape.is_static():
                return False
            self._become_array(node, 0, np.array(math.prod(value.shape.numpy()), np.int64))
            return True
        part = list(value.shape)[attribute(node, "start", 0) : attribute(node, "end")]
        if _is_closed(part):
            self._become_array(node, 0, np.array(part, np.int64))
            return True
        self.vectors[node.outputs[0]] = part
        return False

    def _vector(self, value: ir.Value | None) -> Vector | None:
        if value is None:
            return None
        if value in self.vectors:
            return self.vectors[value]
        tensor = constant_tensor(value)
        if tensor is None or tensor.dtype != ir.DataType.INT64 or tensor.size > 16 or len(tensor.shape) > 1:
            return None
        return [int(number) for number in tensor.numpy().reshape(-1)]

    def _follow(self, node: ir.Node) -> None:
        """Follow a half-known shape through the ops that take shapes apart and build them."""
        if node.outputs[0].dtype != ir.DataType.INT64 or not any(
            value in self.vectors for value in node.inputs if value is not None
        ):
            return
        known = [self._vector(value) for value in node.inputs]
        first, second = known[0], known[1] if len(known) > 1 else None
        if first is None:
            return
        if node.op_type in ("Unsqueeze", "Squeeze", "Identity", "Cast"):
            self.vectors[node.outputs[0]] = first
        elif node.op_type == "Concat":
            parts = [part for part in known if part is not None]
            if len(parts) == len(known):
                self.vectors[node.outputs[0]] = [size for part in parts for size in part]
        elif node.op_type == "Gather" and second is not None and _is_closed(second):
            self.vectors[node.outputs[0]] = [first[int(index)] for index in second]  # type: ignore[arg-type]
        elif node.op_type == "Slice":
            bounds = [array for array in map(constant, node.inputs[1:]) if array is not None]
            start, end, _, step = [*(int(array.reshape(-1)[0]) for array in bounds), 0, 1][:4]
            if len(bounds) == len(node.inputs) - 1 and step > 0:
                self.vectors[node.outputs[0]] = first[start:end:step]

    def _open_reshape(self, node: ir.Node) -> bool:
        """A Reshape to a half-known shape: an open size is the input's own (0) or what is left (-1)."""
        source, target = node.inputs[0], node.inputs[1]
        known = self.vectors.get(target) if target is not None else None
        if known is None or source is None or source.shape is None or 0 in known:
            return False
        if attribute(node, "allowzero", 0):
            return False
        own = list(source.shape)
        shape = [
            size if isinstance(size, int) else 0 if axis < len(own) and _is_same(own[axis], size) else -1
            for axis, size in enumerate(known)
        ]
        if shape.count(-1) > 1:
            return False
        vector = self.editor.initializer(np.array(shape, np.int64), f"{node.outputs[0].name}_shape")
        node.replace_input_with(1, vector)
        infer_node(node, self.editor.model, MatchLog())
        maker = target.producer() if target is not None else None
        if maker is not None:
            self.editor.prune(maker)
        return True

    def _compute(self, node: ir.Node) -> bool:
        known = self.vectors.get(node.outputs[0])
        if known is not None and _is_closed(known):
            rank = len(node.outputs[0].shape or ())
            self._become_array(node, 0, np.array(known, np.int64).reshape(-1 if rank else ()))
            return True
        tensors = [constant_tensor(value) for value in node.inputs]
        present = [value for value in node.inputs if value is not None]
        if not present or any(
            tensor is None for value, tensor in zip(node.inputs, tensors, strict=True) if value is not None
        ):
            return False
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            return False
        grows = self._growth(node, [tensor for tensor in tensors if tensor is not None])
        if grows is None:
            return False
        version = node.version or self.editor.model.opset_imports.get("", 1)
        arrays = evaluate(node, [None if t is None else t.numpy() for t in tensors], version)
        if arrays is None:
            self.log.missed(node, "its inputs are constants, and neither evaluator can compute it")
            return False
        self.grown += grows
        for index, array in enumerate(arrays):
            self._become_array(node, index, array)
        return True

    def _growth(self, node: ir.Node, tensors: list[ir.TensorProtocol]) -> int | None:
        """By how many bytes the model grows if the node is folded; None where that is too much."""
        size = 0
        for value in node.outputs:
            if value.dtype is None or value.shape is None or not value.shape.is_static():
                # An unknown size (NonZero): no more than a few times what goes in.
                size += 8 * sum(tensor.nbytes for tensor in tensors)
            else:
                size += math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)
        freed = sum(
            tensor.nbytes
            for value, tensor in zip((v for v in node.inputs if v is not None), tensors, strict=True)
            if len({use.node for use in value.uses()}) == 1
        )
        growth = max(0, size - freed)
        limit = _REPLICATED_BYTES if node.op_type in _REPLICATES else _GROWN_BYTES
        if growth > limit or self.grown + growth > _TOTAL_BYTES:
            self.log.missed(
                node,
                f"folding {node.op_type} would add {growth} bytes to the model "
                f"(bound {min(limit, _TOTAL_BYTES - self.grown)})",
            )
            return None
        return growth


def _is_closed(vector: Vector) -> bool:
    return all(isinstance(size, int) for size in vector)


def _is_same(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    """Whether two open sizes are one: an unnamed symbol equals nothing, not even itself."""
    return isinstance(one, ir.SymbolicDim) and one.value is not None and one == other
