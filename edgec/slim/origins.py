"""From which tensor of a module a constant of its graph came, and what that tensor becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.core.errors import JobError
from edgec.passes.slim.units import Unit


@dataclasses.dataclass(frozen=True)
class Origin:
    """A constant is a tensor of the module, or some rows of it.

    Attributes:
        name: the parameter or buffer, as `named_parameters` calls it.
        transposed: whether the constant is its transpose.
        start: the first row of the parameter that the constant holds, -1 where it holds all of it.
    """

    name: str
    transposed: bool = False
    start: int = -1


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What a constant became, in the parameter's own layout."""

    origin: Origin
    array: np.ndarray
    changed: bool
    layer: str


def new_tensors(
    whole: ir.Model, slim: ir.Model, tensors: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """The tensors of a module that a slimmed graph changed, as it has them now.

    Args:
        whole: the module's graph, whose constants are the module's own tensors, transposed or in parts.
        slim: the same, cut and healed; its nodes keep their names.
        tensors: the module's parameters and buffers.
        where: the module, for messages.

    Raises:
        JobError: a constant that changed is no tensor of the module, or layers that share a tensor need
            different ones now; names the layer.
    """
    pieces: dict[str, list[_Piece]] = {}
    for layer, before, after in _pairs(whole, slim):
        changed = before.shape != after.shape or not np.array_equal(before, after)
        origin = _origin(before, layer, tensors)
        if origin is None:
            if changed:
                raise JobError(
                    f"layer {layer} cannot be slimmed in the module: {_reason(before, layer, tensors)}",
                    where=where,
                    fix="leave this layer out of the plan, or slim the graph with edgec compile --slim",
                )
            continue
        array = after.T if origin.transposed else after
        if array.size == tensors[origin.name].size:
            array = array.reshape(tensors[origin.name].shape)
        pieces.setdefault(origin.name, []).append(_Piece(origin, array, changed, layer))
    return {
        name: _joined(found, tensors[name], where)
        for name, found in pieces.items()
        if any(piece.changed for piece in found)
    }


def _pairs(whole: ir.Model, slim: ir.Model) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The layer, the constant before and the constant after, of every node that is left."""
    nodes = {node.name: node for node in whole.graph}
    for node in slim.graph:
        old = nodes.get(node.name)
        for before, after in zip(() if old is None else old.inputs, node.inputs, strict=False):
            if before is None or after is None or before.const_value is None or after.const_value is None:
                continue
            if before.dtype is not None and before.dtype.is_floating_point():
                yield source_layer(node), before.const_value.numpy(), after.const_value.numpy()


def _origin(array: np.ndarray, layer: str, tensors: Mapping[str, np.ndarray]) -> Origin | None:
    """The tensor nearest to a layer that has these numbers."""
    for name in sorted(tensors, key=lambda name: -_shared(name, layer)):
        tensor = tensors[name]
        if tensor.size == array.size and np.array_equal(np.squeeze(tensor), np.squeeze(array)):
            return Origin(name)
        if array.ndim == tensor.ndim == 2 and np.array_equal(tensor.T, array):
            return Origin(name, transposed=True)
        for transposed in (False, True) if array.ndim == 2 else (False,):
            start = _rows(array.T if transposed else array, tensor)
            if start >= 0:
                return Origin(name, transposed, start)
    return None


def _reason(array: np.ndarray, layer: str, tensors: Mapping[str, np.ndarray]) -> str:
    """Why a constant is no tensor of the module."""
    shape = "x".join(map(str, array.shape))
    for name in sorted(tensors, key=lambda name: -_shared(name, layer)):
        for tensor in (tensors[name], tensors[name].T):
            if array.ndim < 2 or tensor.shape != array.shape:
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = array / tensor
            for axis in range(array.ndim):
                rows = np.moveaxis(scale, axis, 0).reshape(array.shape[axis], -1)
                if np.allclose(rows, rows[:, :1], rtol=1e-4):
                    return f"its {shape} weight is {name} with a scale folded in, as of a BatchNorm behind it"
    return f"its constant of shape {shape} is none of the module's tensors, but computed"


def _shared(name: str, layer: str) -> int:
    """How many parts two dotted names share from the front."""
    count = 0
    for own, other in zip(name.split("."), layer.split("."), strict=False):
        if own != other:
            break
        count += 1
    return count


def _rows(part: np.ndarray, tensor: np.ndarray) -> int:
    """The row of a tensor at which a smaller one lies in it; -1 where it does not."""
    if part.ndim == 0 or part.ndim != tensor.ndim or part.shape[1:] != tensor.shape[1:]:
        return -1
    if not 1 < len(part) < len(tensor):
        return -1
    first = tensor[: len(tensor) - len(part) + 1].reshape(len(tensor) - len(part) + 1, -1)
    for start in np.flatnonzero((first == part[0].reshape(-1)).all(axis=1)):
        if np.array_equal(tensor[start : start + len(part)], part):
            return int(start)
    return -1


def _joined(pieces: Sequence[_Piece], tensor: np.ndarray, where: str) -> np.ndarray:
    """One array of what all readers of a tensor have of it now."""
    parts: dict[int, np.ndarray] = {}
    for piece in pieces:
        there = parts.setdefault(piece.origin.start, piece.array)
        if there.shape != piece.array.shape or not np.array_equal(there, piece.array):
            layers = ", ".join(sorted({each.layer for each in pieces}))
            raise JobError(
                f"{piece.origin.name} is shared by {layers}, which need different weights now",
                where=where,
                fix="give each layer its own weight, or leave it out of the plan",
            )
    if len({start < 0 for start in parts}) > 1:
        raise JobError(
            f"{pieces[0].origin.name} is read whole and in parts, and cannot be both after the cut",
            where=where,
            fix="leave its layer out of the plan",
        )
    if -1 in parts:
        return parts[-1]
    return np.concatenate([parts[start] for start in sorted(parts)]).astype(tensor.dtype)


def owners_of(whole: ir.Model, unit: Unit, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The layers of the module that hold a unit's constants, matrices first."""
    names = {extent.value for extent in unit.slices}
    found: dict[str, int] = {}
    for node in whole.graph:
        for value in node.inputs:
            if value is None or value.name not in names or value.const_value is None:
                continue
            origin = _origin(value.const_value.numpy(), source_layer(node), tensors)
            if origin is not None:
                found.setdefault(origin.name.rpartition(".")[0], -len(value.const_value.shape))
    return sorted(found, key=lambda owner: found[owner])
