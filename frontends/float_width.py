"""ONNX files that compute in float16 or float64: brought to float32, which every engine and gate starts from.

float16: the source's own rounding is a hundred times what the fp32 gate allows, so its outputs cannot be the
references of that gate. The same graph with its weights widened computes what the file means, without that
rounding; the file's own outputs must agree with it as far as float16 goes. A torch module in half precision
is treated likewise. float64: no edge engine has it, and ONNX Runtime lacks it for convolutions; the file's
own outputs stay the references, and the float32 graph must keep to them at the fp32 gate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.core.errors import JobError
from edgec.core.evaluation import MODEL_FILE, save_model
from edgec.core.float_types import retype
from edgec.core.graph import Arrays
from edgec.core.numerics import GATES, compare
from edgec.core.op_traits import MOVEMENT
from edgec.frontends.reference import OnnxFile

Run = Callable[[Mapping[str, np.ndarray]], Arrays]


class Widened:
    """A file beside its float32 form.

    Attributes:
        path: the float32 form; removed with this object.
        dtype: what the file itself computes in.
    """

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        """Bring the model to float32, in place, and write it."""
        self.dtype = dtype
        self._inputs = {value.name for value in model.graph.inputs if value.dtype == dtype}
        self._folder = tempfile.TemporaryDirectory(prefix="edgec-")
        self.path = Path(self._folder.name) / MODEL_FILE
        retype(model, dtype, ir.DataType.FLOAT)
        save_model(model, self.path)

    def feeds(self, drawn: Sequence[Arrays]) -> list[Arrays]:
        """The feeds with what the file's own type holds of them, so that both forms are fed the same."""
        return [
            {name: self._own(name, array).astype(array.dtype) for name, array in feed.items()}
            for feed in drawn
        ]

    def own_run(self, run: Run) -> Run:
        """The file itself, run on float32 feeds and returning float32; it keeps this object alive."""

        def converted(feeds: Mapping[str, np.ndarray]) -> Arrays:
            results = run({name: self._own(name, array) for name, array in feeds.items()})
            return {name: _float32(array, self.dtype) for name, array in results.items()}

        return converted

    def references(
        self, feeds: Sequence[Arrays], own: Sequence[Arrays], where: str
    ) -> tuple[list[Arrays], str]:
        """What the graph must compute, and a note on it.

        Args:
            feeds: as `feeds` returns them.
            own: what the file itself computes on them, in float32.
            where: the file, for messages.

        Raises:
            JobError: float32 gives something else than the file's own rounding explains.
        """
        run = OnnxFile(self.path)
        wide = [run(feed) for feed in feeds]
        difference = compare(own, wide)
        half = self.dtype == ir.DataType.FLOAT16
        gate = GATES["fp16" if half else "fp32"]
        if not gate.accepts(difference):
            raise JobError(
                f"the file computes in {'float16' if half else 'float64'}, and in float32 its output "
                f"{difference.output!r} is {difference.scaled:.2g} of its spread away "
                f"(allowed {gate.scaled:g})",
                where=where,
                fix="export the model in float32 and check what that computes",
            )
        off = f"{difference.scaled:.1e} of their spread"
        if half:
            return wide, (
                "The file computes in float16; weights, inputs and outputs were widened to float32, which "
                f"the references use. The file's own outputs, rounded at every layer, are {off} away."
            )
        return list(own), (
            "The file computes in float64; weights, inputs and outputs were rounded to float32. The "
            f"references are the file's own outputs in float64; float32 is {off} away."
        )

    def _own(self, name: str, array: np.ndarray) -> np.ndarray:
        return array.astype(self.dtype.numpy()) if name in self._inputs else array


def foreign_floats(model: ir.Model) -> ir.DataType | None:
    """The type that the model computes in where that is float16 or float64; None for float32.

    Weights that are kept in float16 and cast before use are no reason; nor are numbers of float64 beside a
    network of float32.
    """
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    made = [value for node in model.graph.all_nodes() for value in node.outputs if _has_type(node)]
    half, double = ir.DataType.FLOAT16, ir.DataType.DOUBLE
    if any(_made_type(value) == half and _is_computed_on(value) for value in [*values, *made]):
        return half
    if any(value.dtype == double and _is_computed_on(value) and _is_tensor(value) for value in values):
        return double
    return None


def _has_type(node: ir.Node) -> bool:
    return node.op_type in ("Cast", "Constant")


def _made_type(value: ir.Value) -> ir.DataType | None:
    node = value.producer()
    if node is None:
        return value.dtype
    to, held = node.attributes.get("to"), node.attributes.get("value")
    if node.op_type == "Cast" and to is not None:
        return ir.DataType(to.as_int())
    return held.as_tensor().dtype if held is not None else None


def _is_tensor(value: ir.Value) -> bool:
    return value.is_graph_input() or (value.shape is not None and len(value.shape) > 1)


def _is_computed_on(value: ir.Value) -> bool:
    for use in value.uses():
        if use.node.op_type in MOVEMENT:
            if any(_is_computed_on(output) for output in use.node.outputs):
                return True
        elif use.node.op_type != "Cast":
            return True
    return False


def _float32(array: np.ndarray, dtype: ir.DataType) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == dtype.numpy() else array
