"""Movement of data that cancels."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.canonicalize import movement, packed
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.rules import Rules, rewrite


@register
class Layout(Pass):
    """Merge and cancel Transposes and Reshapes, and part packed tensors where they are packed.

    ::

        x ── Transpose ── Transpose ── y                          ⇒   x ── Transpose (or nothing) ── y
        x ── Flatten ── Unsqueeze ── Reshape ── y                 ⇒   x ── Reshape (or nothing) ── y
        x ── Transpose that moves axes of size one ── y           ⇒   x ── Reshape ── y
        x ── Transpose ── Relu ── Add c ── Transpose⁻¹ ── y       ⇒   x ── Relu ── Add c' ── y

        x [1,N,3C] ── Reshape [1,N,3,H,D] ── Transpose ── Split ┬─ Squeeze ── q [1,H,N,D]
                                                                ├─ Squeeze ── k
                                                                └─ Squeeze ── v
            ⇒      x ── Split [C,C,C] ┬─ Reshape [1,N,H,D] ── Transpose ── q
                                      ├─ Reshape ── Transpose ── k
                                      └─ Reshape ── Transpose ── v

    Squeeze, Unsqueeze and Flatten of known sizes become Reshape, so that any run of them is one
    node. A Transpose is carried over elementwise ops only where another one at their end cancels
    it, so the count of Transposes never grows. A Split is carried over the Transpose and the
    Reshape in front of it only where it then parts a whole axis of what was packed.
    """

    name = "canonicalize.layout"
    enters = True
    after = ("canonicalize.shapes", "canonicalize.identity", "canonicalize.exporter")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place."""
        arrange(Editor(model, self.name, log))


def arrange(editor: Editor) -> int:
    """Apply the rules until none fires; count the rewrites."""
    return rewrite(editor, RULES)


RULES: Rules = {
    "Split": [packed.split_before_movement],
    "Transpose": [
        movement.transpose_of_transpose,
        movement.transpose_of_ones,
        movement.ones_in_place,
        movement.transpose_over_elementwise,
    ],
    "Reshape": [movement.reshape_of_reshape, movement.ones_before_transpose],
    "Flatten": [movement.as_reshape],
    "Squeeze": [movement.as_reshape],
    "Unsqueeze": [movement.as_reshape],
}
