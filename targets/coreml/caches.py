"""Caches of keys and values that a decoder is fed and gives back, found by structure; they become states.

A decoder exported with its cache outside takes the past and returns the present:

    past ─┐                                        past ─┐
          Concat (along the sequence) ─ present          ScatterND (at a position) ─ present
    new ──┘        └ attention                     new ──┘        └ attention

    (1) the present is longer than the past        (2) both have one shape

Core ML 8 (iOS 18) keeps such a tensor on the device between calls, as a state of fixed shape that starts
with zeros. In (2) the state is the present. In (1) it is the newest part of it, as long as the past: a
window that slides, as a caller would cut the present before feeding it back. What does not count yet in
a window that is not full is for the model's own mask to hide, as it is where the caller feeds zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.errors import JobError
from edgec.core.graph import Arrays, Graph

STEPS = 6
"""Calls in a row that the verification makes, from an empty cache on."""

_UPDATES = ("ScatterND", "ScatterElements", "TensorScatter")


@dataclasses.dataclass(frozen=True)
class Cache:
    """One tensor that stays on the device.

    Attributes:
        past: the graph's input.
        present: the graph's output.
        axis: along which the present is longer than the past; None where both have one shape.
        shape: the past's shape.
        positions: the integer inputs that say where the new part goes.
    """

    past: str
    present: str
    axis: int | None
    shape: tuple[int | str, ...]
    positions: tuple[str, ...] = ()

    def kept(self, present: np.ndarray) -> np.ndarray:
        """What the state holds after a call that gave this present, in fp16's values."""
        if self.axis is not None:
            size = self.shape[self.axis]
            assert isinstance(size, int)
            present = np.take(
                present, np.arange(present.shape[self.axis] - size, present.shape[self.axis]), self.axis
            )
        return present.astype(np.float16).astype(present.dtype)


def find_caches(model: ir.Model) -> list[Cache]:
    """The caches of a model, in the order of its inputs; empty where it has no other input."""
    graph = model.graph
    outputs = {value: value.name or "" for value in graph.outputs}
    found = []
    for value in graph.inputs:
        cache = _cache(value, outputs)
        if cache is not None:
            found.append(cache)
    return found if len(found) < len(graph.inputs) else []


def _cache(past: ir.Value, outputs: dict[ir.Value, str]) -> Cache | None:
    if past.shape is None or past.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    shape = _sizes(past)
    joined = _joined(past) if 3 <= len(shape) <= 5 else None
    if joined is None:
        return None
    present = _as_output(joined.present, outputs)
    # A present that the model itself does not read is no memory.
    if present is None or not joined.is_read:
        return None
    grown = _sizes(present)
    apart = [axis for axis, (old, new) in enumerate(zip(shape, grown, strict=False)) if old != new]
    if len(grown) != len(shape) or len(apart) != (1 if joined.grows else 0):
        return None
    positions = () if joined.place is None else _integer_inputs(joined.place)
    return Cache(past.name or "", outputs[present], apart[0] if apart else None, shape, positions)


def _sizes(value: ir.Value) -> tuple[int | str, ...]:
    return tuple(size if isinstance(size, int) else str(size.value or "?") for size in value.shape or ())


@dataclasses.dataclass(frozen=True)
class _Joined:
    """Where a past meets what is new.

    Attributes:
        present: what comes out.
        grows: whether the present is longer than the past.
        is_read: whether the model itself reads the present.
        place: where the new part goes, if that is computed.
    """

    present: ir.Value
    grows: bool
    is_read: bool
    place: ir.Value | None = None


_MOVES = ("Transpose", "Identity")


def _readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    return [(use.node, use.idx) for use in value.uses() if not is_op(use.node, "Shape")]


def _joined(past: ir.Value) -> _Joined | None:
    """Follow the past, transposed or not, to the node that puts the new part to it.

    Nothing else may read the past: what a cache holds comes back in the present, and a tensor that other
    layers read too (a skip that is concatenated with what they made of it) is none.
    """
    readers = _readers(past)
    while len(readers) == 1 and is_op(readers[0][0], *_MOVES):
        past = readers[0][0].outputs[0]
        readers = _readers(past)
    if len(readers) != 1:
        return None
    node, index = readers[0]
    if is_op(node, "Concat") and index == 0:
        return _Joined(node.outputs[0], True, _is_read(node.outputs[0]))
    if is_op(node, "Attention") and index in (4, 5) and len(node.outputs) > index - 3:
        return _Joined(node.outputs[index - 3], True, True)
    if is_op(node, *_UPDATES) and index == 0:
        place = node.inputs[2 if is_op(node, "TensorScatter") and len(node.inputs) > 2 else 1]
        return _Joined(node.outputs[0], False, _is_read(node.outputs[0]), place)
    if is_op(node, "Slice") and index == 0 and len(node.outputs[0].uses()) == 1:
        # The past less its oldest part, and the new part behind it: the model slides the window itself.
        joint, place = _readers(node.outputs[0])[0]
        if is_op(joint, "Concat") and place == 0:
            return _Joined(joint.outputs[0], False, _is_read(joint.outputs[0]))
    return None


def _as_output(present: ir.Value, outputs: dict[ir.Value, str]) -> ir.Value | None:
    """The graph output that is the present, transposed or not."""
    waiting = [present]
    while waiting:
        value = waiting.pop()
        if value in outputs:
            return value
        waiting.extend(use.node.outputs[0] for use in value.uses() if is_op(use.node, *_MOVES))
    return None


def _is_read(present: ir.Value) -> bool:
    """Whether a node of the model computes with the present."""
    return any(_is_read(node.outputs[0]) if is_op(node, *_MOVES) else True for node, _ in _readers(present))


def _integer_inputs(value: ir.Value) -> tuple[str, ...]:
    """The model's integer inputs that a value is computed from."""
    kinds = (ir.DataType.INT64, ir.DataType.INT32)
    found = (source for source in _sources(value) if source.is_graph_input() and source.dtype in kinds)
    return tuple(sorted(source.name or "" for source in found))


def _sources(value: ir.Value) -> set[ir.Value]:
    """A value and all that it is computed from."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is not None and not is_op(producer, "Shape"):
            waiting.extend(source for source in producer.inputs if source is not None)
    return seen


def check_sizes(caches: Sequence[Cache]) -> None:
    """Refuse a cache whose length is open: a state has one shape.

    Raises:
        JobError: one has.
    """
    for cache in caches:
        unknown = [size for size in cache.shape if isinstance(size, str)]
        if unknown:
            sizes = "x".join(str(size) for size in cache.shape)
            raise JobError(
                f"the cache {cache.past!r} ({sizes}) has the open size {unknown[0]}, and a state has one",
                fix=f"give it the window's length with --input {cache.past}:SHAPE, or write :stateless "
                "behind the target for a package that is fed the cache",
            )


def with_steps(graph: Graph, caches: Sequence[Cache], steps: int = STEPS) -> Graph:
    """The graph with a run of calls for examples: each is fed what the state holds after the one before.

    The first call starts from zeros, as a state does. The other inputs come from the examples, in turn, but
    those that say where the new part goes: these count on from call to call, within the cache. The
    references are the source's own outputs, less the presents, which the package keeps to itself. A cache
    is fed as fp16 holds it: that is a state's type, and so the package computes on the same numbers.

    Raises:
        JobError: the source cannot be run.
    """
    if not caches:
        return graph
    if graph.run_source is None:
        raise JobError("the source cannot be run step by step", fix="write :stateless behind the target")
    presents = {cache.present for cache in caches}
    held = {cache.past: np.zeros_like(graph.examples[0][cache.past]) for cache in caches}
    placed = {name for cache in caches for name in cache.positions}
    examples: list[Arrays] = []
    references: list[Arrays] = []
    for step in range(steps):
        feeds = {**graph.examples[step % len(graph.examples)], **held}
        feeds |= {name: _places(feeds[name], caches, name, step) for name in placed}
        results = graph.run_source(feeds)
        examples.append(feeds)
        references.append({name: array for name, array in results.items() if name not in presents})
        held = {cache.past: cache.kept(results[cache.present]) for cache in caches}
    return dataclasses.replace(graph, examples=examples, references=references)


def _places(example: np.ndarray, caches: Sequence[Cache], name: str, step: int) -> np.ndarray:
    """Where the new parts of a call go: behind those of the call before, from the start again when full."""
    shape = next(cache.shape for cache in caches if name in cache.positions)
    room = max(size for size in shape[1:-1] if isinstance(size, int))
    places = np.arange(example.size) + step * example.size
    return (places % max(1, room)).reshape(example.shape).astype(example.dtype)


def caches_of(graph: Graph) -> list[Cache]:
    """The caches that become states: those whose presents no reference asks for, as `with_steps` left it."""
    asked = set(graph.references[0]) if graph.references else set()
    return [cache for cache in find_caches(graph.model) if cache.present not in asked]
