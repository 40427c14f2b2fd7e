"""Attention in the words of engines that know products and softmax only."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.masks import Bias, Masks
from edgec.passes.decompose.scale import fold_scale
from edgec.passes.editing import Editor, attribute, constant, producer, rank, sizes
from edgec.passes.infra import MatchLog, Pass, register

_RAW, _SOFTCAPPED, _BIASED, _PROBABILITIES = range(4)
"""`qk_matmul_output_mode`: which inner tensor the op's fourth output shows."""


@register
class DecomposeAttention(Pass):
    """Write `Attention` as two products around a softmax.

    ::

        q ──┐                           q ── Mul(scale) ──┐
        k ── Attention ── y      ⇒      k ── Transpose ── MatMul ── Add(bias) ── Softmax ── MatMul ── y
        v ──┤                                                        │                        │
        mask┘                                                 mask ──┘                        v

    - Inputs of rank 3 are split into heads by Reshape and Transpose, and joined again after.
    - A Transpose that already makes k takes the swap of its last two axes into its own permutation.
    - The scale goes into the linear layer that makes q, or q's constant where q is `x * constant`, else
      onto q, the smallest operand.
    - A boolean mask becomes one bias for all attentions that share it; a causal mask of known sizes is
      a constant. A row without any key gives zeros, as the op says.
    - Fewer key heads than query heads are repeated by Gather.

    Follows the `Attention` of ONNX opsets 23 and 24 as clarified in ONNX 1.23 (bottom-right causal
    alignment, zero rows).
    """

    name = "decompose.attention"
    enters = True

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every `Attention` whose head size is known."""
        editor = Editor(model, self.name, log)
        masks = Masks(editor)
        for node in list(model.graph):
            if not is_op(node, "Attention"):
                continue
            obstacle = _obstacle(node)
            if obstacle is not None:
                log.missed(node, obstacle)
                continue
            _Decomposition(editor, masks, node).write()
            log.matched(node)
            editor.prune(node)
        editor.remove_dead()


def _obstacle(node: ir.Node) -> str | None:
    """Why the node cannot be decomposed; None where it can."""
    query, key = node.inputs[0], node.inputs[1]
    query_rank = rank(query)
    if query_rank not in (3, 4) or rank(key) != query_rank:
        return f"the rank of its queries is {query_rank or 'unknown'}, not 3 or 4"
    query_sizes, key_sizes = sizes(query), sizes(key)
    assert query_sizes is not None
    assert key_sizes is not None
    if query_sizes[-1] is None:
        return "its head size is not known"
    if query_rank == 4 and (query_sizes[1] is None or key_sizes[1] is None):
        return "its numbers of heads are not known"
    if _input(node, 6) is not None:
        return "it has nonpad_kv_seqlen"
    for name in ("left_window_size", "right_window_size"):
        if attribute(node, name, -1) != -1:
            return f"it has {name}"
    mask, keys = sizes(_input(node, 3)), _total_keys(node)
    if mask is not None and mask and keys is not None and mask[-1] not in (1, None, keys):
        return f"its mask covers {mask[-1]} of {keys} keys"
    return None


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _output(node: ir.Node, index: int) -> ir.Value | None:
    if index >= len(node.outputs):
        return None
    value = node.outputs[index]
    return value if value.uses() or value.is_graph_output() else None


def _total_keys(node: ir.Node) -> int | None:
    key, past = sizes(node.inputs[1]), _input(node, 4)
    if key is None or key[-2] is None:
        return None
    if past is None:
        return key[-2]
    past_sizes = sizes(past)
    return None if past_sizes is None or past_sizes[-2] is None else key[-2] + past_sizes[-2]


@dataclasses.dataclass
class _Decomposition:
    editor: Editor
    masks: Masks
    node: ir.Node

    def write(self) -> None:
        """Insert the decomposition and let everyone read it instead of the node."""
        node, editor = self.node, self.editor
        dtype = node.inputs[0].dtype  # type: ignore[union-attr]
        split = rank(node.inputs[0]) == 3
        scale = self._scale_left(split)
        query_heads: Any = attribute(node, "q_num_heads") if split else sizes(node.inputs[0])[1]  # type: ignore[index]
        key_heads: Any = attribute(node, "kv_num_heads") if split else sizes(node.inputs[1])[1]  # type: ignore[index]
        query = self._heads(node.inputs[0], query_heads) if split else node.inputs[0]
        key = self._heads(node.inputs[1], key_heads) if split else node.inputs[1]
        value = self._heads(node.inputs[2], key_heads) if split else node.inputs[2]
        assert query is not None
        assert key is not None
        assert value is not None

        past_key, past_value = _input(node, 4), _input(node, 5)
        if past_key is not None and past_value is not None:
            key = self._op("Concat", [past_key, key], axis=2)
            value = self._op("Concat", [past_value, value], axis=2)
        for index, present in ((1, key), (2, value)):
            output = _output(node, index)
            if output is not None:
                editor.replace(output, self._op("Identity", [present]))
        if query_heads != key_heads:
            key, value = (self._repeated(tensor, key_heads, query_heads) for tensor in (key, value))

        scores = self._op("MatMul", [self._scaled(query, scale), self._transposed(key)])
        shown = {_RAW: scores}
        softcap = attribute(node, "softcap", 0.0)
        if softcap > 0:
            cap = self._number(softcap, dtype)
            scores = self._op("Mul", [self._op("Tanh", [self._op("Div", [scores, cap])]), cap])
        shown[_SOFTCAPPED] = scores
        bias = self.masks.bias(
            node, _input(node, 3), bool(attribute(node, "is_causal", 0)), query, key, past_key
        )
        if bias.value is not None:
            scores = self._op("Add", [scores, bias.value])
        shown[_BIASED] = scores
        shown[_PROBABILITIES] = probabilities = self._softmax(scores, dtype)
        result = self._op("MatMul", [probabilities, value])
        result = self._guarded(result, bias, split)
        inner = _output(node, 3)
        if inner is not None:
            editor.replace(inner, self._op("Identity", [shown[attribute(node, "qk_matmul_output_mode", 0)]]))
        editor.replace(node.outputs[0], result)

    def _scale_left(self, split: bool) -> float:
        """The scale that is not in the weights of the queries' linear layer already."""
        query = self.node.inputs[0]
        width: Any = sizes(query)[-1]  # type: ignore[index]
        head_size = width // attribute(self.node, "q_num_heads") if split else width
        scale = attribute(self.node, "scale") or 1.0 / math.sqrt(head_size)
        if scale == 1.0 or (query is not None and fold_scale(self.editor, query, scale)):
            return 1.0
        return scale

    def _op(self, op_type: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        output = self.editor.node(op_type, inputs, like=self.node, attributes=attributes)
        output.shape = _inferred(op_type, inputs, attributes)
        return output

    def _number(self, number: float, dtype: ir.DataType | None) -> ir.Value:
        array = np.asarray(number, dtype=(dtype or ir.DataType.FLOAT).numpy())
        return self.editor.initializer(array, f"{self.node.name}/number")

    def _heads(self, value: ir.Value | None, heads: int) -> ir.Value:
        """[batch, length, heads * size] → [batch, heads, length, size]."""
        assert value is not None
        batch, length, width = sizes(value) or (None, None, None)
        shape = [batch or 0, length or 0, heads, width // heads if width else -1]
        target = self.editor.initializer(np.asarray(shape, np.int64), f"{self.node.name}/shape")
        split = self.editor.node("Reshape", [value, target], like=self.node)
        split.shape = _reshaped(value, shape)
        return self._op("Transpose", [split], perm=[0, 2, 1, 3])

    def _repeated(self, value: ir.Value, heads: int, wanted: int) -> ir.Value:
        indices = np.repeat(np.arange(heads, dtype=np.int64), wanted // heads)
        index = self.editor.initializer(indices, f"{self.node.name}/heads")
        output = self.editor.node("Gather", [value, index], like=self.node, attributes={"axis": 1})
        if value.shape is not None:
            output.shape = ir.Shape([value.shape[0], wanted, *value.shape[2:]])
        return output

    def _scaled(self, query: ir.Value, scale: float) -> ir.Value:
        if scale == 1.0:
            return query
        maker = producer(query, "Mul")
        if maker is not None:
            for index, operand in enumerate(maker.inputs):
                factor = constant(operand)
                if factor is not None and factor.size == 1:
                    folded = self._number(float(factor.reshape(())) * scale, query.dtype)
                    return self._op("Mul", [maker.inputs[1 - index], folded])  # type: ignore[list-item]
        return self._op("Mul", [query, self._number(scale, query.dtype)])

    def _transposed(self, key: ir.Value) -> ir.Value:
        maker = producer(key, "Transpose")
        order = attribute(maker, "perm") if maker is not None else None
        if maker is None or order is None:
            return self._op("Transpose", [key], perm=[0, 1, 3, 2])
        swapped = [order[0], order[1], order[3], order[2]]
        return self._op("Transpose", [maker.inputs[0]], perm=swapped)  # type: ignore[list-item]

    def _softmax(self, scores: ir.Value, dtype: ir.DataType | None) -> ir.Value:
        precision = attribute(self.node, "softmax_precision")
        if not precision or precision == dtype:
            return self._op("Softmax", [scores], axis=-1)
        wide = ir.DataType(precision)
        cast = self.editor.node("Cast", [scores], like=self.node, attributes={"to": int(wide)}, dtype=wide)
        cast.shape = scores.shape
        soft = self._op("Softmax", [cast], axis=-1)
        back = self.editor.node(
            "Cast", [soft], like=self.node, attributes={"to": int(dtype or 1)}, dtype=dtype
        )
        back.shape = scores.shape
        return back

    def _guarded(self, result: ir.Value, bias: Bias, split: bool) -> ir.Value:
        """Zero the rows without any key; join the heads where they were split."""
        if bias.alive is not None:
            result = self._op("Mul", [result, bias.alive])
        if not split:
            return result
        swapped = self._op("Transpose", [result], perm=[0, 2, 1, 3])
        known = sizes(swapped)
        assert known is not None
        width = known[2] * known[3] if known[2] and known[3] else -1
        shape = [known[0] or 0, known[1] or 0, width]
        target = self.editor.initializer(np.asarray(shape, np.int64), f"{self.node.name}/shape")
        return self.editor.node("Reshape", [swapped, target], like=self.node)


def _inferred(op_type: str, inputs: list[ir.Value], attributes: dict[str, object]) -> ir.Shape | None:
    """Output shape of the few ops written here."""
    first = inputs[0].shape
    if first is None:
        return None
    if op_type == "Transpose":
        return ir.Shape([first[axis] for axis in attributes["perm"]])  # type: ignore[attr-defined]
    if op_type == "MatMul":
        second = inputs[1].shape
        return None if second is None else ir.Shape([*first[:-1], second[-1]])
    if op_type == "Concat":
        past, new = sizes(inputs[0]), sizes(inputs[1])
        length = past[2] + new[2] if past and new and past[2] and new[2] else None
        return ir.Shape([*first[:2], length, first[3]])
    return first.copy()


def _reshaped(value: ir.Value, shape: list[int]) -> ir.Shape:
    known = value.shape
    return ir.Shape(
        [
            (known[axis] if known is not None else None) if size == 0 else size
            for axis, size in enumerate(shape)
        ]
    )
