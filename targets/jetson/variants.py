"""Other ways to build an fp16 engine, for the device to try: what is fastest there no other machine can say.

What keeps layers in fp32 is right on every device and costs some; plain fp16 is often within the gate too.
An edit that a TensorRT release handles badly in one network is a gain in the next. So the graphs travel
together, their weights once, and the device builds, verifies and times as many as its time allows
(`edgec_engine.choice`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.core.bundle import file_sha256
from edgec.core.dialect import is_op
from edgec.core.errors import UnsupportedError
from edgec.core.graph import Graph
from edgec.passes.editing import constant
from edgec.passes.infra import registered
from edgec.passes.manager import Pipeline
from edgec.passes.pipeline import load_passes
from edgec.passes.precision.weights import Constants
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.plan import MODEL, WEIGHTS, Variant
from edgec.targets.jetson.precise import (
    Half,
    decision_feeds,
    kept_nodes,
    never_half,
    prepared,
    write_decided,
)
from edgec.targets.jetson.versions import Dialect
from edgec.targets.jetson.writing import OBEY, TF32, finish

KEPT, FLAG, FREE, PLAIN = "kept", "flag", "free", "plain"
"""How types are decided: layers kept in fp32 as edgec decided; the same graph with the builder free to choose
(weakly typed releases only); the graph in fp32 without a Cast, the builder free to choose (likewise); every
layer in fp16 whose numbers fp16 holds."""

_SAYS = {
    KEPT: "layers kept in fp32",
    FLAG: "the builder chooses the types",
    FREE: "the graph is fp32, the builder chooses the types",
    PLAIN: "norms and softmax in fp16, kept is only what fp16 cannot hold",
}
_EDITS = {
    "": "",
    "source": "the graph as it was exported, without edgec's passes",
    "one_row": "the last block computes only the rows that are read",
    "parts": "attention as products and softmax",
}

_ALIGNMENT = 64

_MOVED = 2.0**-7
"""So far, of the largest, rounding may move a weight: some of fp16's steps, to make good for others."""

_SMALL = 1024
"""Bytes of a constant that stays in its model's file: shapes, axes and scalars are read from there."""


@dataclasses.dataclass
class LoweredGraph(Graph):
    """A lowered graph with the graphs of its variants.

    Attributes:
        others: by precision and edit, models beside `model`, whose own is `kept` without an edit.
    """

    others: Mapping[tuple[str, str], ir.Model] = dataclasses.field(default_factory=dict)


def half_variants(
    graph: Graph, dialect: Dialect, decided: Half, keep: frozenset[str]
) -> dict[tuple[str, str], ir.Model]:
    """The graphs of an fp16 engine's variants, the most promising first.

    Args:
        graph: the neutral graph.
        dialect: what the release takes.
        decided: what was decided for the engine itself.
        keep: ops of `ai.edgec` that a plugin runs.
    """
    found: dict[tuple[str, str], ir.Model] = {}
    whole = prepared(lower(graph.model, dialect, native_attention=True, keep=keep), decided)
    # Plain fp16 that is not finite here is not there.
    never = None if decided.plain_error is None else never_half(whole, decision_feeds(graph)) | decided.hot
    forms = {"": whole}
    narrow = _one_row(graph.model, dialect)
    if narrow is not None:
        forms["one_row"] = prepared(lower(narrow, dialect, native_attention=True, keep=keep), decided)
    if any(is_op(node, "Attention") for node in whole.graph):
        forms["parts"] = prepared(lower(graph.model, dialect, native_attention=False, keep=keep), decided)
    for edit, model in forms.items():
        if edit:
            found[KEPT, edit] = _written(model, decided.keep, decided)
        if never is not None and never.keys() != decided.keep.keys():
            found[PLAIN, edit] = _written(model, never, decided)
    if not dialect.strongly_typed:
        # Before anything of the graph is typed: these are what a user's own build would be given.
        found[FREE, ""] = lower(graph.model, dialect, native_attention=False, keep=keep)
        source = _source(graph, dialect)
        if source is not None:
            found[FREE, "source"] = source
    return found


def _source(graph: Graph, dialect: Dialect) -> ir.Model | None:
    """The graph as its frontend gave it, in the dialect; None where it computes more or has no form there."""
    if graph.imported is None or graph.is_reduced:
        return None
    try:
        return lower(graph.imported, dialect, native_attention=False)
    except UnsupportedError:
        return None


def _written(model: ir.Model, keep: Mapping[str, str], decided: Half) -> ir.Model:
    """A copy of a prepared model in fp16, what it has of the given nodes in fp32."""
    copy = model.clone()
    present = {node.name: node for node in copy.graph if node.name}
    kept = {name: why for name, why in keep.items() if name in present}
    weights = {
        name: arrays
        for name, arrays in decided.weights.items()
        if name in present and _are_of(present[name], arrays)
    }
    write_decided(copy, kept, weights)
    return copy


def _are_of(product: ir.Node, rounded: Constants) -> bool:
    """Whether rounded constants are of a product's own: one in parts may have a scale in its weights."""
    for value, array in zip(product.inputs[1:], rounded, strict=False):
        own = constant(value)
        if own is None or own.shape != array.shape:
            return False
        if np.abs(own - array).max(initial=0.0) > _MOVED * np.abs(own).max(initial=0.0):
            return False
    return True


def _one_row(model: ir.Model, dialect: Dialect) -> ir.Model | None:
    """The graph with the passes that are left out for the release; None where there is nothing for them."""
    load_passes()
    passes = [registered()[name]() for name in dialect.without_passes]
    copy = model.clone()
    if not passes or not any(report.matched for report in Pipeline(passes).run(copy)):
        return None
    return copy


def write_variants(graph: Graph, folder: Path, flags: tuple[str, ...], *, typed: bool) -> tuple[Variant, ...]:
    """Write the models of a lowered graph's variants and its own, their weights once, and describe all.

    Args:
        graph: the lowered graph; its own model is in the folder as `plan.MODEL`, and is written anew where
            others share its weights.
        folder: where to.
        flags: builder flags of its own build.
        typed: whether the graph's types are all there is to precision.

    Returns:
        the variants, the graph's own first; none where there is one way only.
    """
    others = dict(graph.others) if isinstance(graph, LoweredGraph) else {}
    forms = {(KEPT, ""): graph.model, **others}
    files = {key: MODEL if key == (KEPT, "") else f"model_{_name(key)}.onnx" for key in forms}
    if not typed:
        # The same file again, for a builder that is free to choose.
        free = {(FLAG, edit): (KEPT, edit) for precision, edit in forms if precision == KEPT}
        kept_somewhere = {key: like for key, like in free.items() if kept_nodes(forms[like])}
        files |= {key: files[like] for key, like in kept_somewhere.items()}
    if len(files) == 1:
        return ()
    if len(forms) > 1:
        _write_together({files[key]: model for key, model in forms.items()}, folder)
    order = sorted(files, key=lambda key: (list(_EDITS).index(key[1]), list(_SAYS).index(key[0])))
    return tuple(_described(key, files[key], forms, folder, flags) for key in order)


def _described(
    key: tuple[str, str],
    file: str,
    forms: Mapping[tuple[str, str], ir.Model],
    folder: Path,
    flags: tuple[str, ...],
) -> Variant:
    precision, edit = key
    kept = kept_nodes(forms[key]) if precision not in (FLAG, FREE) else {}
    own = flags if kept else tuple(flag for flag in flags if flag != OBEY)
    return Variant(
        name=_name(key),
        what="; ".join(filter(None, (_SAYS[precision], _EDITS[edit]))),
        precision=precision,
        edit=edit,
        model=file,
        model_sha256=file_sha256(folder / file),
        # As coarse as fp16, which the builder may take as well.
        flags=(*own, TF32) if precision == FREE else own,
        layer_precisions={} if not kept else dict.fromkeys(sorted(kept), "fp32"),
    )


def _name(key: tuple[str, str]) -> str:
    return "_".join(filter(None, key))


def _write_together(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write models beside one file with the weights of all, each once."""
    places: dict[str, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for name, model in models.items():
            copy = model.clone()
            finish(copy)
            for value in copy.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _SMALL:
                    continue
                data = tensor.tobytes()
                digest = hashlib.sha256(data).hexdigest()
                if digest not in places:
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                    places[digest] = (file.tell(), len(data))
                    file.write(data)
                offset, length = places[digest]
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=value.name or "",
                )
            ir.save(copy, folder / name)
