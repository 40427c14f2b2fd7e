"""What a plugin is: an op of the `ai.edgec` domain defined by an ONNX function body."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN


@dataclasses.dataclass(frozen=True)
class Plugin:
    """One custom op.

    Attributes:
        op_type: the op's name in `ai.edgec`.
        function: makes the ONNX function whose body, in standard ops, is the op's definition.
        infer: shapes and dtypes of the outputs from the node's inputs and attributes.
        doc: what the op computes, one sentence, with its source.
        full_inputs: places of the inputs that stay fp32 in an fp16 graph: counts, which fp16 holds to 2048
            only, and scores, which are ranked.
        full_outputs: likewise of the outputs.
    """

    op_type: str
    function: Callable[[], ir.Function]
    infer: Callable[[ir.Node], Sequence[tuple[ir.Shape, ir.DataType]]]
    doc: str
    full_inputs: frozenset[int] = frozenset()
    full_outputs: frozenset[int] = frozenset()


_PLUGINS: dict[str, Plugin] = {}


def register(plugin: Plugin) -> Plugin:
    """Make a plugin known.

    Raises:
        ValueError: another plugin has the op type.
    """
    if plugin.op_type in _PLUGINS:
        raise ValueError(f"two plugins define {EDGEC_DOMAIN}::{plugin.op_type}")
    _PLUGINS[plugin.op_type] = plugin
    return plugin


def plugins() -> dict[str, Plugin]:
    """All registered plugins by op type."""
    return dict(_PLUGINS)
