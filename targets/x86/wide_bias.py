"""Attention's bias in a shape that OpenVINO computes rightly in bf16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, producer, sizes
from edgec.passes.infra import MatchLog, Pass, register


@register
class WideBias(Pass):
    """Repeat a bias that is one row for all heads and queries.

    ::

        scores ── Add(bias [1,1,1,T]) ── Softmax ── y
        ⇒
        scores ── Add(bias + zeros [1,H,1,1]) ── Softmax ── y

    OpenVINO 2026.4 fuses products, bias and softmax into one kernel, and in bf16 that kernel reads
    such a row wrongly: results of 1e38 or NaN. A row a head is read rightly. Zeros are added because
    OpenVINO removes an Expand in front of an Add.
    """

    name = "x86.wide_bias"
    after = ("decompose.attention",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Repeat the bias of every softmax over a product; those that share one share the repeated one."""
        editor = Editor(model, self.name, log)
        repeated: dict[tuple[ir.Value, int], ir.Value] = {}
        for node in list(model.graph):
            added = producer(node.inputs[0], "Add") if is_op(node, "Softmax") else None
            if added is None:
                continue
            for index, bias in enumerate(added.inputs):
                scores = added.inputs[1 - index]
                if producer(scores, "MatMul") is None or bias is None or not _is_row(bias):
                    continue
                shape = sizes(scores)
                if shape is None or len(shape) != 4 or shape[1] is None:
                    continue
                # One head: a row a query is as good, where the number of queries is known.
                wide = (1, shape[1], 1, 1) if shape[1] > 1 else (1, 1, shape[2] or 1, 1)
                key = bias, max(wide)
                if key not in repeated:
                    zeros = np.zeros(wide, (bias.dtype or ir.DataType.FLOAT).numpy())
                    held = editor.initializer(zeros, f"{added.name}/zeros")
                    repeated[key] = editor.node("Add", [bias, held], like=added)
                added.replace_input_with(index, repeated[key])
                log.matched(added)
                break


def _is_row(bias: ir.Value) -> bool:
    shape = sizes(bias)
    return shape is not None and all(size == 1 for size in shape[:-1])
