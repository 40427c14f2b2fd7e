"""Convolutions of one input whose outputs are summed, as one convolution."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant, same_shape, sizes, sole_consumer
from edgec.passes.fuse.conv_batchnorm import normalisation
from edgec.passes.fuse.convolution_map import (
    ConvolutionMap,
    convolution_map,
    identity_map,
    summed,
    work_of_sum,
)
from edgec.passes.fuse.matching import as_vector, with_constant
from edgec.passes.infra import MatchLog, Pass, Refusal, register


@register
class ConvBranches(Pass):
    """Merge branches that are linear in one input into one convolution.

    ::

        x ─┬─ Conv 3×3 ─────────────── Add ── Add ── y      ⇒      x ── Conv 3×3 ── y
           ├─ Conv 1×1 ─────────────────┘      │
           └─ BatchNormalization, or x itself ─┘

    The branches that networks are trained with and deployed without: RepVGG (arXiv 2101.03697), MobileOne
    (2206.04040), FastViT's RepMixer `x + γ·(mix(x) - norm(x))` (2303.14189), RepViT. Any sums, differences,
    normalisations and factors a channel between them are followed. Kernels are laid over one grid of taps,
    x itself is a tap of 1, and groups are joined. It is exact up to the rounding of the weights, which are
    summed in fp64 and rounded once. A merge that would need more multiply-accumulates than its branches
    (1×7 beside 7×1, a dense 1×1 beside a depthwise 3×3) is left alone.
    """

    name = "fuse.conv_branches"
    after = ("fuse.conv_batchnorm",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Merge in place; a match is a sum that lost branches."""
        editor = Editor(model, self.name, log)
        # The outermost sum first: it has all branches of those inside it.
        for node in reversed(list(editor.graph)):
            if node.graph is not None and is_op(node, *_LINEAR) and _merge(editor, node):
                log.matched(node)


_LINEAR = ("Add", "Sub", "Mul", "BatchNormalization")


@dataclasses.dataclass(eq=False)
class _Term:
    """A summand: a factor a channel times a value, which a convolution may make for this sum alone."""

    value: ir.Value
    factor: np.ndarray
    conv: ir.Node | None = None

    @property
    def source(self) -> ir.Value:
        found = self.value if self.conv is None else self.conv.inputs[0]
        assert found is not None
        return found


class _Sum:
    """A value as a sum of terms and a constant a channel."""

    def __init__(self, root: ir.Value, channels: int) -> None:
        self.terms: list[_Term] = []
        self.shift = np.zeros(channels)
        self._root = root
        self._channels = channels
        self._follow(root, np.ones(channels))

    def _follow(self, value: ir.Value, factor: np.ndarray) -> None:
        """Add `factor · value`, opened up as far as nobody else needs what lies between."""
        node = value.producer()
        owned = node is not None and (value is self._root or sole_consumer(value) is not None)
        if node is None or not owned:
            self.terms.append(_Term(value, factor))
            return
        if is_op(node, "Add", "Sub") and all(same_shape(each, value) for each in node.inputs):
            left, right = node.inputs
            assert left is not None
            assert right is not None
            self._follow(left, factor)
            self._follow(right, factor if node.op_type == "Add" else -factor)
            return
        affine = self._affine(node)
        if affine is not None and same_shape(affine[0], value):
            source, scale, shift = affine
            self.shift += factor * shift
            self._follow(source, factor * scale)
            return
        self.terms.append(_Term(value, factor, node if is_op(node, "Conv") else None))

    def _affine(self, node: ir.Node) -> tuple[ir.Value, np.ndarray, np.ndarray] | None:
        """A factor and an offset a channel: what they are applied to, and both."""
        nothing, ones = np.zeros(self._channels), np.ones(self._channels)
        if is_op(node, "BatchNormalization"):
            found, source = normalisation(node), node.inputs[0]
            return None if found is None or source is None else (source, *found)
        parted = with_constant(node, "Mul", "Add", "Sub")
        shape = sizes(node.outputs[0])
        array = None if parted is None else constant(parted[1])
        if parted is None or array is None or shape is None:
            return None
        vector = as_vector(array, self._channels, axis=1 - len(shape), of_rank=len(shape))
        if vector is None:
            return None
        wide = vector.astype(np.float64)
        if is_op(node, "Mul"):
            return parted[0], wide, nothing
        return parted[0], ones, wide if is_op(node, "Add") else -wide


def _merge(editor: Editor, node: ir.Node) -> bool:
    """Merge what can be of the sum that a node makes; whether anything was."""
    root = node.outputs[0]
    shape = sizes(root)
    if shape is None or len(shape) < 3 or shape[1] is None or root.dtype is None:
        return False
    total = _Sum(root, shape[1])
    merges, left = [], list(total.terms)
    for source in dict.fromkeys(term.source for term in total.terms if term.conv is not None):
        terms = [term for term in left if term.source is source]
        if len(terms) < 2:
            continue
        taken = _together(editor, _branches(editor, terms, source))
        if len(taken) > 1:
            merges.append((source, taken))
            merged_terms = [term for term, _ in taken]
            left = [term for term in left if term not in merged_terms]
    # What stays outside must be summable as it is: a factor in front of it would be a step more.
    if not merges or any((term.factor != 1).any() for term in left):
        return False
    value = _emit(editor, node, merges, total.shift)
    for term in left:
        value = editor.node("Add", [value, term.value], like=node, shape=root.shape)
    editor.replace(root, value)
    editor.prune(node)
    return True


_Branch = tuple[_Term, ConvolutionMap]


def _branches(editor: Editor, terms: list[_Term], source: ir.Value) -> list[_Branch]:
    """The terms over one input as maps, factors included, the one with most work first."""
    found: list[_Branch] = []
    for term in terms:
        if term.conv is None:
            unchanged = identity_map(term.factor.size, len(source.shape or ()) - 2)
            found.append((term, unchanged.scaled(term.factor)))
            continue
        try:
            found.append((term, convolution_map(term.conv).scaled(term.factor)))
        except Refusal as refusal:
            editor.log.missed(term.conv, refusal)
    return sorted(found, key=lambda branch: -branch[1].work)


def _together(editor: Editor, branches: list[_Branch]) -> list[_Branch]:
    """The branches that one convolution computes in no more work than they take."""
    taken = branches[:1]
    for term, mapped in branches[1:]:
        first = branches[0]
        node = term.conv or first[0].conv
        assert node is not None
        if mapped.strides != first[1].strides:
            editor.log.missed(node, f"its strides {mapped.strides} are not {first[1].strides}")
            continue
        maps = [each for _, each in taken] + [mapped]
        needed, spent = work_of_sum(maps), sum(each.work for each in maps)
        if needed > spent:
            editor.log.missed(
                node, f"with {first[0].value.name} it would take {needed} products a place instead of {spent}"
            )
            continue
        taken.append((term, mapped))
    return taken


def _emit(
    editor: Editor, root: ir.Node, merges: list[tuple[ir.Value, list[_Branch]]], shift: np.ndarray
) -> ir.Value:
    """One Conv a source, and their sum; the constant is in the first one's bias."""
    out, total = root.outputs[0], None
    assert out.dtype is not None
    dtype = out.dtype.numpy()
    for source, branches in merges:
        convs = [term.conv for term, _ in branches if term.conv is not None]
        bias = shift.copy()
        shift = np.zeros_like(shift)
        for term, _ in branches:
            own = None if term.conv is None or len(term.conv.inputs) < 3 else constant(term.conv.inputs[2])
            if own is not None:
                bias += term.factor * own
        merged = summed([mapped for _, mapped in branches])
        stem = convs[0].name or "Conv"
        weight = editor.initializer(merged.weight.astype(dtype), f"{stem}/weight")
        held = editor.initializer(bias.astype(dtype), f"{stem}/bias")
        value = editor.node(
            "Conv",
            [source, weight, held],
            like=convs[0],
            before=root,
            attributes=merged.attributes(),
            shape=out.shape,
            dtype=out.dtype,
        )
        if total is not None:
            value = editor.node("Add", [total, value], like=root, shape=out.shape)
        total = value
    assert total is not None
    return total
