"""The Neural Engine's form of a graph: every tensor channels first, (B, C, 1, S)."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgec.core.errors import UnsupportedError
from edgec.targets.coreml.neural_engine.ops import add_definitions
from edgec.targets.coreml.neural_engine.registry import rules
from edgec.targets.coreml.neural_engine.walk import OpenShapeError, Walk

NAME = "coreml.channels_first"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A graph in the Neural Engine's form.

    Attributes:
        model: the graph.
        moves: the source layers at which a transpose stayed, one entry each.
    """

    model: ir.Model
    moves: tuple[str, ...]


def channels_first(model: ir.Model) -> Layout:
    """Write a graph so that channels lie before tokens, and so that almost nothing is transposed.

    ::

        (B, S, C) ── LayerNorm ── MatMul ── Add      ⇒      (B, C, 1, S) ── ChannelNorm ── Conv 1×1 ── Add
        (B, S, C) ── Reshape ── Transpose ── Attention      ⇒      (B, h, d, S) ── a product, a softmax and
                                                                     a product for each head

    The walk keeps for every tensor how it is read apart from how it lies (`storage`). Reshape and Transpose
    change the reading only. Ops that work element by element take any order, and bring their operands into
    the one that costs the fewest bytes; an op along an axis runs along wherever that axis lies; a matrix
    product takes its matrices rows or columns first. A transpose is written where an op can take no order
    but one, as late as that, and once for all that need it: what undoes itself is never written. Ops
    without a rule get their operands as they are read.

    The form follows "Deploying Transformers on the Apple Neural Engine" (Apple Machine Learning Research,
    2022).

    Args:
        model: a graph with fixed shapes, in the neutral dialect; left as it is.

    Raises:
        UnsupportedError: a tensor's shape is open.
    """
    try:
        walk = Walk(model, NAME, rules())
        new = walk.run()
    except OpenShapeError as error:
        raise UnsupportedError(
            "coreml:neural-engine",
            [f"tensor {error} has open sizes, and the Neural Engine's form needs every size"],
            fix="give the sizes with --input NAME:SHAPE:DTYPE, or leave neural-engine out",
        ) from error
    add_definitions(new)
    _drop_unused(new)
    return Layout(new, tuple(walk.emit.moves))


def _drop_unused(model: ir.Model) -> None:
    for node in reversed(list(model.graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            model.graph.remove(node, safe=True)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
