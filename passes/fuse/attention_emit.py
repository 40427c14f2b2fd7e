"""Writing one attention back as one node over (B, H, S, D) tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import Editor, constant
from edgec.passes.fuse.attention_logits import name_of
from edgec.passes.fuse.attention_mask import Mask, MaskBuilder
from edgec.passes.fuse.attention_match import Operand, Site
from edgec.passes.fuse.attention_views import (
    View,
    ancestry,
    best_view,
    emit,
    expand,
    plan,
    replace_forward,
    spread,
)
from edgec.passes.fuse.axes import Dim, Layout
from edgec.passes.infra import Refusal


@dataclasses.dataclass
class Inputs:
    """The operands of the one node, four-dimensional, and what is left of the scale.

    Attributes:
        query: (B, H, Sq, D).
        key: (B, Hkv, Sk, D).
        value: (B, Hkv, Sk, Dv).
        scale: what the product is multiplied by.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    scale: float


class Emitter:
    """Makes the operands of one site and puts the node in place of what it stands for.

    Args:
        editor: the editor.
        site: the attention.
    """

    def __init__(self, editor: Editor, site: Site) -> None:
        self.editor = editor
        self.site = site
        self.axes = site.axes

    def mask(self, dtype: ir.DataType) -> Mask:
        """The mask input, in this element type where it is added.

        Raises:
            Refusal: no exact single mask exists.
        """
        site = self.site
        target = (site.batch, site.heads, site.rows, site.columns)
        return MaskBuilder(
            self.editor, self.axes, target, like=site.anchor, before=site.end, dtype=dtype
        ).build(site.terms)

    def inputs(self, *, grouped: bool = True) -> Inputs:
        """Q, K and V from the nearest tensors that cost the fewest nodes.

        With `grouped`, repeated heads of K and V are taken before they were repeated.
        """
        site = self.site
        queries = ancestry(self.axes, site.query.value, site.query.layout)
        keys = ancestry(self.axes, site.key.value, site.key.layout, repeats=True)
        values = ancestry(self.axes, site.value.value, site.value.layout, repeats=True, scaling=False)
        kv_heads = self._shared_heads(keys, values) if grouped else None
        query, q_factor = self._fetch(queries, (site.batch, site.heads, site.rows, site.depth))
        heads = site.heads if kv_heads is None else kv_heads
        key, k_factor = self._fetch(keys, (site.batch, heads, site.columns, site.depth))
        value, _ = self._fetch(values, (site.batch, heads, site.columns, site.width))
        return Inputs(query, key, value, site.scale * q_factor * k_factor)

    def _shared_heads(self, keys: Sequence[View], values: Sequence[View]) -> Dim | None:
        """The fewest heads that K and V both have tensors of: an outer part of the heads."""
        heads = self.axes.resolve(self.site.heads)
        for count in range(len(heads) + 1):
            kept = heads[:count]
            if self._has(keys, (self.site.batch, kept, self.site.columns, self.site.depth)) and self._has(
                values, (self.site.batch, kept, self.site.columns, self.site.width)
            ):
                return kept
        return None

    def _has(self, views: Sequence[View], target: Layout) -> bool:
        wanted = self._atoms(target)
        return any(self._atoms(view.layout) == wanted for view in views)

    def _atoms(self, layout: Layout) -> set[int]:
        return {atom for dim in self.axes.resolve_all(layout) for atom in dim}

    def _fetch(self, views: Sequence[View], target: Layout) -> tuple[ir.Value, float]:
        site = self.site
        view = best_view(self.axes, views, target)
        if view is not None:
            steps = plan(self.axes, view.layout, target)
            return emit(self.editor, view.value, steps, like=site.anchor, before=site.end), view.factor
        # The product itself broadcasts an axis that the standard's op wants to be there.
        view = views[0]
        if not self._atoms(view.layout) <= self._atoms(target):
            raise Refusal(f"{view.value.name!r} has an axis that is none of the attention's")
        value = spread(
            self.editor, self.axes, view.value, view.layout, target, like=site.anchor, before=site.end
        )
        sizes = [self.axes.size(dim) for dim in self.axes.resolve_all(target)]
        return expand(self.editor, value, sizes, like=site.anchor, before=site.end), view.factor

    def multiplied(self, inputs: Inputs) -> None:
        """Multiply Q (or K) by what the logits were multiplied by; in place.

        Raises:
            Refusal: a multiplier differs from query to query and from key to key.
        """
        site = self.site
        self._positive(inputs)
        for step, layout in site.multipliers:
            assert step.operand is not None
            own = self.aligned(step.operand, layout)
            atoms = self._atoms(own)
            on_query = not atoms & self._atoms((site.columns,))
            if not on_query and atoms & self._atoms((site.rows,)):
                raise Refusal(
                    f"{name_of(step.node)} multiplies the logits by {step.operand.name!r}, one number each"
                )
            heads = site.heads
            sequence = site.rows if on_query else site.columns
            target: Layout = (site.batch, heads, sequence, ())
            tensor = spread(
                self.editor, self.axes, step.operand, own, target, like=site.anchor, before=site.end
            )
            base = inputs.query if on_query else inputs.key
            if not on_query and base.shape is not None and base.shape[1] != self.axes.size(heads):
                raise Refusal(f"{name_of(step.node)} multiplies shared keys by a number for each head")
            op_type = "Mul" if step.kind == "multiply" else "Div"
            made = self.editor.node(
                op_type, [base, tensor], like=site.anchor, before=site.end, shape=base.shape
            )
            if on_query:
                inputs.query = made
            else:
                inputs.key = made

    def aligned(self, value: ir.Value, layout: Layout) -> Layout:
        """The axes of a tensor that is broadcast against the logits.

        Raises:
            Refusal: its shape is unknown.
        """
        array = constant(value)
        shape = (
            list(array.shape) if array is not None else (None if value.shape is None else list(value.shape))
        )
        if shape is None or len(shape) > len(layout):
            raise Refusal(f"the shape of {value.name!r} is unknown")
        tail = self.axes.resolve_all(layout)[len(layout) - len(shape) :]
        return tuple(() if size == 1 else dim for size, dim in zip(shape, tail, strict=True))

    def _positive(self, inputs: Inputs) -> None:
        """Put a scale that is not positive onto Q: the op takes the scale's square root."""
        if inputs.scale > 0:
            return
        dtype = operand_type(self.site.query)
        by = self.editor.initializer(np.array(inputs.scale, dtype.numpy()), "attention/scale")
        inputs.query = self.editor.node(
            "Mul", [inputs.query, by], like=self.site.anchor, before=self.site.end, shape=inputs.query.shape
        )
        inputs.scale = 1.0

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another element type."""
        if value.dtype is None or value.dtype == dtype:
            return value
        return self.editor.node(
            "Cast", [value], like=self.site.anchor, before=self.site.end,
            attributes={"to": int(dtype)}, shape=value.shape, dtype=dtype,
        )  # fmt: skip

    def place(self, made: ir.Value) -> None:
        """Let (B, H, Sq, Dv) stand for the site's result."""
        site = self.site
        target = (site.batch, site.heads, site.rows, site.width)
        replace_forward(
            self.editor, self.axes, made, target, site.result.value, site.result.layout,
            like=site.anchor, before=site.end,
        )  # fmt: skip

    def result_shape(self) -> list[int | str]:
        """Sizes of the result, (B, H, Sq, Dv)."""
        site = self.site
        return [self.axes.size(dim) for dim in (site.batch, site.heads, site.rows, site.width)]


def operand_type(operand: Operand) -> ir.DataType:
    """An operand's element type; fp32 where unknown."""
    return operand.value.dtype or ir.DataType.FLOAT
