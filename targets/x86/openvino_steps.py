"""One step of a decoder as an OpenVINO model that keeps its caches: prompt and step are one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgec.core.decoder import IDS, SCORES_FROM, Cache
from edgec.targets.x86.cached_attention import DOMAIN, OP

BEAMS = "beam_idx"
"""The order of beams, (1,) int32: OpenVINO's kernel over a cache is found by it."""


def attention_extension() -> Any:
    """What reads `ai.edgec.x86::GroupedAttention`, for `Core.add_extension`."""
    from openvino.frontend.onnx import ConversionExtension

    return ConversionExtension(OP, DOMAIN, _attention)


def _attention(node: Any) -> list[Any]:
    """Grouped keys and values are repeated as OpenVINO's plugin recognises it: it then repeats nothing."""
    from openvino import opset13 as ops

    queries, keys, values, *masks = (node.get_input(index) for index in range(node.get_input_size()))
    groups = node.get_attribute("groups")

    def repeated(value: Any) -> Any:
        if groups == 1:
            return value
        shape = value.get_partial_shape()
        heads, width = shape[1].get_length(), shape[3].get_length()
        apart = ops.unsqueeze(value, ops.constant(np.int64(2)))
        wide = ops.broadcast(
            apart, ops.constant(np.array([1, 1, groups, 1, 1], np.int64)), broadcast_spec="BIDIRECTIONAL"
        )
        whole = np.array([0, heads * groups, -1, width], np.int64)
        return ops.reshape(wide, ops.constant(whole), special_zero=True).output(0)

    # The scale is told behind a mask, and 0 hides nothing.
    mask = masks[0] if masks else ops.constant(np.float32(0)).output(0)
    scale = ops.constant(np.float32(node.get_attribute("scale")))
    found = ops.scaled_dot_product_attention(
        queries, repeated(keys), repeated(values), mask, scale, causal=False
    )
    return list(found.outputs())


def keep_caches(model: Any, caches: Sequence[Cache]) -> None:
    """Turn every past and its present into a state of the model.

    ::

        past ─── Concat ─── present    ⇒    ReadValue(empty) ─ Gather(beam_idx) ─── Concat ─── Assign
        new ──────┘                                                          new ────┘

    OpenVINO's plugin fuses what is on the right with the attention that reads it: the cache lies in memory
    that grows ahead of the tokens, and a step writes its own keys and values only.

    Args:
        model: what OpenVINO read of the step; changed.
        caches: what becomes state, each with the names of its input and output.
    """
    from openvino import Type
    from openvino import opset13 as ops
    from openvino.op.util import Variable, VariableInfo

    beams = ops.parameter([-1], Type.i32, name=BEAMS)
    beams.output(0).get_tensor().set_names({BEAMS})
    axis = ops.constant(0, Type.i64)
    pasts = {name: node for node in model.get_parameters() for name in node.output(0).get_names()}
    presents = {name: node for node in model.get_results() for name in node.input_value(0).get_names()}
    model.add_parameters([beams])
    for cache in caches:
        past, present = pasts[cache.past], presents[cache.present]
        info = VariableInfo()
        info.data_shape, info.data_type = past.get_partial_shape(), past.get_element_type()
        info.variable_id = cache.past
        variable = Variable(info)
        empty = ops.constant(np.zeros((1, cache.heads, 0, cache.width), np.float32))
        held = ops.gather(ops.read_value(empty, variable), beams, axis)
        for reader in past.output(0).get_target_inputs():
            reader.replace_source_output(held.output(0))
        kept = ops.assign(present.input_value(0).get_node(), variable)
        model.add_variables([variable])
        model.add_sinks([kept])
        model.remove_result(present)
        model.remove_parameter(past)
    model.validate_nodes_and_infer_types()


_BEHIND = ("MatMul", "Reshape", "Add", "Multiply", "Transpose", "Convert", "Gather", "Squeeze", "Unsqueeze")
"""What may stand between the last tokens and their scores."""


def open_scores(model: Any) -> bool:
    """Let the caller say for how many of the new tokens scores are given.

    ::

        hidden ── Slice(-1) ── MatMul ── logits    ⇒    hidden ── Slice(scores_from) ── MatMul ── logits

    Args:
        model: a step; changed where it has that form.

    Returns:
        whether it has.
    """
    from openvino import Type
    from openvino import opset13 as ops

    (result,) = model.get_results()
    node = result.input_value(0).get_node()
    while node.get_type_name() in _BEHIND:
        computed = [value for value in node.input_values() if not _is_constant(value.get_node())]
        if not computed:
            return False
        node = computed[0].get_node()
    if node.get_type_name() != "Slice" or not _is_last(node):
        return False
    begin = ops.parameter([1], Type.i64, name=SCORES_FROM)
    begin.output(0).get_tensor().set_names({SCORES_FROM})
    before = node.input_value(1)
    node.input(1).replace_source_output(begin.output(0))
    model.add_parameters([begin])
    model.validate_nodes_and_infer_types()
    if result.get_output_partial_shape(0)[1].is_dynamic:
        return True
    node.input(1).replace_source_output(before)
    model.remove_parameter(begin)
    model.validate_nodes_and_infer_types()
    return False


def _is_constant(node: Any) -> bool:
    while node.get_type_name() in ("Convert", "Reshape", "Multiply", "Transpose") and node.get_input_size():
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _is_last(node: Any) -> bool:
    numbers = [node.input_value(place).get_node() for place in (1, 4)]
    if any(number.get_type_name() != "Constant" for number in numbers):
        return False
    begin, axis = (np.ravel(number.data).tolist() for number in numbers)
    return begin == [-1] and axis in ([1], [-2])


def inputs_of_steps(crosses: Sequence[Cache]) -> tuple[str, ...]:
    """The names of a step's inputs, in the model's order."""
    return (IDS, *(cache.past for cache in crosses), BEAMS)
