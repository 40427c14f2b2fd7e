"""`fuse.rope`: rotary position embedding, however it was spelled, becomes one `RotaryEmbedding`."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant, producer, sizes, sole_consumer
from edgec.passes.fuse.attention_views import ancestry, best_view, emit, plan, replace_forward
from edgec.passes.fuse.axes import Axes, Layout
from edgec.passes.fuse.linear_map import Map, dominators, linear_map
from edgec.passes.infra import MatchLog, Pass, Refusal, register

_GROWTH = ("Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclasses.dataclass(frozen=True)
class Rotation:
    """A rotary embedding.

    Attributes:
        source: what is rotated.
        result: the rotated tensor, of the same size and last axis.
        interleaved: pairs are neighbours; else the halves of the rotated part.
        width: how many of the last axis's elements are rotated.
        cos: (tokens, width / 2).
        sin: (tokens, width / 2).
        axis: which axis of the result counts tokens.
    """

    source: ir.Value
    result: ir.Value
    interleaved: bool
    width: int
    cos: np.ndarray
    sin: np.ndarray
    axis: int


@register
class FuseRope(Pass):
    """Rotary position embedding (RoFormer, arXiv 2104.09864) becomes one `RotaryEmbedding`.

    Before, in one of its spellings::

        x ─┬─ Mul(cos) ───────────────────────────┐
           ├─ Slice(second half) ─ Neg ─┐         │
           └─ Slice(first half) ────────┴ Concat ─ Mul(sin) ─ Add ── y

    After::

        x (B,H,S,D) ── RotaryEmbedding(cos (B,S,R/2), sin (B,S,R/2)) ── y

    The map from x to y is computed as a sparse matrix by running the nodes in between on element
    indices, so halves and neighbours, Slice, Split, Gather, Stack and Neg in any order are one form. A
    class token that is cut off, not rotated and put back is a row with cos 1 and sin 0; features that
    are not rotated are `rotary_embedding_dim`.

    Left alone, with the reason: angles computed at run time, and angles that differ from head to head
    (the standard's caches have one row a token).
    """

    name = "fuse.rope"
    enters = True
    after = (
        "canonicalize.constants",
        "canonicalize.shapes",
        "canonicalize.identity",
        "canonicalize.layout",
        "canonicalize.exporter",
    )
    before = ("fuse.attention",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fuse every rotation by constant angles."""
        editor = Editor(model, self.name, log)
        place = {node: index for index, node in enumerate(model.graph)}
        for node in list(model.graph):
            if node.graph is None or not _is_anchor(node):
                continue
            try:
                found = _grow(node, place)
                if found is not None:
                    old = found.result.producer()
                    log.matched(_fuse(editor, node, found))
                    if old is not None:
                        editor.prune(old)
            except Refusal as refusal:
                log.missed(node, refusal)
        editor.remove_dead()


def _is_anchor(node: ir.Node) -> bool:
    """An Add of two products, or a Concat of parts of which one is a difference of products."""
    if is_op(node, "Add"):
        return all(producer(value, "Mul") is not None for value in node.inputs)
    if not is_op(node, "Concat"):
        return False
    for value in node.inputs:
        maker = _behind(value)
        if is_op(maker, "Sub") and all(producer(part, "Mul") is not None for part in maker.inputs):  # type: ignore[union-attr]
            return True
    return False


def _grow(node: ir.Node, place: dict[ir.Node, int]) -> Rotation | None:
    """The largest rotation that begins at an anchor: on with what puts unrotated parts back."""
    found: Rotation | None = None
    failure: Refusal | None = None
    result: ir.Value = node.outputs[0]
    while True:
        try:
            found = _rotation(result, place) or found
        except Refusal as error:
            failure = failure or error
        after = sole_consumer(result)
        if after is None or not is_op(after, *_GROWTH):
            break
        result = after.outputs[0]
    if found is None:
        if failure is not None:
            raise failure
        _check_angles(node)
    return found


def _check_angles(node: ir.Node) -> None:
    """Tell where an Add of products would be a rotation if its angles were constants."""
    if not is_op(node, "Add"):
        return
    for factor in node.inputs:
        product = producer(factor, "Mul")
        for rotated, angle in (product.inputs, product.inputs[::-1]) if product is not None else ():
            if _is_turned(rotated) and angle is not None and constant(angle) is None:
                raise Refusal(f"the angles {angle.name!r} are computed at run time")


def _is_turned(value: ir.Value | None) -> bool:
    """Whether a tensor is joined from parts of which one is negated."""
    joined = _behind(value)
    if not is_op(joined, "Concat"):
        return False
    assert joined is not None
    return any(is_op(_behind(part), "Neg") for part in joined.inputs)


def _behind(value: ir.Value | None) -> ir.Node | None:
    """The node behind a value and any change of its shape."""
    node = producer(value)
    while node is not None and is_op(node, "Reshape", "Unsqueeze", "Squeeze", "Identity"):
        node = producer(node.inputs[0])
    return node


def _rotation(result: ir.Value, place: dict[ir.Node, int]) -> Rotation | None:
    shape = sizes(result)
    if not shape or None in shape:
        return None
    for source in dominators(result, place):
        before = sizes(source)
        if not before or None in before or before[-1] != shape[-1]:
            continue
        if np.prod([size or 0 for size in before]) != np.prod([size or 0 for size in shape]):
            continue
        try:
            mapped = linear_map(result, source)
        except Refusal:
            return None
        found = _read(source, result, mapped)
        if found is not None:
            return found
    return None


def _read(source: ir.Value, result: ir.Value, found: Map) -> Rotation | None:
    """The rotation that a sparse matrix is; None where it is no rotation at all.

    Raises:
        Refusal: it is almost one; says what is missing.
    """
    shape = found.shape
    size, columns = int(np.prod(shape)), shape[-1]
    own = np.arange(size).reshape(shape)
    cos = np.zeros(shape, found.dtype)
    sin = np.zeros(shape, found.dtype)
    partner = np.full(shape, -1)
    for index, weight in zip(found.indices, found.weights, strict=True):
        same = index == own
        cos += np.where(same, weight, 0)
        other = ~same & (weight != 0)
        if (other & (partner >= 0) & (partner != index)).any():
            return None
        partner = np.where(other, index, partner)
        sin += np.where(other, weight, 0)
    rotated = partner >= 0
    if not rotated.any() or (partner[rotated] // columns != own[rotated] // columns).any():
        return None
    pairs = np.where(rotated, partner % columns, -1).reshape(-1, columns).max(axis=0)
    if (rotated & (partner % columns != pairs)).any():
        return None
    width = int(np.flatnonzero(pairs >= 0).max()) + 1
    for interleaved in (False, True):
        first = np.arange(0, width, 2) if interleaved else np.arange(width // 2)
        second = first + (1 if interleaved else width // 2)
        if width % 2 == 0 and (pairs[first] == second).all() and (pairs[second] == first).all():
            break
    else:
        return None
    if (cos[..., width:] != 1).any():
        return None
    if not (
        np.array_equal(cos[..., first], cos[..., second])
        and np.array_equal(sin[..., first], -sin[..., second])
    ):
        raise Refusal("the two elements of a pair are turned by different angles")
    cos, sin = cos[..., first], sin[..., second]
    axis = _token_axis(cos, sin)
    keep = tuple(slice(None) if a in (axis, cos.ndim - 1) else slice(0, 1) for a in range(cos.ndim))
    half = (shape[axis], width // 2)
    return Rotation(
        source, result, interleaved, width, cos[keep].reshape(half), sin[keep].reshape(half), axis
    )


def _token_axis(cos: np.ndarray, sin: np.ndarray) -> int:
    varying = [
        axis
        for axis in range(cos.ndim - 1)
        if (cos != cos.take([0], axis)).any() or (sin != sin.take([0], axis)).any()
    ]
    if len(varying) > 1:
        raise Refusal(
            f"the angles differ along axes {varying}, not along the tokens alone (from head to head, say)"
        )
    return varying[0] if varying else max(cos.ndim - 2, 0)


def _fuse(editor: Editor, node: ir.Node, rotation: Rotation) -> ir.Node:
    """One RotaryEmbedding in (B, H, S, D) in place of the rotation."""
    end = rotation.result.producer()
    assert end is not None
    axes = Axes()
    fixed = [size for size in sizes(rotation.result) or () if size is not None]
    layout: Layout = tuple(axes.fresh(size) for size in fixed)
    others = [dim for axis, dim in enumerate(layout[:-1]) if axis != rotation.axis]
    while len(others) > 2 and not others[-1]:
        others.pop()  # an axis of size one behind the heads, along which shared keys are then repeated
    batch = tuple(atom for dim in others[:-1] for atom in dim)
    heads = others[-1] if others else ()
    target: Layout = (batch, heads, layout[rotation.axis], layout[-1])
    before = tuple(size for size in sizes(rotation.source) or () if size is not None)
    views = ancestry(axes, rotation.source, axes.reshape(layout, before), scaling=False)
    view = best_view(axes, views, target, consumed=True)
    assert view is not None
    source = emit(editor, view.value, plan(axes, view.layout, target), like=node, before=end)
    count = axes.size(batch)
    assert isinstance(count, int)
    caches = [
        editor.initializer(
            np.broadcast_to(cache, (count, *cache.shape)), f"{node.name or node.op_type}/{name}"
        )
        for cache, name in ((rotation.cos, "cos"), (rotation.sin, "sin"))
    ]
    made = editor.node(
        "RotaryEmbedding",
        [source, *caches],
        like=node,
        before=end,
        attributes={
            "interleaved": int(rotation.interleaved),
            "rotary_embedding_dim": None if rotation.width == fixed[-1] else rotation.width,
        },
        shape=[axes.size(dim) for dim in axes.resolve_all(target)],
    )
    maker = made.producer()
    assert maker is not None
    replace_forward(editor, axes, made, target, rotation.result, layout, like=node, before=end)
    return maker
