"""Local rewriting: rules by op type, applied over the graph until none fires."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor

Rule = Callable[[Editor, ir.Node], bool]
"""Rewrites the graph at a node and says whether it did; logs near misses itself, never the match."""

Rules = Mapping[str, Sequence[Rule]]
"""Rules by the ONNX op type of the node they look at."""

_SWEEPS = 20
"""More sweeps than any chain of rewrites needs; a bound only so that two rules that undo each other end."""


def rewrite(editor: Editor, rules: Rules) -> int:
    """Apply the rules over the graph's nodes until none fires; count the rewrites.

    After a rewrite the node is removed if nobody reads it any more, with whatever it alone read.
    """
    total = 0
    for _ in range(_SWEEPS):
        fired = sum(_at(editor, node, rules) for node in editor.graph)
        total += fired
        if not fired:
            break
    return total


def _at(editor: Editor, node: ir.Node, rules: Rules) -> int:
    if node.graph is None or not is_op(node, node.op_type):
        return 0
    for rule in rules.get(node.op_type, ()):
        if rule(editor, node):
            editor.log.matched(node)
            editor.prune(node)
            return 1
    return 0
