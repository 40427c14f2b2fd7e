"""fp32 islands in an fp16 program: nodes are marked in the graph, their operations in the program."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from edgec.passes.precision.half import MOVEMENT

FULL_KEY = "edgec.fp32"
"""Node metadata: why the node stays in fp32."""

_SCOPE = "edgec.fp32"


def mark(model: ir.Model, keep: Mapping[str, str]) -> None:
    """Mark nodes that stay in fp32, and what moves values between them or out of the graph, in place.

    Args:
        model: the lowered model.
        keep: reasons by node name.
    """
    for node in model.graph:
        why = keep.get(node.name or "")
        if why is not None:
            node.metadata_props[FULL_KEY] = why
        elif (
            node.op_type in MOVEMENT
            and node.domain == ""
            and (source := node.inputs[0]) is not None
            and (maker := source.producer()) is not None
            and FULL_KEY in maker.metadata_props
            and all(
                value.is_graph_output() or all(use.node.name in keep for use in value.uses())
                for value in node.outputs
            )
        ):
            node.metadata_props[FULL_KEY] = maker.metadata_props[FULL_KEY]


def marked(model: ir.Model) -> dict[str, str]:
    """The nodes that stay in fp32, with their reasons."""
    return {
        node.name: node.metadata_props[FULL_KEY]
        for node in model.graph
        if node.name and FULL_KEY in node.metadata_props
    }


def scoped(builder: Any, full: bool) -> contextlib.AbstractContextManager[Any]:
    """Within it, operations are made that stay in fp32, if `full`.

    The mark is a scope of coremltools: its passes hand it on from an operation to what they put in its place.
    """
    if not full:
        return contextlib.nullcontext()
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    return builder.scope(ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_NAME, data=[_SCOPE]))


def takes_half(operation: Any) -> bool:
    """Whether coremltools' fp16 pass may take an operation: the selector for `FP16ComputePrecision`."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    return _SCOPE not in operation.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_NAME, ())
