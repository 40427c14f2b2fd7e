"""Control flow that the graph's constants decide, written out: one side of an `If`, every turn of a loop."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.op_traits import DRAWS
from edgec.passes.canonicalize.evaluate import evaluate
from edgec.passes.editing import Editor, attribute, constant
from edgec.passes.infra import Refusal

_MOST_TURNS = 512
_MOST_NODES = 8192
"""What a loop's turns may come to: an LSTM cell over 200 frames, a decoder layer over 64."""

Visit = Callable[[ir.Node], None]
"""Told of each node that was put into the graph, in order."""


class WritingOut:
    """Writes decided control flow of one graph out, in place.

    ::

        c (true) ── If { then: x ── Conv ── y   else: … } ── z        ⇒      x ── Conv ── z

        3 ── Loop { h ── MatMul ── Tanh ── h' } ── z   ⇒   h ── MatMul ── Tanh ── MatMul ── … ── Tanh ── z

    An exporter leaves an `If` where it could not see that a shape decides it, and a loop where a module
    iterates over its frames. What the turns tell of themselves (scan outputs) is put together by Concat.
    """

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self._counts: collections.Counter[str] | None = None

    def write_out(self, node: ir.Node, visit: Visit) -> bool:
        """Put the node's graphs in its place where constants decide what runs; whether they did.

        Raises:
            Refusal: they do, and written out it would be too large.
        """
        if is_op(node, "If"):
            return self._if(node, visit)
        if is_op(node, "Loop"):
            return self._loop(node, visit)
        return is_op(node, "Scan") and self._scan(node, visit)

    def _if(self, node: ir.Node, visit: Visit) -> bool:
        condition = constant(node.inputs[0])
        if condition is None or condition.size != 1:
            return False
        side = node.attributes["then_branch" if condition.reshape(()) else "else_branch"].as_graph()
        self._become(node, self._place(side, node, visit))
        return True

    def _loop(self, node: ir.Node, visit: Visit) -> bool:
        body = node.attributes["body"].as_graph()
        turns = _turns(node, body)
        if turns is None:
            return False
        self._refuse_large(body, turns)
        carried: list[ir.Value | None] = list(node.inputs[2:])
        told: list[list[ir.Value]] = [[] for _ in node.outputs[len(carried) :]]
        if not turns and any(
            value.uses() or value.is_graph_output() for value in node.outputs[len(carried) :]
        ):
            return False
        for turn in range(turns):
            numbers = (np.array(turn, np.int64), np.array(True))
            first = [self.editor.initializer(array, f"{node.name}_turn") for array in numbers]
            results = self._turn(node, body, [*first, *carried], visit)[1:]
            carried = list(results[: len(carried)])
            for stack, value in zip(told, results[len(carried) :], strict=True):
                stack.append(self._slice(node, value, 0, visit))
        stacks = [self._stack(node, values, 0, visit) if values else None for values in told]
        self._become(node, [*carried, *stacks])
        return True

    def _scan(self, node: ir.Node, visit: Visit) -> bool:
        body = node.attributes["body"].as_graph()
        count = attribute(node, "num_scan_inputs")
        states = len(node.inputs) - count
        scanned = [value for value in node.inputs[states:] if value is not None]
        made = len(node.outputs) - states
        axes = list(attribute(node, "scan_input_axes") or [0] * count)
        backwards = list(attribute(node, "scan_input_directions") or [0] * count)
        out_axes = list(attribute(node, "scan_output_axes") or [0] * made)
        out_backwards = list(attribute(node, "scan_output_directions") or [0] * made)
        if not scanned or scanned[0].shape is None:
            return False
        turns = scanned[0].shape[axes[0]]
        if not isinstance(turns, int) or turns < 1:
            return False
        self._refuse_large(body, turns)
        carried: list[ir.Value | None] = list(node.inputs[:states])
        told: list[list[ir.Value]] = [[] for _ in range(made)]
        for turn in range(turns):
            slices = []
            for value, axis, reverse in zip(scanned, axes, backwards, strict=True):
                at = self.editor.initializer(
                    np.array(turns - 1 - turn if reverse else turn, np.int64), f"{node.name}_turn"
                )
                slices.append(self._insert(node, "Gather", [value, at], visit, axis=axis))
            results = self._turn(node, body, [*carried, *slices], visit)
            carried = list(results[:states])
            for stack, value, axis in zip(told, results[states:], out_axes, strict=True):
                stack.append(self._slice(node, value, axis, visit))
        stacks = [
            self._stack(node, values[::-1] if reverse else values, axis, visit)
            for values, axis, reverse in zip(told, out_axes, out_backwards, strict=True)
        ]
        self._become(node, [*carried, *stacks])
        return True

    def _refuse_large(self, body: ir.Graph, turns: int) -> None:
        nodes = turns * max(1, sum(1 for _ in body.all_nodes()))
        if turns > _MOST_TURNS or nodes > _MOST_NODES:
            raise Refusal(
                f"its {turns} turns come to {nodes} nodes (bounds {_MOST_TURNS} and {_MOST_NODES}), so it "
                "stays a loop"
            )

    def _turn(
        self, node: ir.Node, body: ir.Graph, inputs: Sequence[ir.Value | None], visit: Visit
    ) -> list[ir.Value]:
        copy = body.clone(allow_outer_scope_values=True)
        results = list(copy.outputs)
        for formal, actual in zip(list(copy.inputs), inputs, strict=True):
            assert actual is not None
            ir.convenience.replace_all_uses_with(formal, actual, replace_graph_outputs=True)
            results = [actual if value is formal else value for value in results]
        return self._place(copy, node, visit, results)

    def _place(
        self, body: ir.Graph, node: ir.Node, visit: Visit, results: list[ir.Value] | None = None
    ) -> list[ir.Value]:
        """Move a body's nodes and weights in front of the node; what it gives."""
        results = list(body.outputs) if results is None else results
        body.outputs.clear()
        for name, value in list(body.initializers.items()):
            del body.initializers[name]
            value.name = self._fresh(name)
            self.editor.graph.register_initializer(value)
        inner = list(body)
        body.remove(inner)
        for moved in inner:
            if moved.name:
                moved.name = self._fresh(moved.name)
            for value in moved.outputs:
                if value.name:
                    value.name = self._fresh(value.name)
        self.editor.graph.insert_before(node, inner)
        # A constant is folded while it is visited, which gives its readers another value: the readers that
        # stand for the results see it.
        holders = ir.Node("", "Identity", results, num_outputs=1) if results else None
        for moved in inner:
            if moved.graph is self.editor.graph:
                visit(moved)
        if holders is None:
            return []
        results = [value for value in holders.inputs if value is not None]
        holders.resize_inputs(0)
        return results

    def _insert(
        self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], visit: Visit, **attributes: int
    ) -> ir.Value:
        value = self.editor.node(op_type, inputs, like=node, attributes=attributes)
        maker = value.producer()
        assert maker is not None
        holder = ir.Node("", "Identity", [value])
        visit(maker)
        found = holder.inputs[0]
        assert found is not None
        holder.resize_inputs(0)
        return found

    def _slice(self, node: ir.Node, value: ir.Value, axis: int, visit: Visit) -> ir.Value:
        axes = self.editor.initializer(np.array([axis], np.int64), f"{node.name}_axis")
        return self._insert(node, "Unsqueeze", [value, axes], visit)

    def _stack(self, node: ir.Node, values: Sequence[ir.Value], axis: int, visit: Visit) -> ir.Value:
        return values[0] if len(values) == 1 else self._insert(node, "Concat", values, visit, axis=axis)

    def _become(self, node: ir.Node, results: Sequence[ir.Value | None]) -> None:
        for old, new in zip(node.outputs, results, strict=True):
            if new is not None:
                self.editor.replace(old, new)

    def _fresh(self, name: str) -> str:
        """The name itself where no other scope has it too."""
        if self._counts is None:
            self._counts = collections.Counter()
            for graph in self.editor.model.graphs():
                self._counts.update(value.name for value in graph.inputs if value.name)
                self._counts.update(list(graph.initializers))
                for node in graph:
                    self._counts.update([node.name] if node.name else [])
                    self._counts.update(value.name for value in node.outputs if value.name)
        self._counts[name] += 1
        return name if self._counts[name] <= 2 else self.editor.fresh_name(name)


def _turns(node: ir.Node, body: ir.Graph) -> int | None:
    """How often a Loop runs where constants decide it; None where values of its inputs do.

    What the condition is made of is computed turn by turn: the number of the turn, constants, and carried
    values that are themselves made of these alone.
    """
    most = _number(node.inputs[0])
    if node.inputs[0] is not None and most is None:
        return None
    start = _number(node.inputs[1]) if len(node.inputs) > 1 else None
    if len(node.inputs) > 1 and node.inputs[1] is not None and start is None:
        return None
    if start == 0 or most == 0:
        return 0
    again = body.outputs[0]
    if again is body.inputs[1] or _number(again):
        return most
    needed = _slice_of(again, body)
    if needed is None:
        return None
    nodes, carried = needed
    state: dict[ir.Value, np.ndarray] = {}
    for place in carried:
        initial = constant(node.inputs[place])
        if initial is None:
            return None
        state[body.inputs[place]] = initial
    version = body.opset_imports.get("", node.version or 23)
    turn = 0
    while most is None or turn < most:
        if turn > _MOST_TURNS:
            return None if most is None else most
        values = {**state, body.inputs[0]: np.array(turn, np.int64), body.inputs[1]: np.array(True)}
        for inner in nodes:
            arrays = [None if value is None else _array(value, values) for value in inner.inputs]
            found = evaluate(inner, arrays, version)
            if found is None:
                return None
            values.update(zip(inner.outputs, found, strict=True))
        turn += 1
        if not _array(again, values).reshape(()):
            return turn
        state = {body.inputs[place]: _array(body.outputs[place - 1], values) for place in carried}
    return turn


def _slice_of(value: ir.Value, body: ir.Graph) -> tuple[list[ir.Node], list[int]] | None:
    """The body's nodes that make the value, and which carried inputs they read; None where unknown."""
    places = {formal: place for place, formal in enumerate(body.inputs)}
    needed: set[ir.Node] = set()
    carried: set[int] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        if one in places:
            place = places[one]
            if place > 1 and place not in carried:
                carried.add(place)
                pending.append(body.outputs[place - 1])
            continue
        if constant(one) is not None:
            continue
        maker = one.producer()
        if maker is None or maker.graph is not body or maker.domain not in ("", "ai.onnx"):
            return None
        if maker.op_type in DRAWS or any(
            item.type == ir.AttributeType.GRAPH for item in maker.attributes.values()
        ):
            return None
        needed.add(maker)
        pending += [read for read in maker.inputs if read is not None]
    return [node for node in body if node in needed], sorted(carried)


def _array(value: ir.Value, values: dict[ir.Value, np.ndarray]) -> np.ndarray:
    if value in values:
        return values[value]
    array = constant(value)
    assert array is not None
    return array


def _number(value: ir.Value | None) -> int | None:
    array = constant(value)
    return None if array is None or array.size != 1 else int(array.reshape(()))
