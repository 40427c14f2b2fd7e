"""Writing the new graph: nodes that keep their source layer, and tensors moved from order to order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import PASS_KEY, SOURCE_KEY, source_layer
from edgec.targets.coreml.lowering.full import FULL_KEY
from edgec.targets.coreml.neural_engine.storage import Axes, Factor, Factors, Stored, flat, shape_of, volume

MAX_RANK = 5
"""Core ML's tensors stop here."""


class Emitter:
    """Collects the nodes and constants of a graph.

    Attributes:
        nodes: in order.
        initializers: by name.
        like: the node of the old graph that is being rewritten; new nodes take its source layer.
        moves: transposes written, by the source layer that asked.
    """

    def __init__(self, pass_name: str) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.like: ir.Node | None = None
        self.moves: list[str] = []
        self._pass_name = pass_name
        self._names: set[str] = set()
        self._moved: dict[tuple[object, ...], ir.Value] = {}

    def reserve(self, name: str) -> None:
        """Keep a name for an input or output of the graph."""
        self._names.add(name)

    def fresh_name(self, stem: str) -> str:
        """A name that nothing has yet."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def constant(self, array: np.ndarray, stem: str = "constant") -> ir.Value:
        """A new initializer."""
        name = self.fresh_name(stem)
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.initializers[name] = value
        return value

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shapes: Sequence[Sequence[int]],
        *,
        dtype: ir.DataType | None = None,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> list[ir.Value]:
        """A new node; its outputs, in the shapes given and the type of its first input if none is."""
        assert self.like is not None
        given = {key: value for key, value in (attributes or {}).items() if value is not None}
        node = ir.Node(
            domain, op_type, list(inputs), ir.convenience.convert_attributes(given), num_outputs=len(shapes)
        )
        stem = f"{self.like.name or self.like.op_type}/{op_type}"
        node.name = self.fresh_name(stem)
        node.metadata_props[SOURCE_KEY] = source_layer(self.like)
        node.metadata_props[PASS_KEY] = self._pass_name
        if FULL_KEY in self.like.metadata_props:
            node.metadata_props[FULL_KEY] = self.like.metadata_props[FULL_KEY]
        kind = dtype or (inputs[0].dtype if inputs and inputs[0] is not None else None)
        for value, shape in zip(node.outputs, shapes, strict=True):
            value.name = self.fresh_name(f"{stem}_out")
            value.shape = ir.Shape(list(shape))
            if kind is not None:
                value.type = ir.TensorType(kind)
        self.nodes.append(node)
        return list(node.outputs)

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """The value in another shape; nothing is written where it has it."""
        if tuple(value.shape or ()) == tuple(shape):
            return value
        key = ("reshape", value, tuple(shape))
        if key not in self._moved:
            target = self.constant(np.asarray(shape, np.int64), "shape")
            [self._moved[key]] = self.op("Reshape", [value, target], [shape])
        return self._moved[key]

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """The value with its axes in another order."""
        key = ("transpose", value, tuple(perm))
        if key not in self._moved:
            assert value.shape is not None
            shape = [int(value.shape[axis]) for axis in perm]  # type: ignore[arg-type]
            [self._moved[key]] = self.op("Transpose", [value], [shape], attributes={"perm": list(perm)})
            assert self.like is not None
            self.moves.append(source_layer(self.like))
        return self._moved[key]

    def arrange(self, x: Stored, axes: Axes) -> Stored:
        """The tensor lying in these axes, which hold the same factors."""
        order, wanted = x.order, flat(axes)
        if order == wanted:
            return Stored(self.reshape(x.value, shape_of(axes)), x.logical, axes)
        runs = _runs(order, wanted)
        places = {run[0]: index for index, run in enumerate(runs)}
        perm = [places[factor] for factor in wanted if factor in places]
        sizes = [volume(run) for run in runs]
        whole = _whole_axes(x.stored, axes) if len(x.stored) == len(axes) else None
        if whole is not None:
            key = ("order", x.value, tuple(sizes), tuple(perm))
            if key not in self._moved:
                self._moved[key] = self.transpose(x.value, whole)
        value = self._permuted(x.value, sizes, perm)
        return Stored(self.reshape(value, shape_of(axes)), x.logical, axes)

    def would_move(self, x: Stored, order: Factors) -> bool:
        """Whether bringing the tensor into an order costs a transpose that is not there yet."""
        if x.order == order:
            return False
        runs = _runs(x.order, order)
        places = {run[0]: index for index, run in enumerate(runs)}
        perm = tuple(places[factor] for factor in order if factor in places)
        key = ("order", x.value, tuple(volume(run) for run in runs), perm)
        return key not in self._moved

    def _permuted(self, value: ir.Value, sizes: list[int], perm: list[int]) -> ir.Value:
        """One transpose, or as many of rank 4 as it takes where there are more runs than axes."""
        key = ("order", value, tuple(sizes), tuple(perm))
        if key in self._moved:
            return self._moved[key]
        if len(sizes) <= MAX_RANK:
            result = self.transpose(self.reshape(value, sizes), perm)
        else:
            result, now = value, list(range(len(sizes)))
            for at in range(len(perm)):
                source = now.index(perm[at])
                if source == at:
                    continue
                length = 1
                while now[source : source + length + 1] == perm[at : at + length + 1] and (
                    source + length < len(now)
                ):
                    length += 1
                parts = (now[:at], now[at:source], now[source : source + length], now[source + length :])
                shape = [math.prod(sizes[index] for index in part) for part in parts]
                result = self.transpose(self.reshape(result, shape), (0, 2, 1, 3))
                now = [*parts[0], *parts[2], *parts[1], *parts[3]]
        self._moved[key] = result
        return result


def _whole_axes(have: Axes, want: Axes) -> list[int] | None:
    """The permutation of whole axes that makes one of the other; None where axes change."""
    empty = [index for index, axis in enumerate(have) if not axis]
    places = {axis: index for index, axis in enumerate(have) if axis}
    perm = []
    for axis in want:
        if axis and axis not in places:
            return None
        if not axis and not empty:
            return None
        perm.append(places[axis] if axis else empty.pop(0))
    return perm


def _runs(order: Factors, wanted: Factors) -> list[list[Factor]]:
    """Factors that lie side by side before and after, taken together."""
    after = dict(itertools.pairwise(wanted))
    runs = [[order[0]]]
    for one, other in itertools.pairwise(order):
        if after.get(one) is other:
            runs[-1].append(other)
        else:
            runs.append([other])
    return runs
