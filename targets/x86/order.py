"""What a search within a budget tries on x86, in which order."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.core.graph import Graph
from edgec.passes.decompose.quantised import has_pairs
from edgec.targets.base import Candidate
from edgec.targets.x86 import quantize_openvino, quantize_ort
from edgec.targets.x86.accepts import ENGINES
from edgec.targets.x86.cpu import lacking, sums_in_16_bits
from edgec.targets.x86.forms import EXPORTED, PACKED, forms

_SCHEMES = {"openvino": quantize_openvino.SCHEMES, "ort": quantize_ort.SCHEMES}

WEIGHTS_ALONE = (
    ("openvino", quantize_openvino.WEIGHTS),
    ("openvino", quantize_openvino.WEIGHTS4),
    ("ort", quantize_ort.WEIGHTS),
)
"""Engines and schemes whose products stay in fp32: they save reading, not computing."""

_PLAIN = {"openvino": quantize_openvino.PLAIN, "ort": quantize_ort.PLAIN}
"""Each engine's own recipe: of the exporter's graph it is what a user would have run."""

_BY_DOT_PRODUCTS = (
    ("openvino", quantize_openvino.SYMMETRIC),
    ("openvino", quantize_openvino.WEIGHTED),
    ("openvino", quantize_openvino.STATIC),
    ("ort", quantize_ort.STATIC),
    ("ort", quantize_ort.PLAIN),
    ("ort", quantize_ort.DYNAMIC),
)
_BY_PAIRS = (
    ("ort", quantize_ort.PLAIN),
    ("ort", quantize_ort.DYNAMIC),
    ("openvino", quantize_openvino.SYMMETRIC),
    ("ort", quantize_ort.STATIC),
    ("openvino", quantize_openvino.WEIGHTED),
    ("openvino", quantize_openvino.STATIC),
)
"""Most promising first, where products are summed in 32 bits, and where they are summed by pairs in 16: there
OpenVINO's linear layers are slower in int8 than in fp32, its convolutions faster; ONNX Runtime's linear
layers gain.
"""


def tried(graph: Graph, engines: list[str], precision: str) -> list[Candidate]:
    """Every candidate of these engines: exact ones first, then by what promises most.

    Exact engines are quick to build and say which forms are worth a lower precision. OpenVINO comes first:
    its kernels are the faster ones on all but the smallest models. What a user would have run with each
    engine is marked as plain.

    Args:
        graph: the neutral graph; nothing is quantised where it has no calibration feeds.
        engines: `ort`, `openvino` or both.
        precision: `auto` or `int8`.
    """
    ordered = sorted(engines, key=lambda name: name != "openvino")
    found = {name: forms(graph, name, "int8") for name in ordered}

    def unquantised(name: str, precision: str, form: str) -> Candidate:
        return Candidate(name, precision, form, plain=form == EXPORTED)

    exact = [unquantised(name, "fp32", form) for name in ordered for form in found[name]]
    # Forms for fp32 alone: last where something faster computes what is not quantised.
    for_fp32 = {
        name: [
            unquantised(name, "fp32", form) for form in forms(graph, name, "fp32") if form not in found[name]
        ]
        for name in ordered
    }
    exact += [candidate for name in ordered if _rest(name) == "fp32" for candidate in for_fp32[name]]
    last = [candidate for name in ordered if _rest(name) != "fp32" for candidate in for_fp32[name]]
    half = [
        unquantised(name, "bf16", form)
        for name in ordered
        for form in found[name]
        if precision == "auto" and "bf16" in ENGINES[name].precisions and form != PACKED
    ]
    if has_pairs(graph.model):
        # Nothing is quantised again: ONNX Runtime's integer kernels take it as it is.
        given = [
            Candidate("ort", "int8", form, rest="fp32", scheme=quantize_ort.GIVEN, plain=form == EXPORTED)
            for form in found.get("ort", ())
        ]
        return [*exact, *half, *given, *last]
    largest = largest_weight(graph)

    def quantised(schemes: Sequence[tuple[str, str]]) -> list[Candidate]:
        return [
            Candidate(name, "int8", form, rest=_rest(name), scheme=scheme)
            for name, scheme in schemes
            if graph.calibration and name in found and largest >= _SCHEMES[name][scheme]
            for form in found[name]
            if (form, scheme) != (EXPORTED, _PLAIN[name])
            if scheme != quantize_openvino.WEIGHTED or multiplies_computed(graph)
        ]

    plain = [
        Candidate(name, "int8", EXPORTED, rest=_rest(name), scheme=_PLAIN[name], plain=True)
        for name in reversed(ordered)
        if graph.calibration and EXPORTED in found[name]
    ]
    products = quantised(_BY_PAIRS if sums_in_16_bits() else _BY_DOT_PRODUCTS)
    weights = quantised(WEIGHTS_ALONE)
    # int8 is the faster of the two mostly: one engine in bf16 is enough to begin with. The plain ones come
    # before edgec's own: what a user would have run is known by then, however short the search is.
    return [*exact, *half[:1], *plain, *products, *half[1:], *weights, *last]


def missing_plain(graph: Graph, engine: str) -> str:
    """Why what a user would have run with an engine cannot ship; empty where it can, as one of `tried`.

    Args:
        graph: the neutral graph.
        engine: `ort` or `openvino`.
    """
    if EXPORTED in forms(graph, engine, "fp32"):
        return ""
    if graph.exported is None:
        return "the source left no ONNX file of its own"
    if graph.is_reduced:
        return "the exporter's graph computes what was taken away"
    return "the file is quantised, and this engine gives other answers in its integer kernels"


def _rest(engine: str) -> str:
    """What an engine computes in where nothing is quantised."""
    return "bf16" if "bf16" in ENGINES[engine].precisions and not lacking(engine, "bf16") else "fp32"


def multiplies_computed(graph: Graph) -> bool:
    """Whether a graph has products of two computed tensors, as attention is."""
    return any(
        node.op_type == "Attention"
        or (node.op_type == "MatMul" and all(value and value.const_value is None for value in node.inputs))
        for node in graph.model.graph
    )


def largest_weight(graph: Graph) -> int:
    """Bytes of the largest weight of a linear layer or a convolution, in fp32."""
    return max(
        (
            value.const_value.nbytes
            for value in graph.model.graph.initializers.values()
            if value.const_value is not None and len(value.const_value.shape) >= 2
        ),
        default=0,
    )
