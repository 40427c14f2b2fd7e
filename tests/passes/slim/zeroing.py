"""A network in which the members that will leave are zero, before and after they left."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from pass_graphs import apply, build, draw, run

from edgec.passes.infra import MatchLog
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.find import find_units
from edgec.passes.slim.units import Unit

EXACT = 1e-5
"""Bound on what a cut of zeros changes, in spreads of an output: sums of fewer terms round otherwise."""


def graph(body: str, **weights: np.ndarray) -> ir.Model:
    """A model from its text whose values have their shapes."""
    model = build(body, **weights)
    apply(model, "canonicalize.shapes")
    return model


def units_of(model: ir.Model) -> dict[str, Unit]:
    """The units by name."""
    return {unit.name: unit for unit in find_units(model, MatchLog())}


def misses_of(model: ir.Model) -> dict[str, str]:
    """Why what cannot be cut cannot, by source layer."""
    log = MatchLog()
    find_units(model, log)
    return {miss.source: miss.reason for miss in log.misses}


def zeroed(model: ir.Model, units: dict[str, Unit], kept: dict[str, list[int]]) -> ir.Model:
    """A copy in which the constants of the members that leave are zero."""
    copy = model.clone()
    for name, members in kept.items():
        for extent in units[name].slices:
            value = copy.graph.initializers[extent.value]
            assert value.const_value is not None
            array = value.const_value.numpy().copy()
            np.moveaxis(array, extent.axis, 0)[~extent.kept(members)] = 0
            value.const_value = ir.tensor(array, name=value.name)
    return copy


def cut(model: ir.Model, units: dict[str, Unit], kept: dict[str, list[int]]) -> ir.Model:
    """A checked copy without the members that leave."""
    copy = model.clone()
    CutUnits(list(units.values()), kept)(copy)
    proto = ir.to_proto(copy)
    onnx.checker.check_model(proto)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    declared = {value.name: value for value in proto.graph.value_info}
    for value in inferred.graph.value_info:
        if value.name in declared:
            assert value.type.tensor_type.shape == declared[value.name].type.tensor_type.shape, value.name
    return copy


def change(model: ir.Model, units: dict[str, Unit], kept: dict[str, list[int]]) -> float:
    """The worst difference between a network with zeros and the one without them, in spreads of an output."""
    zeros = zeroed(model, units, kept)
    feeds = draw(model)
    worst = 0.0
    narrow = run(cut(zeros, units, kept), feeds)
    for name, before in run(zeros, feeds).items():
        after = narrow[name]
        assert before.shape == after.shape
        assert np.ptp(before) > 0, "an output that says nothing"
        worst = max(worst, float(np.abs(before - after).max() / before.std()))
    return worst


def last(unit: Unit, count: int) -> dict[str, list[int]]:
    """A plan that keeps the last `count` members of one unit, so that what leaves is in front."""
    return {unit.name: list(range(unit.size - count, unit.size))}
