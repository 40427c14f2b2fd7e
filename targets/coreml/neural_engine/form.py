"""Whether a graph is written in the Neural Engine's form, and why."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.errors import UnsupportedError
from edgec.targets.coreml.neural_engine.channels_first import Layout, channels_first
from edgec.targets.coreml.words import Variant

FORM = "neural engine"
"""How the form is called in a candidate's name."""

ASKED, AUTO = "neural-engine", "auto"


@dataclasses.dataclass(frozen=True)
class Decision:
    """The outcome.

    Attributes:
        taken: whether the form is used.
        why: one clause.
        layout: the graph in that form; None where it was not tried or cannot be.
    """

    taken: bool
    why: str
    layout: Layout | None = None


def decide(variant: Variant, model: ir.Model, precision: str) -> Decision:
    """What the target's words ask for; for `auto`, a rule.

    The rule follows Apple's three principles ("Deploying Transformers on the Apple Neural Engine"): the
    form is worth taking where it changes the data format of linear layers and attention, and where it
    minimizes memory copies. So it is taken for an fp16 program of fixed shapes that has linear layers on
    tokens, unless transposes would stay inside: one at each input and output may. It is never the
    default, because Apple's fused attention (iOS 18) takes (B, H, S, D) and is given up for it.

    Raises:
        UnsupportedError: the form is asked for and the graph has open shapes.
    """
    if variant.asks_for(ASKED):
        return Decision(True, "asked for", channels_first(model))
    if not variant.asks_for(AUTO):
        return Decision(False, "not asked for: add the word neural-engine to the target")
    if precision != "fp16":
        return Decision(False, f"the Neural Engine computes in fp16, and this is {precision}")
    if not any(is_op(node, "MatMul", "Gemm", "Attention") for node in model.graph):
        return Decision(
            False, "no linear layer and no attention: a convolutional graph has the format already"
        )
    try:
        layout = channels_first(model)
    except UnsupportedError as error:
        return Decision(False, error.reasons[0])
    doors = len(model.graph.inputs) + len(model.graph.outputs)
    stay = len(layout.moves)
    if stay > doors:
        places = ", ".join(list(dict.fromkeys(layout.moves))[:3])
        return Decision(False, f"{stay} transposes would stay inside ({places}, …)", layout)
    return Decision(
        True, f"{stay} transposes stay, none inside the graph" if stay else "no transpose stays", layout
    )
