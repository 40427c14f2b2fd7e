"""The LSTM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.arithmetic import sigmoid
from edgec.targets.coreml.checker.registry import kernel

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}


@kernel("lstm")
def lstm(a: Arguments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gates in the order i, f, o, z; c = f·c + i·z, h = o·tanh(c).

    Both directions lie side by side in the last axis. The backward half of a bidirectional layer comes in
    the order of time; a layer that is backward alone gives its steps in the order it computes them.

    Raises:
        ValueError: a clip or peephole, whose arithmetic Apple does not define.
    """
    if any(name in a for name in ("clip", "peephole", "peephole_back")):
        raise ValueError("a clip or a peephole, whose arithmetic is not defined")
    direction = a.text("direction", "forward")
    h, c = np.asarray(a["initial_h"]), np.asarray(a["initial_c"])
    width = a["weight_hh"].shape[1]
    if direction != "bidirectional":
        x = a["x"] if direction == "forward" else a["x"][::-1]
        every, h, c = _run(a, x, h, c, "")
    else:
        front, front_h, front_c = _run(a, a["x"], h[:, :width], c[:, :width], "")
        back, back_h, back_c = _run(a, a["x"][::-1], h[:, width:], c[:, width:], "_back")
        every = np.concatenate([front, back[::-1]], 2)
        h, c = np.concatenate([front_h, back_h], 1), np.concatenate([front_c, back_c], 1)
    return (every if a.flag("output_sequence") else h[None]), h, c


def _run(
    a: Arguments, x: np.ndarray, h: np.ndarray, c: np.ndarray, suffix: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gate, inner, outer = (
        _ACTIVATIONS[a.text(name, default)]
        for name, default in (
            ("recurrent_activation", "sigmoid"),
            ("cell_activation", "tanh"),
            ("activation", "tanh"),
        )
    )
    weight, recurrence = a[f"weight_ih{suffix}"], a[f"weight_hh{suffix}"]
    bias = a.get(f"bias{suffix}", np.zeros(len(weight), np.float32))
    steps = []
    for part in np.matmul(x, weight.T) + bias:
        i, f, o, z = np.split(part + np.matmul(h, recurrence.T), 4, axis=1)
        c = gate(f) * c + gate(i) * inner(z)
        h = gate(o) * outer(c)
        steps.append(h)
    return np.stack(steps), h, c
