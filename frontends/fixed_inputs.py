"""`--input NAME=VALUE`: an input of an ONNX file that is fixed at a value, and so none of the engine's.

sr (int64) ─┐                                       sr = 16000 ─┐
    x ── If(sr == 16000) ── y          ⇒                x ── If(sr == 16000) ── y
"""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.core.errors import RequestError
from edgec.core.evaluation import MODEL_FILE, save_model
from edgec.core.graph import Arrays

Run = Callable[[Mapping[str, np.ndarray]], Arrays]

_NUMBER = r"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|true|false)"
_FIXED = re.compile(rf"(?P<name>[^=]+)=(?P<values>{_NUMBER}(?:,{_NUMBER})*)", re.IGNORECASE)


def parted(texts: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The `--input` options that fix a value, by name, and the others as they are.

    Raises:
        RequestError: an input is fixed twice.
    """
    fixed: dict[str, str] = {}
    others = []
    for text in texts:
        found = _FIXED.fullmatch(text)
        if found is None:
            others.append(text)
        elif fixed.setdefault(found["name"], found["values"]) != found["values"]:
            raise RequestError("the input is given twice", where=f"--input {text}", fix="give it once")
    return fixed, others


def fixes_value(text: str) -> bool:
    """Whether an `--input` option fixes a value."""
    return _FIXED.fullmatch(text) is not None


def no_such_input(name: str, names: Sequence[str], where: str) -> RequestError:
    """What to say where an option names an input that the model has not.

    Args:
        name: what was named.
        names: the inputs that there are.
        where: the option as it was written.
    """
    near = difflib.get_close_matches(name, names, n=1)
    return RequestError(
        f"the model has no input {name!r}",
        where=where,
        fix=f"did you mean {near[0]}?" if near else f"its inputs are {', '.join(names)}",
    )


class FixedFile:
    """A model whose inputs are fixed, as a file of its own.

    Attributes:
        path: the file; removed with this object.
        note: what was fixed, in a sentence.
    """

    def __init__(self, model: ir.Model, values: Mapping[str, str], where: str) -> None:
        """Fix the inputs, in place, and write the model.

        Raises:
            RequestError: there is no such input, or its value does not fit it.
        """
        inputs = {value.name or "": value for value in model.graph.inputs}
        for name, text in values.items():
            if name not in inputs:
                raise no_such_input(name, list(inputs), f"--input {name}={text}")
            value = inputs[name]
            tensor = ir.tensor(_array(value, text), name=name)
            model.graph.inputs.remove(value)
            value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())
            model.graph.register_initializer(value)
        if not model.graph.inputs:
            raise RequestError(
                "every input is fixed, so there is nothing left to compute", where=where, fix="leave one open"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="edgec-")
        self.path = Path(self._folder.name) / MODEL_FILE
        save_model(model, self.path)
        self.note = (
            "Fixed, and no input of the engine: " + ", ".join(f"{n} = {v}" for n, v in values.items()) + "."
        )

    def kept(self, run: Run) -> Run:
        """The same runs, which keep the file alive."""

        def running(feeds: Mapping[str, np.ndarray]) -> Arrays:
            assert self.path is not None
            return run(feeds)

        return running


def _array(value: ir.Value, text: str) -> np.ndarray:
    """The value as the input takes it: one number fills a shape, several are a vector of their own length."""
    where = f"--input {value.name}={text}"
    if value.dtype is None or not isinstance(value.type, ir.TensorType) or value.dtype == ir.DataType.STRING:
        raise RequestError("the input is no tensor of numbers", where=where, fix="fix it in the file")
    dtype = value.dtype.numpy()
    numbers = [{"true": 1.0, "false": 0.0}.get(part.lower(), part) for part in text.split(",")]
    wide = np.asarray([float(number) for number in numbers])
    with np.errstate(invalid="ignore"):
        array = wide.astype(dtype)
    if not np.issubdtype(dtype, np.floating) and not np.array_equal(array.astype(np.float64), wide):
        raise RequestError(
            f"the input takes {np.dtype(dtype).name}, which does not hold {text}",
            where=where,
            fix="give a whole number in its range",
        )
    shape = () if value.shape is None else tuple(value.shape)
    if value.shape is None and array.size > 1:
        return array
    closed = [size if isinstance(size, int) else 1 for size in shape]
    if array.size == 1:
        return np.full(closed, array[0], dtype)
    if len(shape) == 1 and (shape[0] == array.size or not isinstance(shape[0], int)):
        return array
    if int(np.prod(closed)) == array.size and all(isinstance(size, int) for size in shape):
        return array.reshape(closed)
    raise RequestError(
        f"the input has the shape {'×'.join(map(str, shape)) or 'of one number'}, and these are {array.size} "
        "numbers",
        where=where,
        fix="give one number, or as many as it takes",
    )
