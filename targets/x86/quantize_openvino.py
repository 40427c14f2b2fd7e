"""Quantising an OpenVINO model with NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.core.errors import JobError, MissingExtraError
from edgec.core.graph import Graph
from edgec.targets.base import Candidate
from edgec.targets.x86.cpu import sums_in_16_bits

STATIC = "static"
"""Products and convolutions in int8, activations by ranges seen in calibration, with zero points."""

SYMMETRIC = "static symmetric"
"""The same without zero points: coarser on one-sided activations, less work in the kernels."""

WEIGHTED = "static, weighted layers"
"""As `STATIC`, with products of two computed tensors left alone. One range for all scores, or for what is
divided by its sum, is too coarse in linear attention (timm's efficientvit_b0)."""

PLAIN = "nncf default"
"""NNCF's own recipe for transformers, with nothing left out: what a user would run."""

WEIGHTS = "weights"
"""Weights in int8 only; activations and sums stay as they are."""

ROUNDED = "weights, sums of 8 bits"
"""As `WEIGHTS`, and what a product reads is rounded to 8 bits as it comes, 64 numbers to a scale: integers
are multiplied as they lie."""

WEIGHTS4 = "weights of 4 bits"
"""Weights in int4, in groups of rows, where a layer is large enough; else int8."""

LARGE = 8 * 2**20
"""Bytes of the largest weight, in fp32, from which quantising weights alone is worth a try: smaller ones
stay in the cache, and reading them is not what takes the time."""

SCHEMES = {PLAIN: 0, SYMMETRIC: 0, WEIGHTED: 0, STATIC: 0, WEIGHTS: LARGE, WEIGHTS4: LARGE}
"""Most promising first, each with the size of the largest weight from which it is tried."""


def quantised(model: Any, graph: Graph, candidate: Candidate, layers: Mapping[str, str]) -> Any:
    """Quantise an OpenVINO model on the graph's calibration feeds.

    Post-training quantisation of NNCF for transformers: per channel weights, activations by the ranges that
    NNCF estimates, SmoothQuant (Xiao et al., 2022, arXiv 2211.10438) in front of linear layers, and fast bias
    correction (Nagel et al., 2019, arXiv 1906.04721). Norms, softmaxes and residual sums are not quantised.
    Weights take 7 bits on a processor that sums products in pairs in 16 bits (NNCF's `overflow_fix`).

    Args:
        model: what OpenVINO read of the lowered graph.
        graph: the lowered graph, with calibration feeds.
        candidate: its `scheme`, and in `kept` the source layers to leave alone.
        layers: the source layer of each operation, by its name.

    Raises:
        MissingExtraError: NNCF is not installed.
        JobError: NNCF does not take the model.
    """
    with _quiet():
        nncf = _import_nncf()
        try:
            return _quantised(nncf, model, graph, candidate, layers)
        except Exception as error:
            # NNCF raises classes of its own and whatever OpenVINO raises beneath it.
            gist = next(filter(None, str(error).splitlines()), type(error).__name__)
            raise JobError(f"NNCF does not take the lowered graph ({gist})") from error


def plainly(model: Any, samples: Sequence[Sequence[np.ndarray]], left: Sequence[str] = ()) -> Any:
    """Quantise a model as NNCF's documentation has it for transformers: what a user would run.

    Args:
        model: what OpenVINO read.
        samples: calibration data, each the model's inputs in its order.
        left: names of operations to leave alone.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    with _quiet():
        nncf = _import_nncf()
        return nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=list(left), validate=False),
        )


def _import_nncf() -> Any:
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "openvino") from error
    return nncf


def _quantised(nncf: Any, model: Any, graph: Graph, candidate: Candidate, layers: Mapping[str, str]) -> Any:
    kept = frozenset(candidate.kept)
    is_plain = candidate.scheme == PLAIN
    ignored = [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() not in ("Constant", "Parameter", "Result")
        and (
            layers.get(operation.get_friendly_name()) in kept
            or (_is_left(operation) and not is_plain)
            or (_multiplies_computed(operation) and candidate.scheme == WEIGHTED)
        )
    ]
    samples = [_by_place(sample, graph) for sample in graph.calibration]
    if is_plain:
        return plainly(model, samples, ignored)
    scope = nncf.IgnoredScope(names=ignored, validate=False)
    if candidate.scheme in (WEIGHTS, ROUNDED):
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=scope)
    if candidate.scheme == WEIGHTS4:
        # Rows that 64 does not divide take the largest power of two that does.
        adjust = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        )
        return nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=64,
            all_layers=True,
            ignored_scope=scope,
            advanced_parameters=adjust,
        )
    from nncf.quantization.advanced_parameters import OverflowFix

    preset = nncf.QuantizationPreset.PERFORMANCE if candidate.scheme == SYMMETRIC else None
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        subset_size=len(graph.calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=preset or nncf.QuantizationPreset.MIXED,
        ignored_scope=scope,
        fast_bias_correction=True,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE if sums_in_16_bits() else OverflowFix.DISABLE
        ),
    )


def _is_left(operation: Any) -> bool:
    """Whether quantising an operation loses time or too much: a depthwise convolution or a residual sum.

    OpenVINO runs depthwise convolutions in bf16 whatever surrounds them, and rounds before and behind them
    in kernels of their own: 0.92 of MobileViT-S's time is left without. A residual sum adds two computed
    tensors, a bias has a constant on one side.
    """
    kind = operation.get_type_name()
    return kind == "GroupConvolution" or (kind == "Add" and _joins_computed(operation))


def _multiplies_computed(operation: Any) -> bool:
    return operation.get_type_name() == "MatMul" and _joins_computed(operation)


def _joins_computed(operation: Any) -> bool:
    return not any(_is_constant(value) for value in operation.input_values())


def _is_constant(value: Any) -> bool:
    node = value.get_node()
    while node.get_type_name() in ("Convert", "Reshape", "Multiply") and node.get_input_size():
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant"


def _by_place(sample: Mapping[str, np.ndarray], graph: Graph) -> list[np.ndarray]:
    """A sample in the order of the model's inputs: OpenVINO may know an input by another name."""
    return [sample[spec.name] for spec in graph.inputs]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF logs and draws progress bars of its own."""
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
