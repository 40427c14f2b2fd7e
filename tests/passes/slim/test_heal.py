"""Cuts are healed: what others can take over is taken over, and later layers repair earlier cuts."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from healing import HIDDEN, TOKENS, WIDTH, calibrated, loss, transformer
from pass_graphs import run

from edgec.core.errors import RequestError
from edgec.core.graph import Graph, TensorSpec
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.head_widths import turn
from edgec.passes.slim.heal import Slimmer
from edgec.passes.slim.plan import SlimPlan


def units_of(slimmer: Slimmer, kind: str) -> list[str]:
    return [unit.name for unit in slimmer.units if unit.kind == kind]


def healed(graph: Graph, text: str) -> ir.Model:
    slimmer = Slimmer(graph)
    model = slimmer.apply(SlimPlan.parse(text, slimmer.units))[0].model
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def only_cut(graph: Graph, text: str) -> ir.Model:
    """The same members gone and nothing healed."""
    slimmer = Slimmer(graph)
    plan = SlimPlan.parse(text, slimmer.units)
    by_name = {unit.name: unit for unit in slimmer.units}
    kept = {
        name: list(slimmer.order(by_name[name])[by_name[name].size - count :])
        for name, count in plan.kept.items()
    }
    model = graph.model.clone()
    CutUnits(slimmer.units, kept)(model)
    return model


def test_the_empty_plan_changes_nothing() -> None:
    graph = calibrated(transformer())
    assert loss(healed(graph, "off"), graph.model) == 0.0


def test_neurons_that_others_can_stand_for_cost_nothing() -> None:
    model = transformer()
    for block in range(2):
        for name in (f"w1{block}", f"b1{block}"):
            value = model.graph.initializers[name]
            array = value.const_value.numpy().copy()
            array[..., HIDDEN // 2 :] = array[..., : HIDDEN // 2]
            value.const_value = ir.tensor(array, name=name)
    graph = calibrated(model)
    assert loss(healed(graph, "mlp=0.5"), model) < 2e-3
    assert loss(only_cut(graph, "mlp=0.5"), model) > 0.1


@pytest.mark.parametrize(
    ("plan", "share"),
    # Heads of drawn weights have little to do with one another: others can take over less of one.
    [("mlp=0.5", 0.75), ("heads=0.5", 0.9), ("v_width=0.5", 0.9), ("mlp=0.5+heads=0.5+qk_width=0.5", 0.9)],
)
def test_healing_leaves_a_fraction_of_what_the_cut_alone_costs(plan: str, share: float) -> None:
    graph = calibrated(transformer())
    after, before = loss(healed(graph, plan), graph.model), loss(only_cut(graph, plan), graph.model)
    assert after < share * before


def test_a_later_layer_repairs_an_earlier_cut() -> None:
    graph = calibrated(transformer())
    slimmer = Slimmer(graph)
    first = units_of(slimmer, "mlp")[0]
    model = slimmer.apply(SlimPlan({first: 4}))[0].model
    # What heals the cut layer alone: the weights of all others as they were.
    alone = model.clone()
    nodes = {node.name: node for node in alone.graph}
    whole = {str(node.name): node for node in graph.model.graph}
    changed = 0
    for name in ("o1", "d1", "ob1", "db1"):
        node = next(node for node in alone.graph if node.outputs[0].name == name)
        before = next(node for node in whole.values() if node.outputs[0].name == name)
        for index, value in enumerate(node.inputs):
            old = before.inputs[index]
            if old is not None and old.is_initializer():
                array = old.const_value.numpy()
                changed += not np.array_equal(value.const_value.numpy(), array)
                value.const_value = ir.tensor(array, name=value.name)
    assert nodes
    assert changed == 4
    assert loss(model, graph.model) < 0.95 * loss(alone, graph.model)


def test_a_linear_block_becomes_its_map() -> None:
    model = transformer(3)
    # Of the second block nothing is left but its biases.
    for name in ("w21", "wo1"):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(np.zeros_like(value.const_value.numpy()), name=name)
    graph = calibrated(model)
    slimmer = Slimmer(graph)
    block = next(unit for unit in slimmer.units if unit.name == units_of(slimmer, "block")[1])
    assert slimmer.degradation(block, 0) < 1e-3
    assert loss(slimmer.apply(SlimPlan({block.name: 0}))[0].model, model) < 2e-3


def test_a_map_stands_where_a_later_block_was() -> None:
    graph = calibrated(transformer(3))
    slimmer = Slimmer(graph)
    block = units_of(slimmer, "block")[1]
    model = slimmer.apply(SlimPlan({block: 0}))[0].model
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    products = [node for node in model.graph if node.op_type == "MatMul"]
    whole = [node for node in graph.model.graph if node.op_type == "MatMul"]
    assert len(products) == len(whole) - 4 + 1
    assert loss(model, graph.model) < 0.9 * loss(only_cut_block(graph, block), graph.model)


def only_cut_block(graph: Graph, block: str) -> ir.Model:
    model = graph.model.clone()
    CutUnits(Slimmer(graph).units, {block: []})(model)
    return model


@pytest.mark.parametrize("kind", ["attention", "mlp_block"])
def test_what_a_branch_did_is_taken_over_by_its_neighbours(kind: str) -> None:
    graph = calibrated(transformer(3))
    unit = units_of(Slimmer(graph), kind)[1]
    assert loss(healed(graph, f"{unit}=0"), graph.model) < 0.9 * loss(
        only_cut_block(graph, unit), graph.model
    )


def test_the_depth_is_cut_from_behind() -> None:
    graph = calibrated(transformer(3))
    slimmer = Slimmer(graph)
    depth = next(unit for unit in slimmer.units if unit.kind == "depth")
    assert slimmer.order(depth) == (2, 1, 0)
    assert slimmer.degradation(depth, 3) == 0.0
    assert 0.0 < slimmer.degradation(depth, 2) <= slimmer.degradation(depth, 1)


def test_a_product_of_the_rank_of_its_inputs_loses_nothing() -> None:
    # The inputs live in a plane of 8; behind a LayerNorm they span at most one dimension more.
    graph = calibrated(transformer())
    slimmer = Slimmer(graph)
    product = next(unit for unit in slimmer.units if unit.kind == "rank")
    assert slimmer.degradation(product, 10) < 1e-3
    model = slimmer.apply(SlimPlan({product.name: 10}))[0].model
    assert loss(model, graph.model) < 5e-3


def test_turned_heads_are_the_same_network() -> None:
    graph = calibrated(transformer())
    slimmer = Slimmer(graph)
    model = graph.model.clone()
    for unit in slimmer.units:
        if unit.kind == "qk_width":
            turns = slimmer._importance.turns(unit)
            assert turns
            turn(model, turns)
    assert loss(model, graph.model) < 1e-4
    before = graph.model.graph.initializers["wqkv0"].const_value.numpy()
    assert not np.allclose(model.graph.initializers["wqkv0"].const_value.numpy(), before, atol=1e-3)


def test_the_probe_grows_with_what_leaves() -> None:
    slimmer = Slimmer(calibrated(transformer()))
    for unit in slimmer.units:
        found = [slimmer.degradation(unit, kept) for kept in range(unit.size, -1, -1)]
        assert found[0] == 0.0, unit.name
        assert all(np.diff(found) >= 0), unit.name
        assert sorted(slimmer.order(unit)) == list(range(unit.size))


def test_the_same_plan_gives_the_same_bytes() -> None:
    graph = calibrated(transformer())
    one, other = (ir.to_proto(healed(graph, "mlp=0.5+heads=0.5")).SerializeToString() for _ in range(2))
    assert one == other


def test_padding_says_nothing() -> None:
    model = transformer()
    graph = calibrated(model, samples=24)
    mask = np.ones((1, TOKENS), np.int64)
    mask[:, 6:] = 0
    spec = (*graph.inputs, TensorSpec("mask", (1, TOKENS), "int64", "mask"))
    value = ir.Value(name="mask", shape=ir.Shape((1, TOKENS)), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(value)

    def orders(noise: float) -> tuple[int, ...]:
        feeds = []
        for sample in graph.calibration:
            x = sample["x0"].copy()
            x[:, 6:] += noise * np.random.default_rng(9).normal(size=x[:, 6:].shape)
            feeds.append({"x0": x.astype(np.float32), "mask": mask})
        slimmer = Slimmer(dataclasses.replace(graph, inputs=spec, calibration=tuple(feeds)))
        lessons = slimmer._lessons.streams
        return tuple(part.shape[0] for stream in lessons.values() for part in stream.rows)

    assert set(orders(0.0)) == {6}


def test_there_is_no_slimming_without_calibration_data() -> None:
    graph = dataclasses.replace(calibrated(transformer()), calibration=())
    with pytest.raises(RequestError, match="--calib"):
        Slimmer(graph)


def test_a_plan_of_another_graph_is_refused() -> None:
    with pytest.raises(RequestError, match="no unit"):
        Slimmer(calibrated(transformer())).apply(SlimPlan({"mlp:elsewhere": 3}))


def test_the_graph_that_came_in_stays_as_it_was() -> None:
    graph = calibrated(transformer())
    before = ir.to_proto(graph.model).SerializeToString()
    healed(graph, "mlp=0.5+qk_width=0.5+rank=0.5")
    assert ir.to_proto(graph.model).SerializeToString() == before
    assert next(iter(run(graph.model, graph.calibration[0]).values())).shape[-1] + 10 == WIDTH
