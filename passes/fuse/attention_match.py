"""One attention, read off the graph: which axes it has, where its operands are, what its logits meet."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute, constant
from edgec.passes.fuse.attention_logits import (
    Path,
    Step,
    Weighing,
    follow_probabilities,
    name_of,
    paths_back,
)
from edgec.passes.fuse.attention_mask import MaskTerm, zeroed
from edgec.passes.fuse.attention_product import Product, lay
from edgec.passes.fuse.axes import Axes, Dim, Layout, dims
from edgec.passes.fuse.features import feature_index
from edgec.passes.infra import Refusal

Rows = Literal["tokens", "channels", "unknown"]
"""What the softmax runs over."""


@dataclasses.dataclass(frozen=True)
class Operand:
    """A tensor and its axes."""

    value: ir.Value
    layout: Layout


@dataclasses.dataclass
class Site:
    """One attention.

    Attributes:
        anchor: the softmax or the native Attention: gives name and source layer.
        end: the node that makes the result.
        axes: the atoms.
        query: Q as it enters the product.
        key: K as it enters the product.
        value: V as it enters the product.
        result: the result.
        batch: atoms of the batch.
        heads: atoms of the heads.
        rows: atoms of the queries.
        columns: atoms of the keys.
        depth: atoms that the query-key product sums over.
        width: atoms of V's features.
        scale: what the product is multiplied by.
        multipliers: tensors it is multiplied (or divided) by before any mask, with their axes.
        terms: the masks, in the order of application.
        causal: whether a native node is causal.
        precision: the softmax's element type.
        softcap: bound on the logits by tanh; 0 for none.
        over: what the softmax runs over.
    """

    anchor: ir.Node
    end: ir.Node
    axes: Axes
    query: Operand
    key: Operand
    value: Operand
    result: Operand
    batch: Dim
    heads: Dim
    rows: Dim
    columns: Dim
    depth: Dim
    width: Dim
    scale: float = 1.0
    multipliers: list[tuple[Step, Layout]] = dataclasses.field(default_factory=list)
    terms: list[MaskTerm] = dataclasses.field(default_factory=list)
    causal: bool = False
    precision: ir.DataType | None = None
    softcap: float = 0.0
    over: Rows = "unknown"


def read_softmax(softmax: ir.Node) -> Site | None:
    """The attention around a softmax; None where it feeds no product.

    Raises:
        Refusal: it feeds one, and yet it is no attention; the message says why.
    """
    weighing = follow_probabilities(softmax)
    return None if weighing is None else read_with(softmax, weighing)


def read_with(softmax: ir.Node, weighing: Weighing) -> Site:
    """The attention around a softmax whose probabilities go into a product this way.

    Raises:
        Refusal: it is no attention; the message says why.
    """
    logits = softmax.inputs[0]
    assert logits is not None
    reasons = []
    for path in paths_back(logits):
        try:
            site = _read(softmax, weighing, path)
        except Refusal as miss:
            reasons.append(miss.reason)
            continue
        if path.shared is not None:
            readers = [use.node for use in path.shared.uses()]
            others = ", ".join(name_of(node) for node in readers) or "the graph's outputs"
            raise Refusal(f"the logits {path.shared.name!r} have more than one consumer: {others}")
        return site
    raise Refusal(reasons[0])


def _read(softmax: ir.Node, weighing: Weighing, path: Path) -> Site:
    product = path.product
    if product is None:
        made = "a graph input or a constant" if path.end is None else name_of(path.end)
        raise Refusal(f"the softmax runs over what {made} gives, not over a query-key product")
    axes = Axes()
    bound = product.bind(axes)
    layout = lay(product.out, bound)
    site_terms: list[MaskTerm] = []
    multipliers: list[tuple[Step, Layout]] = []
    scale, softcap = product.factor, 0.0
    precision = product.node.outputs[0].dtype
    before_cap: float | None = None
    for step in reversed(path.steps):
        if step.kind == "move":
            layout = axes.forward(step.node, layout)
            continue
        added = len(dims(step.node.outputs[0])) - len(layout)
        layout = ((),) * added + layout
        if step.kind == "cast":
            precision = step.node.outputs[0].dtype
        elif step.kind == "scale":
            scale *= step.factor
            site_terms = [_scaled(term, step.factor) for term in site_terms]
        elif step.kind == "add":
            assert step.operand is not None
            site_terms.append(MaskTerm(step.node, step.operand, layout, step.factor))
        elif step.kind == "where":
            assert step.operand is not None
            site_terms.append(MaskTerm(step.node, step.operand, layout, 1.0, step.factor, step.keep))
        elif step.kind == "tanh":
            if site_terms or before_cap is not None:
                raise Refusal(f"{name_of(step.node)} bounds logits that are masked or bounded before")
            before_cap, scale = scale, 1.0
        else:
            if site_terms or before_cap is not None:
                raise Refusal(f"{name_of(step.node)} multiplies logits that are masked or bounded before")
            multipliers.append((step, layout))

    if before_cap is not None:
        # cap * tanh(scale / cap * product), as the standard writes it.
        scale, softcap = before_cap * scale, scale
    columns = axes.resolve(layout[int(attribute(softmax, "axis", -1))])
    side = _key_side(axes, path, bound, columns, softmax)
    value_layout = layout
    for place, node in enumerate((*weighing.moves, None)):
        for zeroing in weighing.zeroings:
            if zeroing.moved == place:
                site_terms = zeroed(axes, site_terms, zeroing, value_layout)
        value_layout = value_layout if node is None else axes.forward(node, value_layout)
    weighed = weighing.product
    out_bound = weighed.bind(axes, weighing.side, value_layout)
    summed = {atom for letter in weighed.contracted for atom in axes.resolve(out_bound[letter])}
    if summed != set(axes.resolve(columns)):
        if weighed.weight() is not None:
            raise Refusal(
                f"the linear layer {name_of(weighed.node)} mixes the probabilities along another axis "
                f"(talking heads) before they weigh the values"
            )
        raise Refusal(f"{name_of(weighed.node)} does not sum the probabilities over the axis of the softmax")
    if weighed.factor != 1.0:
        raise Refusal(f"{name_of(weighed.node)} scales the weighted values by {weighed.factor:g}")

    query = Operand(product.operands[1 - side], lay(product.letters[1 - side], bound))
    key = Operand(product.operands[side], lay(product.letters[side], bound))
    values = Operand(weighed.operands[1 - weighing.side], lay(weighed.letters[1 - weighing.side], out_bound))
    result = Operand(weighed.node.outputs[0], lay(weighed.out, out_bound))
    width = tuple(atom for letter in weighed.free(1 - weighing.side) for atom in out_bound[letter])
    depth = tuple(atom for letter in product.contracted for atom in bound[letter])

    key_atoms, value_atoms = _atoms(axes, key.layout), _atoms(axes, values.layout)
    rest, rows = _rows(axes, layout, columns, key_atoms | value_atoms)
    known = {atom for dim in (*rest, rows, columns, width) for atom in axes.resolve(dim)}
    strangers = value_atoms - known
    if strangers:
        raise Refusal(f"the values {values.value.name!r} have an axis that the probabilities lack")
    _check_shared(axes, product, query, key, values, {atom for dim in (*rest, rows) for atom in dim})
    features = {operand: feature_atoms(axes, operand) for operand in (query, key)}
    batch, heads = _group(axes, rest, features[query])
    return Site(
        softmax,
        weighed.node,
        axes,
        query,
        key,
        values,
        result,
        batch,
        heads,
        rows,
        columns,
        depth,
        width,
        scale,
        multipliers,
        site_terms,
        precision=precision,
        softcap=softcap,
        over=over_axis(axes, features[query], features[key], rows, columns, depth),
    )


def _check_shared(
    axes: Axes, product: Product, query: Operand, key: Operand, values: Operand, batch: set[int]
) -> None:
    """Keys and values must belong together: be as many, in the same batches and heads."""
    key_batch, value_batch = (_atoms(axes, operand.layout) & batch for operand in (key, values))
    if key_batch == value_batch:
        return
    if constant(key.value) is not None:
        raise Refusal(f"the logits come from the linear layer {name_of(product.node)}: there are no keys")
    if product.weight() is not None:
        raise Refusal(_mixing(product))
    own = value_batch - key_batch
    if own and own <= _atoms(axes, query.layout):
        raise Refusal(f"the values {values.value.name!r} differ from query to query")
    raise Refusal(f"{key.value.name!r} and {values.value.name!r} do not have the same batches and heads")


def _mixing(product: Product) -> str:
    return (
        f"the logits come from the linear layer {name_of(product.node)}, whose weights mix them along "
        f"another axis than the softmax's (talking heads, outlook attention)"
    )


def _scaled(term: MaskTerm, factor: float) -> MaskTerm:
    fill = None if term.fill is None else term.fill * factor
    if fill is not None and np.isnan(fill):
        raise Refusal(f"{name_of(term.node)} fills with infinity, which is then multiplied by zero")
    return dataclasses.replace(term, factor=term.factor * factor, fill=fill)


def _key_side(axes: Axes, path: Path, bound: dict[str, Dim], columns: Dim, softmax: ir.Node) -> int:
    """Which operand of the query-key product is K: the one whose own axis the softmax runs over."""
    product = path.product
    assert product is not None
    for side in (1, 0):
        own = {atom for letter in product.free(side) for atom in axes.resolve(bound[letter])}
        if columns and set(columns) <= own:
            letters = [x for x in product.free(side) if set(axes.resolve(bound[x])) & set(columns)]
            if {atom for x in letters for atom in axes.resolve(bound[x])} == set(columns):
                return side
    if product.weight() is not None:
        raise Refusal(_mixing(product))
    if not columns:
        raise Refusal("the softmax runs over an axis of size one")
    raise Refusal(
        f"{name_of(softmax)} runs over an axis that neither operand of {name_of(product.node)} has alone"
    )


def _atoms(axes: Axes, layout: Layout) -> set[int]:
    return {atom for dim in axes.resolve_all(layout) for atom in dim}


def _rows(axes: Axes, layout: Layout, columns: Dim, shared: set[int]) -> tuple[Layout, Dim]:
    """The batch dimensions and the queries: the last dimension that neither K nor V has."""
    rest = [dim for dim in axes.resolve_all(layout) if dim != columns or not columns]
    for position in range(len(rest) - 1, -1, -1):
        if not shared.intersection(rest[position]):
            rows = rest.pop(position)
            return tuple(rest), rows
    return tuple(rest), ()


def _group(axes: Axes, rest: Layout, features: set[int]) -> tuple[Dim, Dim]:
    """Batch and heads: two dimensions as they stand, more folded, one split where its parts tell."""
    if len(rest) >= 2:
        return tuple(atom for dim in rest[:-1] for atom in dim), rest[-1]
    if not rest:
        return (), ()
    atoms = axes.resolve(rest[0])
    count = 0
    while count < len(atoms) and atoms[len(atoms) - 1 - count] in features:
        count += 1
    return atoms[: len(atoms) - count], atoms[len(atoms) - count :]


def feature_atoms(axes: Axes, operand: Operand) -> set[int]:
    """The atoms along which the feature index varies; empty where it is unknown."""
    index = None if constant(operand.value) is not None else feature_index(operand.value)
    if index is None:
        return set()
    atoms = [atom for dim in axes.resolve_all(operand.layout) for atom in dim]
    sizes = [axes.size((atom,)) for atom in atoms]
    parts = index.reshape([size for size in sizes if isinstance(size, int)])
    return {atom for axis, atom in enumerate(atoms) if bool((parts != parts.take([0], axis)).any())}


def over_axis(axes: Axes, query: set[int], key: set[int], rows: Dim, columns: Dim, depth: Dim) -> Rows:
    """Tokens where the product sums over features, channels where the softmax runs over them."""
    summed = set(axes.resolve(depth))
    verdicts = set()
    for features, own in ((query, rows), (key, columns)):
        compared = set(axes.resolve(own))
        if features & summed and not features & compared:
            verdicts.add("tokens")
        elif features & compared and not features & summed:
            verdicts.add("channels")
    if verdicts == {"tokens"}:
        return "tokens"
    return "channels" if verdicts == {"channels"} else "unknown"
