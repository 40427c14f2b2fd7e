"""int8 written into the graph: Q/DQ pairs where TensorRT fuses them into its products and convolutions."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op, source_layer
from edgec.core.evaluation import save_model
from edgec.core.graph import Arrays
from edgec.passes.editing import Editor, attribute, constant
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.precision.half import FULL
from edgec.passes.precision.ranges import Range

SCHEMES = ("percentile", "minmax", "entropy")
"""How the range of an activation is taken from what calibration saw; ONNX Runtime's calibrators by name."""

PERCENTILE = 99.99

_QUANTISED = ("MatMul", "Gemm", "Conv")

_MOST_FEEDS = 16
"""The histogram calibrators hold every activation of every feed at once."""

_STEPS = 127.0


@dataclasses.dataclass(frozen=True)
class Product:
    """A product with constant weights, which int8 kernels can run.

    Attributes:
        node: the node.
        activation: the value that is quantised per tensor.
        channel_axis: the weights' axis of output channels, each quantised by itself.
    """

    node: ir.Node
    activation: ir.Value
    channel_axis: int


def products(model: ir.Model) -> list[Product]:
    """The products and convolutions of an fp32 model whose weights are constant, in execution order."""
    found = []
    for node in model.graph:
        if not is_op(node, *_QUANTISED):
            continue
        weight, activation = constant(node.inputs[1]), node.inputs[0]
        if weight is None or weight.ndim < 2 or activation is None or activation.dtype != FULL:
            continue
        if constant(activation) is not None:
            continue
        if is_op(node, "Conv"):
            axis = 0
        elif is_op(node, "Gemm"):
            axis = 0 if attribute(node, "transB", 0) else 1
        else:
            axis = weight.ndim - 1
        found.append(Product(node, activation, axis))
    return found


def activation_limits(model: ir.Model, feeds: Sequence[Arrays], scheme: str) -> dict[str, float]:
    """Largest magnitude to represent, by the name of each activation that would be quantised.

    Args:
        model: the lowered fp32 model.
        feeds: inputs as the model will meet them.
        scheme: one of `SCHEMES`.
    """
    from onnxruntime.quantization import calibrate as ort

    method = {
        "percentile": ort.CalibrationMethod.Percentile,
        "minmax": ort.CalibrationMethod.MinMax,
        "entropy": ort.CalibrationMethod.Entropy,
    }[scheme]
    wanted = {product.activation.name for product in products(model)}
    with tempfile.TemporaryDirectory(prefix="edgec-calibrate-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        calibrator = ort.create_calibrator(
            path,
            op_types_to_calibrate=list(_QUANTISED),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=method,
            use_external_data_format=True,
            extra_options={"symmetric": True, "percentile": PERCENTILE},
        )
        # The calibrators print what they do.
        with contextlib.redirect_stdout(io.StringIO()):
            calibrator.collect_data(_Reader(feeds[:_MOST_FEEDS]))
            data = calibrator.compute_data()
        limits = {}
        for name, found in data.items():
            if name in wanted:
                low, high = (float(np.max(np.abs(edge))) for edge in found.range_value)
                limits[name] = max(low, high)
    return limits


class _Reader:
    """Feeds as ONNX Runtime asks for them: one at a time, then None."""

    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self._left: Iterator[Any] = iter(feeds)

    def get_next(self) -> Any:
        return next(self._left, None)


def noisiest(model: ir.Model, ranges: Mapping[str, Range]) -> list[str]:
    """Source layers of the products by how badly one step a tensor fits their activation, worst first.

    The measure is a step of the whole range over the typical magnitude: outliers make it large.
    """
    scores: dict[str, float] = {}
    for product in products(model):
        found = ranges.get(product.activation.name or "")
        if found is not None and found.typical > 0:
            layer = source_layer(product.node)
            scores[layer] = max(scores.get(layer, 0.0), found.largest / _STEPS / found.typical)
    return sorted(scores, key=lambda layer: -scores[layer])


@register
class QuantizeProducts(Pass):
    """Quantise products and convolutions with constant weights.

    ::

        x ── MatMul(W) ── y
        ⇒
        x ── QuantizeLinear ── DequantizeLinear ──┐
                   W (int8) ── DequantizeLinear ── MatMul ── y

    Symmetric, as TensorRT wants it (its documentation, "Working with Quantized Types"): zero points are 0;
    activations have one scale a tensor, weights one an output channel. An activation is quantised once for
    all products that read it.

    Args:
        limits: largest magnitude by the activation's name; products without one stay.
        keep: source layers that stay.
    """

    name = "precision.quantize"
    exact = False

    def __init__(
        self, limits: Mapping[str, float] | None = None, keep: Collection[str] = frozenset()
    ) -> None:
        self.limits = dict(limits or {})
        self.keep = frozenset(keep)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a product in int8."""
        editor = Editor(model, self.name, log)
        made: dict[str, ir.Value] = {}
        for product in products(model):
            name = product.activation.name or ""
            node = product.node
            if source_layer(node) in self.keep:
                log.missed(node, "kept, for the budget's sake")
                continue
            limit = self.limits.get(name, 0.0)
            if not 0 < limit < float("inf"):
                log.missed(node, f"the range of {name!r} is not known or not finite")
                continue
            if name not in made:
                made[name] = _pair(editor, product, limit)
            node.replace_input_with(0, made[name])
            node.replace_input_with(1, _weights(editor, product))
            log.matched(node)
        editor.remove_dead()


def _pair(editor: Editor, product: Product, limit: float) -> ir.Value:
    value, node = product.activation, product.node
    scale = editor.initializer(np.asarray(limit / _STEPS, np.float32), f"{value.name}/scale")
    zero = editor.initializer(np.asarray(0, np.int8), f"{value.name}/zero")
    maker = value.producer()
    first = editor.graph[0] if maker is None else None
    narrow = editor.node(
        "QuantizeLinear",
        [value, scale, zero],
        like=node,
        before=first,
        after=maker,
        dtype=ir.DataType.INT8,
        shape=value.shape,
    )
    return editor.node(
        "DequantizeLinear",
        [narrow, scale, zero],
        like=node,
        after=narrow.producer(),
        dtype=FULL,
        shape=value.shape,
    )


def _weights(editor: Editor, product: Product) -> ir.Value:
    node, axis = product.node, product.channel_axis
    weight = constant(node.inputs[1])
    assert weight is not None
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others)
    scale = np.where(largest > 0, largest / _STEPS, 1.0).astype(np.float32)
    spread = scale.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
    narrow = np.clip(np.rint(weight / spread), -_STEPS, _STEPS).astype(np.int8)
    stem = node.inputs[1].name  # type: ignore[union-attr]
    return editor.node(
        "DequantizeLinear",
        [
            editor.initializer(narrow, f"{stem}/int8"),
            editor.initializer(scale, f"{stem}/scale"),
            editor.initializer(np.zeros(scale.shape, np.int8), f"{stem}/zero"),
        ],
        like=node,
        attributes={"axis": axis},
        dtype=FULL,
        shape=weight.shape,
    )
