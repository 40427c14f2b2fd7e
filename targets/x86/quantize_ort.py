"""Quantising a lowered model for ONNX Runtime: QDQ pairs around products and convolutions."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY, source_layer
from edgec.core.errors import JobError
from edgec.core.evaluation import save_model
from edgec.core.graph import Graph
from edgec.targets.base import Candidate
from edgec.targets.x86.cpu import sums_in_16_bits

STATIC = "static"
"""Activations in uint8 with zero points, by ranges seen in calibration, weights in int8 per channel: VNNI's
own pairing. Signed activations were tried: the same speed, larger errors, and some graphs refused."""

DYNAMIC = "dynamic"
"""The same with ranges taken anew in every run; linear layers only."""

PLAIN = "quantize_dynamic"
"""ONNX Runtime's own recipe for transformers on a CPU: as `DYNAMIC`, with one range for all channels of a
weight. Coarser, and its products take 0.94 of the time: a scale for each channel is a load more a column."""

WEIGHTS = "weights of 4 bits"
"""Weights of linear layers in int4, in blocks of 32, by ONNX Runtime's MatMulNBits; the rest stays fp32."""

GIVEN = "as the file is quantised"
"""The file's own Q/DQ pairs, in integer kernels: a value on the edge of a step may fall to its other side."""

LARGE = 8 * 2**20
"""Bytes of the largest weight, in fp32, from which quantising weights alone is worth a try."""

SCHEMES = {STATIC: 0, PLAIN: 0, DYNAMIC: 0, WEIGHTS: LARGE}
"""Most promising first, each with the size of the largest weight from which it is tried."""

_QUANTISED = ("Conv", "Gemm", "MatMul")
"""What has int8 kernels worth having; norms, softmaxes and residual sums stay."""


def quantised(graph: Graph, candidate: Candidate) -> ir.Model:
    """A lowered graph's model, quantised by the candidate's scheme.

    The static scheme takes the ranges of activations from the calibration feeds (their extremes). Products of
    two activations are not quantised: probabilities lose too much by one range for all of them. Layers in
    `candidate.kept` are left alone. Weights take 7 bits on a processor that sums products in pairs in 16
    bits: with 8 such a sum saturates (ONNX Runtime's documentation, "Quantize ONNX models", on AVX2).

    Raises:
        JobError: ONNX Runtime's quantiser does not take the graph.
    """
    if candidate.scheme == GIVEN:
        return graph.model
    kept = frozenset(candidate.kept)
    model = graph.model
    left = [node.name or "" for node in model.graph if source_layer(node) in kept]
    layers = {node.name: source_layer(node) for node in model.graph if node.name}
    with tempfile.TemporaryDirectory(prefix="edgec-quantise-") as scratch, _quiet():
        plain, done = Path(scratch) / "plain.onnx", Path(scratch) / "quantised.onnx"
        save_model(model, plain)
        try:
            if candidate.scheme == WEIGHTS:
                _weights_only(plain, done, left)
            elif candidate.scheme == PLAIN:
                plainly(plain, done, left)
            elif candidate.scheme == DYNAMIC:
                _dynamic(plain, done, left)
            else:
                _static(plain, done, graph, left)
        except Exception as error:
            # The quantiser raises whatever its helpers raise: ValueError, KeyError, ONNX's own.
            raise JobError(f"ONNX Runtime's quantiser does not take the graph ({error})") from error
        found = ir.load(done)
        # The weights live in the scratch folder, which goes.
        ir.external_data.load_to_model(found)
    # The quantiser's nodes bear the name of what it quantised; others belong to the layer that reads them.
    for node in reversed(list(found.graph)):
        layer = next((layers[name] for name in _origins(node.name or "") if name in layers), None)
        readers = (use.node.metadata_props.get(SOURCE_KEY) for value in node.outputs for use in value.uses())
        layer = layer or next(filter(None, readers), None)
        if layer is not None:
            node.metadata_props[SOURCE_KEY] = layer
    return found


def _origins(name: str) -> list[str]:
    """The names that a node of the quantiser may come from: `fc1_quant`, `head_MatMul_quant`, `head_Add`."""
    stem = name.rpartition("_quant")[0] or name
    return [name, stem, stem.removesuffix("_MatMul").removesuffix("_Add")]


def _static(plain: Path, done: Path, graph: Graph, left: list[str]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        plain,
        done,
        _Feeds(graph),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTISED),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=left,
        use_external_data_format=True,
        calibrate_method=CalibrationMethod.MinMax,
        reduce_range=sums_in_16_bits(),
        extra_options={"MatMulConstBOnly": True},
    )


def plainly(plain: Path, done: Path, left: Sequence[str] = ()) -> None:
    """Quantise a file as ONNX Runtime's documentation has it for transformers: what a user would run.

    Linear layers only: convolutions lose by it, and it breaks the opset's own attention.

    Args:
        plain: the file.
        done: where the quantised one is written.
        left: names of nodes to leave alone.
    """
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(
        plain,
        done,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=_parted(left),
        use_external_data_format=True,
    )


def _parted(left: Sequence[str]) -> list[str]:
    """A Gemm is parted before it is quantised: `head` becomes `head_MatMul` and `head_Add`."""
    return [*left, *(f"{name}_MatMul" for name in left)]


def _dynamic(plain: Path, done: Path, left: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        plain,
        done,
        op_types_to_quantize=["Gemm", "MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_parted(left),
        use_external_data_format=True,
        reduce_range=sums_in_16_bits(),
        extra_options={"MatMulConstBOnly": True},
    )


def _weights_only(plain: Path, done: Path, left: list[str]) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    settings = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4)
    quantiser = MatMulNBitsQuantizer(
        onnx.load(str(plain)), nodes_to_exclude=left, algo_config=settings, accuracy_level=4
    )
    quantiser.process()
    quantiser.model.save_model_to_file(str(done), use_external_data_format=True)


class _Feeds:
    """The calibration feeds as ONNX Runtime asks for them: one at a time, then None."""

    def __init__(self, graph: Graph) -> None:
        self._left: Iterator[Any] = iter(graph.calibration)

    def get_next(self) -> Any:
        """The next feed."""
        return next(self._left, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser warns through the root logger that the model was not prepared by its own tool."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
