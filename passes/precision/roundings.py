"""What each rounding to fp16 costs: every one behind a switch, sorted by the nodes that it lies between.

A value is rounded on its way from one node to another where either of the two computes in fp16. To keep a
node in fp32 saves only the roundings towards neighbours that are in fp32 as well, so a cost belongs to the
kinds of nodes at both ends, not to one node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays
from edgec.passes.editing import Editor
from edgec.passes.precision.errors import mean_error
from edgec.passes.precision.half import FULL, HALF, moves, takes_half
from edgec.passes.precision.judge import evaluable

SWITCH = "edgec.rounding"
"""The input of a switched model: one float a class of roundings, above 0 where it rounds."""

FIXED = "what is fp16 in any case"
"""The label of nodes that are not up for choice, such as the heavy products."""

Between = frozenset[str]
"""Labels of the nodes at the ends of a rounding: it is saved where all of them are kept in fp32."""


def costs(
    model: ir.Model, labels: Mapping[str, str], keep: Collection[str], feeds: Sequence[Arrays]
) -> dict[Between, float]:
    """The error that each class of roundings brings alone, over the outputs' spread.

    With all others off, an error is its own alone: beside others it would change which way those round, and
    drown in that. Errors of several classes add up as squares.

    Args:
        model: the lowered fp32 model, its products' weights rounded already.
        labels: by node name, for the nodes that might stay in fp32.
        keep: names of nodes that stay in fp32 in any case.
        feeds: inputs as the model will meet them.
    """
    switched, classes = switched_roundings(model, labels, keep)
    with Evaluator(switched) as evaluator:

        def outputs(on: np.ndarray) -> list[Arrays]:
            return [evaluator.run({**feed, SWITCH: on}) for feed in feeds]

        exact = outputs(np.zeros(len(classes), np.float32))
        return {
            between: mean_error(exact, outputs(np.eye(len(classes), dtype=np.float32)[place]))
            for place, between in enumerate(classes)
        }


def switched_roundings(
    model: ir.Model, labels: Mapping[str, str], keep: Collection[str]
) -> tuple[ir.Model, list[Between]]:
    """An fp32 model with every rounding of its fp16 form behind a switch, and what the switches stand for.

    ::

        a ── Mul ── b ── Add      ⇒      a ── Mul ── b ── Cast(fp16) ── Cast(fp32) ── Where(switch) ── Add

    Args:
        model: the lowered fp32 model, left as it is.
        labels: by node name, for the nodes that might stay in fp32; the others are `FIXED`.
        keep: names of nodes that stay in fp32 in any case.
    """
    copy = model.clone()
    return _Switches(copy, labels, keep).write()


class _Switches:
    def __init__(self, model: ir.Model, labels: Mapping[str, str], keep: Collection[str]) -> None:
        self._model = model
        self._labels, self._keep = labels, frozenset(keep)
        self._editor = Editor(model, "precision.roundings")
        self._switch = ir.Value(name=SWITCH, type=ir.TensorType(FULL))
        self._conditions: dict[Between, ir.Value] = {}
        self._made: dict[tuple[ir.Value, Between], ir.Value] = {}
        self._first = model.graph[0]

    def write(self) -> tuple[ir.Model, list[Between]]:
        graph = self._model.graph
        ends = [self._makers(value) for value in graph.outputs]
        # Found for all before any is written, which changes who makes what.
        found = [
            (node, place, value, self._between(node, value))
            for node in graph
            if self._rounds(node)
            for place, value in enumerate(node.inputs)
            if value is not None and value.dtype == FULL
        ]
        for node, place, value, between in found:
            if between and not (FIXED in between and value.is_initializer()):
                node.replace_input_with(place, self._rounding(value, between, node))
        for place, between in enumerate(ends):
            value = graph.outputs[place]
            maker = value.producer()
            if between and maker is not None and value.dtype == FULL:
                chosen = self._rounding(value, between, maker)
                graph.outputs[place] = chosen
                value.name, chosen.name = self._editor.fresh_name(f"{value.name}/exact"), value.name
        self._switch.shape = ir.Shape([len(self._conditions)])
        graph.inputs.append(self._switch)
        self._editor.remove_dead()
        return evaluable(self._model), list(self._conditions)

    def _rounds(self, node: ir.Node) -> bool:
        """Whether the node computes something that may be rounded; moves are seen through."""
        return not moves(node) and any(value.dtype == FULL for value in node.inputs if value is not None)

    def _label(self, node: ir.Node) -> Between:
        if node.name in self._keep or not takes_half(node):
            return frozenset()
        return frozenset({self._labels.get(node.name or "", FIXED)})

    def _between(self, reader: ir.Node, value: ir.Value) -> Between:
        ends = self._label(reader) | self._makers(value)
        return frozenset({FIXED}) if FIXED in ends else ends

    def _makers(self, value: ir.Value) -> Between:
        """Labels of the nodes that compute the value, seen through those that move it."""
        found: set[str] = set()
        pending, seen = [value], {value}
        while pending:
            maker = pending.pop().producer()
            if maker is None:
                continue
            if not moves(maker):
                found |= self._label(maker)
                continue
            for source in maker.inputs:
                if source is not None and source.dtype == FULL and source not in seen:
                    seen.add(source)
                    pending.append(source)
        return frozenset({FIXED}) if FIXED in found else frozenset(found)

    def _rounding(self, value: ir.Value, between: Between, reader: ir.Node) -> ir.Value:
        key = (value, between)
        if key not in self._made:
            condition = self._condition(between)
            maker = value.producer()
            half = self._cast(value, HALF, reader, maker)
            full = self._cast(half, FULL, reader, half.producer())
            self._made[key] = self._editor.node(
                "Where", [condition, full, value],
                like=reader, after=full.producer(), dtype=FULL, shape=value.shape,
            )  # fmt: skip
        return self._made[key]

    def _cast(self, value: ir.Value, to: ir.DataType, reader: ir.Node, maker: ir.Node | None) -> ir.Value:
        return self._editor.node(
            "Cast",
            [value],
            like=reader,
            # Behind the conditions, which stand in front of all else.
            before=self._first if maker is None else None,
            after=maker,
            attributes={"to": int(to)},
            dtype=to,
            shape=value.shape,
        )

    def _condition(self, between: Between) -> ir.Value:
        if between not in self._conditions:
            editor = self._editor
            place = editor.initializer(np.asarray(len(self._conditions), np.int64), f"{SWITCH}/place")
            zero = editor.initializer(np.asarray(0.0, np.float32), f"{SWITCH}/zero")
            head = self._model.graph[0]
            entry = editor.node(
                "Gather", [self._switch, place], like=head, attributes={"axis": 0}, dtype=FULL, shape=[]
            )
            self._conditions[between] = editor.node(
                "Greater", [entry, zero], like=head, dtype=ir.DataType.BOOL, shape=[]
            )
        return self._conditions[between]
