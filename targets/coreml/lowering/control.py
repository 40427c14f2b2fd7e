"""`If` as MIL's `cond`, and `Loop` as its `while_loop`.

::

    If(c) { then: … }  { else: … }       ⇒   cond(pred=c) { … } { … }
    Loop(m, c, s) { i, c, s: … }         ⇒   while_loop(i=0, c, s; i < m and c) { …, i + 1, c, s }

Both sides of a `cond` give the same shapes and types, and what a `while_loop` carries keeps its own. MIL's
lists would hold what a loop stacks up, but their length would depend on the data: such loops are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.targets.coreml.lowering.site import Operand, Refusal, narrowed

Walk = Callable[[ir.Graph], list[Operand]]
"""Lowers a body's nodes, and gives what its outputs are."""

Bind = Callable[[Sequence[ir.Value], Sequence[Operand]], None]
"""Says what a body's inputs are."""

_DECIDED = "export the model with its loops unrolled and its branches decided"


class Controls:
    """Lowers the control flow of one walk.

    Args:
        builder: coremltools' Builder.
        walk: lowers a body.
        bind: says what a body's inputs are.
    """

    def __init__(self, builder: Any, walk: Walk, bind: Bind) -> None:
        self.builder = builder
        self.walk = walk
        self.bind = bind

    def lower(self, node: ir.Node, operands: Sequence[Operand | None], stem: str) -> list[Operand]:
        """What an `If` or a `Loop` gives.

        Raises:
            Refusal: MIL has no form of it.
        """
        if node.op_type == "If":
            return self._branch(node, operands[0], stem)
        return self._loop(node, operands, stem)

    def _branch(self, node: ir.Node, condition: Operand, stem: str) -> list[Operand]:
        sides = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        if isinstance(condition, np.ndarray):
            return self.walk(sides[0] if condition.reshape(()) else sides[1])
        given: list[list[Any]] = []

        def side(body: ir.Graph) -> Callable[[], tuple[Any, ...]]:
            def made() -> tuple[Any, ...]:
                results = [self._own(value, body, place) for place, value in enumerate(self.walk(body))]
                given.append(results)
                if len(given) > 1:
                    _demand_same(given)
                return tuple(results)

            return made

        made = self.builder.cond(
            pred=self._scalar(condition, "bool"),
            _true_fn=side(sides[0]),
            _false_fn=side(sides[1]),
            name=stem,
        )
        return list(made) if isinstance(made, (list, tuple)) else [made]

    def _loop(self, node: ir.Node, operands: Sequence[Operand | None], stem: str) -> list[Operand]:
        body = node.attributes["body"].as_graph()
        states = len(body.inputs) - 2
        if len(body.outputs) - 1 > states:
            raise Refusal(
                "it stacks up one result a turn, and a Core ML tensor has no size that depends on the data",
                "carry what the last turn computes, or fix the number of turns to a constant",
            )
        most = operands[0]
        if isinstance(most, np.ndarray):
            most = np.int32(min(int(most.reshape(())), np.iinfo(np.int32).max))
        elif most is not None:
            most = self._scalar(most, "int32")
        first = operands[1] if len(operands) > 1 and operands[1] is not None else np.array(True)
        carried = [self._entered(value, place) for place, value in enumerate(operands[2:])]
        kinds = [(value.dtype, tuple(value.shape)) for value in carried]

        def going(turn: Any, condition: Any, *_: Any) -> Any:
            if most is None:
                # A condition that is handed on as it came has to be made by the block that gives it.
                return self.builder.logical_and(x=condition, y=condition)
            return self.builder.logical_and(x=self.builder.less(x=turn, y=most), y=condition)

        def turned(turn: Any, condition: Any, *values: Any) -> tuple[Any, ...]:
            self.bind(body.inputs, [turn, condition, *values])
            results = self.walk(body)
            again = self._scalar(self._own(results[0], body, 0), "bool")
            states = [self._own(value, body, place + 1) for place, value in enumerate(results[1:])]
            for value, kind in zip(states, kinds, strict=True):
                if (value.dtype, tuple(value.shape)) != kind:
                    raise Refusal(
                        f"what it carries changes from {_words(*kind)} to {_words(value.dtype, value.shape)}",
                        "keep the shape and type of what a loop carries",
                    )
            return self.builder.add(x=turn, y=np.int32(1)), again, *states

        start = self.builder.const(val=np.int32(0))
        condition = (
            self.builder.const(val=np.bool_(first.reshape(())))
            if isinstance(first, np.ndarray)
            else self._scalar(first, "bool")
        )
        made = self.builder.while_loop(
            _cond=going, _body=turned, loop_vars=(start, condition, *carried), name=stem
        )
        return list(made[2:])

    def _entered(self, value: Operand | None, place: int) -> Any:
        if isinstance(value, np.ndarray):
            return self.builder.const(val=narrowed(value, f"input {place + 2}"))
        if value is None or not hasattr(value, "dtype"):
            raise Refusal(f"its input {place + 2} is of more axes than Core ML has", _DECIDED)
        return value

    def _own(self, value: Operand, body: ir.Graph, place: int) -> Any:
        """What a body gives, made by a node of its own block."""
        name = body.outputs[place].name
        if isinstance(value, np.ndarray):
            value = self.builder.const(val=narrowed(value, f"{name!r}"))
        if not hasattr(value, "dtype"):
            raise Refusal(f"its result {name!r} is of more axes than Core ML has", _DECIDED)
        return self.builder.identity(x=value)

    def _scalar(self, value: Any, kind: str) -> Any:
        if len(value.shape):
            value = self.builder.squeeze(x=value)
        from coremltools.converters.mil.mil import types

        if types.builtin_to_string(value.dtype) != kind:
            value = self.builder.cast(x=value, dtype=kind)
        return value


def _demand_same(sides: Sequence[Sequence[Any]]) -> None:
    for one, other in zip(*sides, strict=True):
        if (one.dtype, tuple(one.shape)) != (other.dtype, tuple(other.shape)):
            raise Refusal(
                f"its sides give {_words(one.dtype, one.shape)} and {_words(other.dtype, other.shape)}",
                "let both sides give the same shape and type",
            )


def _words(kind: Any, shape: Sequence[Any]) -> str:
    from coremltools.converters.mil.mil import types

    return f"{types.builtin_to_string(kind)}[{', '.join(map(str, shape))}]"
