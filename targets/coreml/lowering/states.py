"""States: read where the graph reads a past, written where it makes a present.

past (input) ─ … ─ present (output)      read_state ─ … ─ slice ─ cast ─ coreml_update_state
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from edgec.targets.coreml.caches import Cache


@dataclasses.dataclass(frozen=True)
class State:
    """A state of the package.

    Attributes:
        source: the graph's input that it stands for.
        present: the graph's output that it takes its new value from.
        name: its name in the package.
        shape: its shape; its type is fp16, the only one that Core ML has for states.
        axis: along which the newest part of the present is kept; None where all of it is.
    """

    source: str
    present: str
    name: str
    shape: tuple[int, ...]
    axis: int | None


def state_of(cache: Cache, name: str) -> State:
    """The state of a cache."""
    return State(cache.past, cache.present, name, tuple(int(size) for size in cache.shape), cache.axis)


def placeholder(builder: Any, state: State) -> Any:
    """The function's input that stands for the state."""
    from coremltools.converters.mil.mil import types

    return builder.state_tensor_placeholder(shape=state.shape, dtype=types.fp16)


def entered(builder: Any, variable: Any, state: State, inside: str) -> Any:
    """What the state holds, in the graph's own type."""
    held = builder.read_state(input=variable, name=f"{state.name}_held")
    return held if inside == "fp16" else builder.cast(x=held, dtype=inside, name=f"{state.name}_as_{inside}")


def update(builder: Any, variable: Any, state: State, present: Any) -> None:
    """Put the newest part of the present into the state."""
    if state.axis is not None:
        rank = len(state.shape)
        begin, whole = [0] * rank, [True] * rank
        begin[state.axis], whole[state.axis] = -state.shape[state.axis], False
        present = builder.slice_by_index(
            x=present,
            begin=np.array(begin, np.int32),
            end=np.zeros(rank, np.int32),
            begin_mask=whole,
            end_mask=[True] * rank,
            name=f"{state.name}_newest",
        )
    half = builder.cast(x=present, dtype="fp16", name=f"{state.name}_as_fp16")
    builder.coreml_update_state(state=variable, value=half, name=f"{state.name}_update")
