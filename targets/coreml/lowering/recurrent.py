"""Recurrent layers: MIL's `lstm` where it means the same, the cells' equations step by step elsewhere.

MIL's `gru` and `rnn` are not used: their reference leaves open which of ONNX's two GRUs they compute (the
reset gate before or behind the recurrent product), and coremltools' own frontends do not emit them either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, dtype_of, shape_of
from edgec.targets.coreml.lowering.table import lowers

MAX_STEPS = 512
"""Steps that are written out at most: each makes some twelve ops."""

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}

Activation = Callable[[Operand], Operand]


class _Layer:
    """One direction of a node: its constants, and what is common to all cells.

    Attributes:
        weight: of the inputs (gates · H, I).
        recurrence: of the state (gates · H, H).
        bias: of the inputs (gates · H).
        recurrent_bias: of the state (gates · H).
        peephole: LSTM's weights of the cell in its gates i, o, f (3, H), or None.
        activations: of the gates, as the op orders them.
    """

    def __init__(self, site: Site, direction: int, batch: int, dtype: np.dtype) -> None:
        self.site = site
        self.batch = batch
        gates = _GATES[site.op]
        self.weight = site.constant(1, "the weights")[direction].astype(dtype)
        self.recurrence = site.constant(2, "the recurrent weights")[direction].astype(dtype)
        self.hidden = self.recurrence.shape[1]
        both = np.zeros(2 * gates * self.hidden, dtype)
        if site.has(3):
            both = site.constant(3, "the bias")[direction].astype(dtype)
        self.bias, self.recurrent_bias = np.split(both, 2)
        self.peephole: np.ndarray | None = None
        if site.op == "LSTM" and site.has(7):
            self.peephole = site.constant(7, "the peephole")[direction].astype(dtype).reshape(3, -1)
        self.activations = _activations(site, direction)
        self.clip = float(site.attribute("clip", 0.0))

    def clipped(self, x: Operand) -> Operand:
        """The argument of an activation, within the clip."""
        if not self.clip:
            return x
        low, high = self.site.like(x, -self.clip), self.site.like(x, self.clip)
        return self.site.emit("clip", x=x, alpha=low, beta=high)

    def split(self, x: Operand, count: int) -> list[Operand]:
        """The gates side by side in the last axis of (B, gates · H)."""
        return list(self.site.emit("split", x=x, num_splits=count, axis=1))


@lowers("LSTM", "GRU", "RNN")
def recurrent(site: Site) -> Any:
    """A layer in one or both directions; outputs are every step, the last state, and LSTM's last cell.

    Raises:
        Refusal: weights are computed, or more than `MAX_STEPS` steps would have to be written out.
    """
    x = site.operand(0)
    batch_major = bool(site.attribute("layout", 0))
    if batch_major:
        x = site.transpose(x, (1, 0, 2))
    steps, batch, _ = shape_of(x)
    names = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    reversed_ = names[site.attribute("direction", "forward")]
    layers = [_Layer(site, index, batch, dtype_of(x)) for index in range(len(reversed_))]
    states = [_states(site, index, layers[0].hidden, batch, dtype_of(x), batch_major) for index in (5, 6)]
    lengths = _lengths(site, steps)
    if site.op == "LSTM" and lengths is None and all(_is_plain(layer) for layer in layers):
        run = _native
    else:
        if steps > MAX_STEPS:
            raise Refusal(
                f"its {steps} steps would have to be written out, which is done up to {MAX_STEPS}",
                "use a plain LSTM, or shorter sequences",
            )
        run = _written_out
    results = [
        run(layer, x, backwards, [state[index] for state in states], lengths)
        for index, (layer, backwards) in enumerate(zip(layers, reversed_, strict=True))
    ]
    every, last, cell = (_joined(site, list(parts)) for parts in zip(*results, strict=True))
    if batch_major:
        every = site.transpose(every, (2, 0, 1, 3))
        last, cell = (None if value is None else site.transpose(value, (1, 0, 2)) for value in (last, cell))
    return [every, last, cell][: 3 if site.op == "LSTM" else 2]


def _joined(site: Site, parts: list[Operand | None]) -> Operand | None:
    """The directions along a new axis, the last but two: (…, B, H) → (…, directions, B, H)."""
    if parts[0] is None:
        return None
    axis = len(parts[0].shape) - 2
    return site.emit("stack", values=parts, axis=axis)


def _states(
    site: Site, index: int, hidden: int, batch: int, dtype: np.dtype, batch_major: bool
) -> list[Operand]:
    """The state (B, H) that each direction starts from."""
    count = 2 if site.attribute("direction", "forward") == "bidirectional" else 1
    if not site.has(index) or (index == 6 and site.op != "LSTM"):
        return [np.zeros((batch, hidden), dtype)] * count
    given = site.operand(index)
    if batch_major:
        given = site.transpose(given, (1, 0, 2))
    if count == 1:
        return [site.reshape(given, (batch, hidden))]
    if isinstance(given, np.ndarray):
        return list(given)
    return [site.reshape(part, (batch, hidden)) for part in site.emit("split", x=given, num_splits=2, axis=0)]


def _lengths(site: Site, steps: int) -> Operand | None:
    """Steps of each sample, None where all have all."""
    if not site.has(4):
        return None
    lengths = site.operand(4)
    return None if isinstance(lengths, np.ndarray) and (lengths >= steps).all() else lengths


def _is_plain(layer: _Layer) -> bool:
    """Whether MIL's `lstm` says the same: its clip and peepholes are defined otherwise, or not at all."""
    asked = layer.site.attribute("activations")
    default = asked is None or list(asked[:3]) == _DEFAULTS["LSTM"]
    plain = not layer.clip and layer.peephole is None and not layer.site.attribute("input_forget", 0)
    return default and plain


def _native(
    layer: _Layer, x: Operand, backwards: bool, states: list[Operand], lengths: Operand | None
) -> tuple[Operand, Operand, Operand]:
    """MIL's `lstm`: gates i, f, o, c where ONNX has i, o, f, c; one bias.

    A backward direction is a forward one over the reversed sequence, so that nothing depends on the order
    in which MIL's `reverse` gives its steps back.
    """
    site = layer.site

    def ordered(stacked: np.ndarray) -> np.ndarray:
        i, o, f, c = np.split(stacked, 4)
        return np.concatenate([i, f, o, c])

    every, last, cell = site.emit(
        "lstm",
        x=_turned(site, x, backwards, lengths),
        initial_h=states[0],
        initial_c=states[1],
        weight_ih=ordered(layer.weight),
        weight_hh=ordered(layer.recurrence),
        bias=ordered(layer.bias + layer.recurrent_bias),
        direction="forward",
        output_sequence=True,
        recurrent_activation="sigmoid",
        cell_activation="tanh",
        activation="tanh",
    )
    return _turned(site, every, backwards, lengths), last, cell


def _turned(site: Site, x: Operand, backwards: bool, lengths: Operand | None) -> Operand:
    """(S, B, …) with the order of the steps of each sample turned round, where asked."""
    if not backwards:
        return x
    if lengths is None:
        return site.emit("reverse", x=x, axes=np.array([0], np.int32))
    return site.emit("reverse_sequence", x=x, lengths=lengths, seq_axis=0, batch_axis=1)


def _written_out(
    layer: _Layer, x: Operand, backwards: bool, states: list[Operand], lengths: Operand | None
) -> tuple[Operand, Operand, Operand | None]:
    """Every step's equations, the products with the inputs in one for all steps.

    Beyond a sample's length its state stays and its outputs are zero.
    """
    site = layer.site
    x = _turned(site, x, backwards, lengths)
    steps = shape_of(x)[0]
    bias = layer.bias if site.op == "GRU" else layer.bias + layer.recurrent_bias
    projected = site.emit("linear", x=x, weight=layer.weight, bias=bias)
    parts = site.emit("split", x=projected, num_splits=steps, axis=0) if steps > 1 else [projected]
    step = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}[site.op]
    state, cell = states
    outputs = []
    for at, part in enumerate(parts):
        flat = site.reshape(part, (layer.batch, layer.weight.shape[0]))
        new_state, new_cell = step(layer, flat, state, cell)
        shown = new_state
        if lengths is not None:
            alive = _alive(site, lengths, at, layer.batch)
            shown = site.select(cond=alive, a=new_state, b=site.like(new_state, 0))
            new_state = site.select(cond=alive, a=new_state, b=state)
            if site.op == "LSTM":
                new_cell = site.select(cond=alive, a=new_cell, b=cell)
        state, cell = new_state, new_cell
        outputs.append(shown)
    every = site.emit("stack", values=outputs, axis=0)
    return _turned(site, every, backwards, lengths), state, cell if site.op == "LSTM" else None


def _alive(site: Site, lengths: Operand, at: int, batch: int) -> Operand:
    if isinstance(lengths, np.ndarray):
        return (at < lengths).reshape(batch, 1)
    return site.emit("greater", x=site.reshape(lengths, (batch, 1)), y=np.array(at, np.int32))


def _rnn_step(layer: _Layer, x: Operand, state: Operand, cell: Operand) -> tuple[Operand, Operand]:
    """H = f(W·x + R·h + b)."""
    total = layer.site.emit("add", x=x, y=_product(layer, state, layer.recurrence))
    return layer.activations[0](layer.clipped(total)), cell


def _gru_step(layer: _Layer, x: Operand, state: Operand, cell: Operand) -> tuple[Operand, Operand]:
    """H = (1 - z)·h' + z·h, the reset gate before or behind the recurrent product (Cho et al. 2014)."""
    site, (gate, out) = layer.site, layer.activations[:2]
    hidden = layer.hidden
    recurrence_gates, recurrence_state = np.split(layer.recurrence, [2 * hidden])
    bias_gates, bias_state = np.split(layer.recurrent_bias, [2 * hidden])
    update_x, reset_x, state_x = layer.split(x, 3)
    update_h, reset_h = layer.split(_product(layer, state, recurrence_gates, bias_gates), 2)
    update = gate(layer.clipped(site.emit("add", x=update_x, y=update_h)))
    reset = gate(layer.clipped(site.emit("add", x=reset_x, y=reset_h)))
    if site.attribute("linear_before_reset", 0):
        inner = site.emit("mul", x=reset, y=_product(layer, state, recurrence_state, bias_state))
    else:
        inner = _product(layer, site.emit("mul", x=reset, y=state), recurrence_state, bias_state)
    proposed = out(layer.clipped(site.emit("add", x=state_x, y=inner)))
    # (1 - z)·p + z·h = p + z·(h - p)
    change = site.emit("mul", x=update, y=site.emit("sub", x=state, y=proposed))
    return site.emit("add", x=proposed, y=change), cell


def _lstm_step(layer: _Layer, x: Operand, state: Operand, cell: Operand) -> tuple[Operand, Operand]:
    """C = f·c + i·g(…), h = o·h(C), with peepholes from c into i and f and from C into o."""
    site, (gate, inner, outer) = layer.site, layer.activations[:3]
    parts = layer.split(site.emit("add", x=x, y=_product(layer, state, layer.recurrence)), 4)
    input_, output, forget, proposed = parts

    def peeped(x: Operand, at: int, cell: Operand) -> Operand:
        if layer.peephole is None:
            return x
        return site.emit("add", x=x, y=site.emit("mul", x=cell, y=layer.peephole[at][None]))

    input_ = gate(layer.clipped(peeped(input_, 0, cell)))
    if site.attribute("input_forget", 0):
        forget = site.emit("sub", x=site.like(input_, 1), y=input_)
    else:
        forget = gate(layer.clipped(peeped(forget, 2, cell)))
    kept = site.emit("mul", x=forget, y=cell)
    added = site.emit("mul", x=input_, y=inner(layer.clipped(proposed)))
    cell = site.emit("add", x=kept, y=added)
    output = gate(layer.clipped(peeped(output, 1, cell)))
    return site.emit("mul", x=output, y=outer(cell)), cell


def _product(
    layer: _Layer, state: Operand, recurrence: np.ndarray, bias: np.ndarray | None = None
) -> Operand:
    """State · recurrenceᵀ + bias; known now in the first step from a state of zeros."""
    if isinstance(state, np.ndarray):
        found = state @ recurrence.T
        return found if bias is None else found + bias
    return layer.site.emit("linear", x=state, weight=recurrence, bias=bias)


def _activations(site: Site, direction: int) -> list[Activation]:
    """The activations of one direction; alphas and betas are handed to those that take them, in order."""
    count = len(_DEFAULTS[site.op])
    names = list(site.attribute("activations", _DEFAULTS[site.op]))
    alphas, betas = list(site.attribute("activation_alpha", [])), list(site.attribute("activation_beta", []))
    found = []
    for index, name in enumerate(names):
        name = str(name)
        if name not in _PLAIN and name not in _PARAMETERS:
            raise Refusal(f"its activation {name!r} is none that ONNX defines")
        takes_alpha, takes_beta = _PARAMETERS.get(name, (None, None))
        alpha = (alphas.pop(0) if alphas else takes_alpha) if takes_alpha is not None else None
        beta = (betas.pop(0) if betas else takes_beta) if takes_beta is not None else None
        if index // count == direction or len(names) == count:
            found.append(_activation(site, name, alpha, beta))
    return found[:count]


_PLAIN = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softsign": "softsign",
    "Softplus": "softplus",
}

_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, None),
    "ThresholdedRelu": (1.0, None),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, None),
}
"""Activations that take an alpha and a beta, and what these are where they are not given."""


def _activation(site: Site, name: str, alpha: float | None, beta: float | None) -> Activation:
    def apply(x: Operand) -> Operand:
        if isinstance(x, np.ndarray):
            x = site.emit("identity", x=x)
        if name in _PLAIN:
            return site.emit(_PLAIN[name], x=x)
        if name == "ThresholdedRelu":
            return site.select(cond=site.emit("greater", x=x, y=site.like(x, alpha)), a=x, b=site.like(x, 0))
        mil_op = {
            "Affine": "linear_activation",
            "LeakyRelu": "leaky_relu",
            "ScaledTanh": "scaled_tanh",
            "HardSigmoid": "sigmoid_hard",
            "Elu": "elu",
        }[name]
        numbers = {"alpha": site.like(x, alpha)}
        if beta is not None:
            numbers["beta"] = site.like(x, beta)
        return site.emit(mil_op, x=x, **numbers)

    return apply
