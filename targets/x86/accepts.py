"""What the engines of x86 accept, as data, and what of a graph they do not."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, source_layer
from edgec.plugins.infra import plugins

_COMPUTED = frozenset({"float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"})
"""Element types of inputs and outputs that both engines take."""


@dataclasses.dataclass(frozen=True)
class Accepts:
    """What one engine takes.

    Attributes:
        engine: `ort` or `openvino`.
        opsets: lowest and highest ONNX opset.
        precisions: what it computes in on a CPU.
        dtypes: element types of inputs and outputs, numpy names.
        refused: standard ops without a kernel or a conversion, found by handing the engine the ONNX
            project's own one-node test models.
    """

    engine: str
    opsets: tuple[int, int]
    precisions: tuple[str, ...]
    dtypes: frozenset[str]
    refused: frozenset[str]


_NEITHER = frozenset({"ImageDecoder", "TensorScatter"})

ORT = Accepts(
    "ort",
    opsets=(11, 23),
    precisions=("fp32",),
    dtypes=_COMPUTED,
    refused=_NEITHER
    | {
        # Random: two runs differ, and nothing could be compared.
        "Bernoulli",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    },
)

OPENVINO = Accepts(
    "openvino",
    opsets=(11, 23),
    precisions=("fp32", "bf16"),
    dtypes=_COMPUTED,
    refused=_NEITHER
    | {
        "DeformConv",
        "Det",
        "MaxUnpool",
        "MelWeightMatrix",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "RegexFullMatch",
        "SequenceInsert",
        "SequenceMap",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "TfIdfVectorizer",
    },
)

ENGINES = {accepts.engine: accepts for accepts in (ORT, OPENVINO)}


def obstacles(model: ir.Model, accepts: Accepts) -> list[str]:
    """Everything of a neutral model that the engine cannot take, one line each; empty where it can."""
    found: list[str] = []
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            dtype = None if value.dtype is None else _numpy_name(value.dtype)
            if dtype not in accepts.dtypes:
                found.append(f"{kind} {value.name!r} is {dtype or 'of unknown type'}")
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            if node.op_type in accepts.refused:
                found.append(f"{node.op_type} {node.name!r} (layer {source_layer(node)})")
        elif node.domain == EDGEC_DOMAIN and node.op_type in plugins():
            continue  # its body is inlined
        elif node.op_identifier() not in model.functions:
            found.append(
                f"{node.domain}::{node.op_type} {node.name!r} (layer {source_layer(node)}): unknown domain"
            )
    low, high = accepts.opsets
    opset = model.opset_imports.get("", high)
    if not low <= opset <= high:
        found.append(f"opset {opset} is not within {low} to {high}")
    return found


def _numpy_name(dtype: ir.DataType) -> str:
    try:
        return dtype.numpy().name
    except TypeError:
        return dtype.name.lower()
