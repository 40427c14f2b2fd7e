"""How each input is drawn: by what the graph does with it first, by its name second.

A number that looks up a table reaches to the table's end, one whose product with constants goes to a sine is
a position or a timestep, one that hides scores is a mask. Nothing is guessed of an input of which neither
says anything.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.graph import TensorSpec
from edgec.frontends.constants import MOVES, Constants
from edgec.frontends.examples import Drawing
from edgec.frontends.uses import FULL_SCALE, Use, uses_of

POSITIONS = 4096
"""Positions where nothing says how many: the context of decoders of the first Llama generation."""

TIMESTEPS = 1000
"""Steps of a diffusion schedule where nothing says how many (Ho et al., 2020)."""

_SIZES = frozenset({"height", "hw", "resolution", "shape", "shapes", "size", "sizes", "width"})
"""Words for sizes of pictures."""

_PICTURES = (32, 1333)
"""Sizes of pictures, up to the longer side that COCO's detectors take (Lin et al., 2017)."""

_AMOUNTS = 100
"""The largest whole number that scales what is computed, where nothing says how many there are."""

_MADE = 320
"""The largest side of what is made to a size that an input says: as large as a picture costs too much."""


def ranges_of(model: ir.Model, specs: Sequence[TensorSpec]) -> dict[str, Drawing]:
    """How to draw each input of which the graph or the name tells something, by name.

    Args:
        model: the model, of any opset, without model-local functions.
        specs: its inputs.
    """
    values = {value.name or "": value for value in model.graph.inputs}
    fixed = Constants(model)
    found = {}
    for spec in specs:
        if spec.name in values:
            drawing = _drawing(spec, list(uses_of(values[spec.name], spec.shape, fixed)))
            if drawing is not None:
                found[spec.name] = drawing
    return found


def sized_inputs(model: ir.Model, specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """The inputs that say how large something is to be, by name."""
    values = {value.name or "": value for value in model.graph.inputs}
    fixed = Constants(model)
    return tuple(
        spec.name
        for spec in specs
        if spec.name in values
        and any(use.kind == "size" for use in uses_of(values[spec.name], spec.shape, fixed))
    )


def understood(specs: Sequence[TensorSpec], known: Mapping[str, Drawing]) -> tuple[TensorSpec, ...]:
    """The inputs, with masks told by what the graph does with them; one whose ones hide has no semantics."""
    return tuple(
        dataclasses.replace(spec, semantics="unknown" if known[spec.name].inverted else "mask")
        if spec.name in known and known[spec.name].kind == "mask" and not spec.dtype.startswith("float")
        else spec
        for spec in specs
    )


def by_name(specs: Sequence[TensorSpec]) -> dict[str, Drawing]:
    """What names alone tell: torch's and fairseq's padding masks are true where there is padding."""
    return {
        spec.name: Drawing("mask", inverted=True)
        for spec in specs
        if spec.dtype == "bool" and "padding_mask" in spec.name
    }


def is_looked_up(value: ir.Value) -> bool:
    """Whether an input looks up a table's rows, through ops that do not change it."""
    return any(
        (is_op(use.node, "Gather") and use.idx == 1)
        or (is_op(use.node, *MOVES) and use.idx == 0 and is_looked_up(use.node.outputs[0]))
        for use in value.uses()
    )


def _drawing(spec: TensorSpec, uses: Sequence[Use]) -> Drawing | None:
    kinds = {use.kind: use for use in uses}
    words = _words(spec.name)
    dtype = np.dtype(spec.dtype)
    whole = np.issubdtype(dtype, np.integer)
    named = "mask" in spec.name.lower()
    mask = kinds.get("mask")
    if mask is None and by_name([spec]):
        return by_name([spec])[spec.name]
    # Ids that are compared with the padding's hide scores too, and features may be compared with anything.
    if mask is not None and "index" not in kinds and (named or not np.issubdtype(dtype, np.floating)):
        return Drawing("mask", inverted=mask.inverted)
    if named and np.issubdtype(dtype, np.floating):
        return Drawing("bias" if "bias" in kinds else "mask")
    if spec.semantics == "mask" and "index" not in kinds:
        return Drawing("mask")
    if dtype == np.bool_:
        return None
    if not whole:
        return _of_floats(spec, kinds, words)
    rows = [use.high for use in uses if use.kind == "index" and use.high is not None]
    low = max((use.low for use in uses if use.kind == "index"), default=0.0)
    positions = bool(words & {"pos", "position", "positions"})
    if words & {"segment", "segments"} or "token_type" in spec.name:
        return Drawing("segments", high=int(min(rows, default=2)))
    if "angle" in kinds and not rows:
        if positions or (len(spec.shape) > 1 and not words & {"t", "time", "timestep", "timesteps", "step"}):
            return Drawing("positions", high=POSITIONS)
        return Drawing("values", high=_limit(kinds["angle"]) + 1)
    if rows:
        return Drawing("positions" if positions else "values", low=int(low), high=int(min(rows)))
    if np.iinfo(dtype).bits <= 16 and "index" not in kinds:
        return Drawing("values", low=int(np.iinfo(dtype).min), high=int(np.iinfo(dtype).max) + 1)
    below = [use.high for use in uses if use.kind == "below" and use.high is not None]
    if "below" in kinds or words & {"length", "lengths", "len", "lens"}:
        return Drawing("lengths", low=1, high=int(max(below)) + 1 if below else 0)
    if positions and "index" in kinds:
        return Drawing("positions", high=POSITIONS)
    if "equal" in kinds and "index" not in kinds and all(size == 1 for size in spec.shape):
        return Drawing("choices", like=_choices(use.high for use in uses if use.kind == "equal"))
    return _of_sizes(spec, kinds, words)


def _choices(compared: Iterable[float | None]) -> np.ndarray:
    """The numbers that one number is compared with, and one that is none of them."""
    known = sorted({int(number) for number in compared if number is not None}, reverse=True)
    other = next(number for number in (known[0] // 2, known[0] + 1) if number not in known)
    return np.array([*known, other], np.int64)


def _of_sizes(spec: TensorSpec, kinds: Mapping[str, Use], words: set[str]) -> Drawing | None:
    """Whole numbers that scale boxes or say how large something is: a few numbers, and no sequence."""
    is_small = len(spec.shape) < 2 or (len(spec.shape) == 2 and spec.shape[1] in range(1, 5))
    named = bool(words & _SIZES)
    if not is_small:
        return None
    if "size" in kinds:
        return Drawing(low=_PICTURES[0], high=_MADE + 1) if named else Drawing("lengths", low=1)
    if named:
        return Drawing(low=_PICTURES[0], high=_PICTURES[1] + 1)
    return Drawing(low=1, high=_AMOUNTS + 1) if "amount" in kinds else None


def _of_floats(spec: TensorSpec, kinds: Mapping[str, Use], words: set[str]) -> Drawing | None:
    if "angle" in kinds and (len(spec.shape) < 2 or spec.shape[1:] == (1,)):
        high = _limit(kinds["angle"])
        return Drawing("values", high=high, uniform=True)
    if len(spec.shape) in (1, 2) and spec.shape[-1] in (2, 4):
        if "size" in kinds:
            return Drawing(low=_PICTURES[0], high=_MADE, uniform=True)
        if words & _SIZES:
            return Drawing(low=_PICTURES[0], high=_PICTURES[1], uniform=True)
        if "scale" in words:
            return Drawing(low=0.5, high=2.0, uniform=True)
    unit = kinds.get("unit")
    if unit is not None and unit.high is not None and _is_picture(spec):
        return Drawing("values", high=unit.high, uniform=True)
    heard = words & {"wav", "wave", "waveform", "audio", "speech", "pcm", "sound", "signal"}
    if unit is not None and unit.high == FULL_SCALE and len(spec.shape) < 4 and (heard or "power" in kinds):
        return Drawing("sound", low=FULL_SCALE // 10, high=FULL_SCALE)
    power = kinds.get("power")
    if power is not None and len(spec.shape) < 4:
        if power.high is None and heard:
            return Drawing("sound", high=FULL_SCALE)
        if power.high is not None:
            return Drawing("sound", high=power.high)
    if "sum" in kinds and spec.semantics != "image":
        return Drawing("offset", axis=int(kinds["sum"].low))
    return None


def _is_picture(spec: TensorSpec) -> bool:
    """Whether the shape is that of pictures, channels first or last."""
    return len(spec.shape) in (3, 4) and any(spec.shape[axis] in (1, 3, 4) for axis in (-1, -3))


def _limit(angle: Use) -> float:
    """The last timestep: where the graph multiplies by hundreds, its own unit is one schedule."""
    scale = angle.high or 1.0
    return (TIMESTEPS - 1) / (scale if scale >= 100 else 1.0)


def _words(name: str) -> set[str]:
    parted = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return {word.lower() for word in re.split(r"[^A-Za-z]+", parted) if word}
