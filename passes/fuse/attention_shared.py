"""One softmax that weighs several values: one product of them side by side, or one softmax for each.

Zipformer's modules weigh their values by the same probabilities. Where the values are there at once, the
products are one product with the values side by side, the same sum term by term. Where one module's values
are computed from another's result they cannot be, and each gets the probabilities computed for itself.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, consumers, sizes
from edgec.passes.fuse.attention_logits import Weighing, paths_back
from edgec.passes.fuse.attention_match import read_with
from edgec.passes.fuse.attention_product import read_product
from edgec.passes.infra import Refusal


def part_values(editor: Editor) -> None:
    """Let each softmax that several products with values read feed one; others stay as they are.

    Before::

        softmax ─┬─ MatMul(v1) ── y1
                 └─ MatMul(v2) ── y2

    After, where v2 is not computed from y1::

        softmax ── MatMul(Concat(v1, v2)) ─┬─ Slice ── y1
                                           └─ Slice ── y2

    and where it is::

        softmax ── MatMul(v1) ── y1        the same softmax again ── MatMul(v2) ── y2
    """
    for softmax in list(editor.graph):
        if not is_op(softmax, "Softmax"):
            continue
        products = _products(softmax)
        if len(products) < 2 or not all(_is_attention(softmax, product) for product in products):
            continue
        if _side_by_side(products):
            _join(editor, products)
        else:
            _repeat(editor, softmax, products)


def _products(softmax: ir.Node) -> list[ir.Node]:
    """The products that read a softmax directly, as their left factors; none where anything else reads it."""
    weights = softmax.outputs[0]
    readers = consumers(weights)
    alone = all(
        is_op(node, "MatMul")
        and node.graph is softmax.graph
        and node.inputs[0] is weights
        and node.inputs[1] is not weights
        for node in readers
    )
    return readers if alone and not weights.is_graph_output() else []


def _is_attention(softmax: ir.Node, node: ir.Node) -> bool:
    product = read_product(node)
    try:
        return product is not None and read_with(softmax, Weighing((), product, 0, None)).over != "channels"
    except Refusal:
        return False


def _side_by_side(products: list[ir.Node]) -> bool:
    """Whether the values have the same tokens, batches and heads, and none is computed from a result."""
    shapes = [sizes(node.inputs[1]) or () for node in products]
    if any(None in shape or shape[:-1] != shapes[0][:-1] for shape in shapes):
        return False
    results = {node.outputs[0] for node in products}
    seen: set[ir.Value] = set()
    waiting = [node.inputs[1] for node in products]
    while waiting:
        value = waiting.pop()
        if value in results:
            return False
        if value is None or value in seen:
            continue
        seen.add(value)
        maker = value.producer()
        waiting.extend(() if maker is None else maker.inputs)
    return True


def _join(editor: Editor, products: list[ir.Node]) -> None:
    # What reads a result may stand in front of the last product, so all stand where the first does,
    # and what makes the values goes there with them.
    first = min(products, key=list(editor.graph).index)
    values = [node.inputs[1] for node in products]
    _bring(editor, values, first)
    shapes = [tuple(size or 0 for size in sizes(value) or ()) for value in values]
    width = sum(shape[-1] for shape in shapes)
    both = editor.node(
        "Concat",
        values,
        like=first,
        before=first,
        attributes={"axis": -1},
        shape=[*shapes[0][:-1], width],
    )
    batch = list(first.outputs[0].shape or ())[:-1]
    weighed = editor.node("MatMul", [first.inputs[0], both], like=first, before=first, shape=[*batch, width])
    start = 0
    for node, shape in zip(products, shapes, strict=True):
        bounds = [
            editor.initializer(np.array([bound], np.int64), "part")
            for bound in (start, start + shape[-1], -1)
        ]
        part = editor.node("Slice", [weighed, *bounds], like=node, before=first, shape=[*batch, shape[-1]])
        editor.replace(node.outputs[0], part)
        start += shape[-1]
    for node in products:
        editor.prune(node)


def _bring(editor: Editor, values: list[ir.Value | None], anchor: ir.Node) -> None:
    """Move what makes the values, and stands behind a node, in front of it; none of it reads the node."""
    place = {node: index for index, node in enumerate(editor.graph)}
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in values if value is not None]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found and place[node] > place[anchor]:
            found.add(node)
            waiting.extend(value.producer() for value in node.inputs if value is not None)
    for node in sorted(found, key=place.__getitem__):
        editor.graph.remove(node)
        editor.graph.insert_before(anchor, node)


def _repeat(editor: Editor, softmax: ir.Node, products: list[ir.Node]) -> None:
    """Compute the probabilities once more for every product but the first."""
    logits = softmax.inputs[0]
    assert logits is not None
    path = next(path for path in paths_back(logits) if path.product is not None)
    assert path.product is not None
    way = [path.product.node, *(step.node for step in reversed(path.steps)), softmax]
    for node in products[1:]:
        made: dict[ir.Value, ir.Value] = {}
        for step in way:
            made[step.outputs[0]] = editor.node(
                step.op_type,
                [value if value is None else made.get(value, value) for value in step.inputs],
                like=step,
                before=softmax,
                attributes={name: each.value for name, each in step.attributes.items()},
                shape=step.outputs[0].shape,
                dtype=step.outputs[0].dtype,
            )
        node.replace_input_with(0, made[softmax.outputs[0]])
