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
    """

    past: str
    present: str
    axis: int | None
    shape: tuple[int | str, ...]

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
    shape = tuple(size if isinstance(size, int) else str(size.value or "?") for size in past.shape)
    joined = [_joined(use.node, use.idx, shape) for use in past.uses() if not is_op(use.node, "Shape")]
    if not 3 <= len(shape) <= 5 or len(joined) != 1 or joined[0] is None:
        return None
    present, axis, new = joined[0]
    at_output = _as_output(present, outputs)
    # A present that nothing else reads is no memory, and a new part made of this past is no new token's.
    if at_output is None or not _is_read(present) or any(_depends(value, past) for value in new):
        return None
    return Cache(past.name or "", outputs[at_output], axis, shape)


def _joined(
    node: ir.Node, index: int, shape: tuple[int | str, ...]
) -> tuple[ir.Value, int | None, list[ir.Value]] | None:
    """The present that a node makes of its input, the axis that grows, and the new parts."""
    others = [value for place, value in enumerate(node.inputs) if place != index and value is not None]
    if is_op(node, "Concat") and index == 0 and len(node.inputs) == 2:
        axis = node.attributes["axis"].as_int()
        return node.outputs[0], axis % len(shape), others
    if is_op(node, "Attention") and index in (4, 5) and len(node.outputs) > index - 3:
        own = node.inputs[index - 3]
        return node.outputs[index - 3], 2, [own] if own is not None else []
    if is_op(node, *_UPDATES) and index == 0:
        return node.outputs[0], None, others
    return None


def _as_output(present: ir.Value, outputs: dict[ir.Value, str]) -> ir.Value | None:
    """The graph output that is the present, perhaps behind an Identity."""
    if present in outputs:
        return present
    copies = [use.node.outputs[0] for use in present.uses() if is_op(use.node, "Identity")]
    return next((copy for copy in copies if copy in outputs), None)


def _is_read(present: ir.Value) -> bool:
    """Whether the model itself uses the present: another node reads it, or Attention made it."""
    producer = present.producer()
    if producer is not None and is_op(producer, "Attention"):
        return True
    return any(not is_op(use.node, "Identity", "Shape") for use in present.uses())


def _depends(value: ir.Value, past: ir.Value) -> bool:
    """Whether a value is computed from the past itself; its shape alone does not count."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current is past:
            return True
        if current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is not None and not is_op(producer, "Shape"):
            waiting.extend(source for source in producer.inputs if source is not None)
    return False


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

    The first call starts from zeros, as a state does. The other inputs come from the examples, in turn. The
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
    examples: list[Arrays] = []
    references: list[Arrays] = []
    for step in range(steps):
        feeds = {**graph.examples[step % len(graph.examples)], **held}
        results = graph.run_source(feeds)
        examples.append(feeds)
        references.append({name: array for name, array in results.items() if name not in presents})
        held = {cache.past: cache.kept(results[cache.present]) for cache in caches}
    return dataclasses.replace(graph, examples=examples, references=references)


def caches_of(graph: Graph) -> list[Cache]:
    """The caches that become states: those whose presents no reference asks for, as `with_steps` left it."""
    asked = set(graph.references[0]) if graph.references else set()
    return [cache for cache in find_caches(graph.model) if cache.present not in asked]
