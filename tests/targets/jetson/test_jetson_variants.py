"""The graphs of an engine's variants: right, few, and their weights there once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from jetson_graphs import LENGTH, WIDTH, block, drawn, graph, model

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph
from edgec.core.numerics import GATES
from edgec.passes.manager import Pipeline
from edgec.passes.precision.half import HALF
from edgec.targets.jetson import target as jetson
from edgec.targets.jetson.engine import runnable
from edgec.targets.jetson.plan import Plan
from edgec.targets.jetson.preview import Preview
from edgec.targets.jetson.target import Jetson


def class_token(width: int = WIDTH) -> Graph:
    """An attention and an MLP whose first row alone is read."""
    weights = {f"w{name}": drawn(width, width, seed=at, scale=0.1) for at, name in enumerate("qkvo")}
    text = f"""t (float[2, {LENGTH}, {width}] x) => (float[2, {width}] y) {{
        n = LayerNormalization <axis = -1> (x, g, b)
        q = MatMul (n, wq) k = MatMul (n, wk) v = MatMul (n, wv)
        a = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)
        o = MatMul (a, wo) r = Add (o, x) m = LayerNormalization <axis = -1> (r, g, b)
        y = Gather <axis = 1> (m, first)
    }}"""
    constants = {
        **weights,
        "g": np.ones(width, np.float32),
        "b": np.zeros(width, np.float32),
        "first": np.array(0),
    }
    built = model(text, constants)
    return graph(built, {"x": drawn(2, LENGTH, width)}, {"x": drawn(2, LENGTH, width, seed=1)})


def written(
    name: str, given: Graph, folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str = "fp16"
) -> Plan:
    monkeypatch.setattr(jetson, "preview", lambda *_, **__: Preview("none", b"", 0, 0.0))
    target = Jetson(name)
    (candidate,) = target.candidates(given, precision)
    folder.mkdir()
    target.build(target.lower(given, candidate), candidate, folder)
    return Plan.read(folder)


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        (
            "agx-orin-64gb:jetpack5",
            class_token,
            ["kept", "flag", "free", "plain", "kept_one_row", "flag_one_row", "plain_one_row"],
        ),
        ("agx-orin-64gb:jetpack5", block, ["kept", "flag", "free", "plain"]),
        ("orin-nano-8gb", block, ["kept", "plain"]),
        ("thor-t5000:jetpack7.2", block, ["kept", "plain", "kept_parts", "plain_parts"]),
    ],
)
def test_every_variant_computes_what_the_source_does(
    name: str, make, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make()
    plan = written(name, given, tmp_path / "engine", monkeypatch)
    assert [one.name for one in plan.variants] == expected
    assert plan.variants[0].model == plan.model
    assert plan.variants[0].flags == plan.flags
    assert plan.variants[0].layer_precisions == plan.layer_precisions
    for one in plan.variants:
        loaded = ir.load(tmp_path / "engine" / one.model)
        assert {node.name for node in loaded.graph} <= plan.sources.keys()
        assert set(one.layer_precisions) <= {node.name for node in loaded.graph}
        with Evaluator(runnable(loaded)) as evaluator:
            found = [evaluator.run(feeds) for feeds in given.examples]
        assert not GATES["fp16"].broken(given.expected.difference(found, GATES["fp16"])), one.name


def test_what_a_user_would_build_is_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = block()
    imported = given.model.clone()
    Pipeline.named(["decompose.gelu"]).run(imported)
    given = dataclasses.replace(given, imported=imported)
    plan = written("agx-orin-64gb:jetpack5", given, tmp_path / "whole", monkeypatch)
    assert [one.name for one in plan.variants] == ["kept", "flag", "free", "plain", "free_source"]
    for one in (plan.variants[2], plan.variants[4]):
        loaded = ir.load(tmp_path / "whole" / one.model)
        assert not [node for node in loaded.graph if node.op_type == "Cast"]
        assert {value.dtype for value in loaded.graph.inputs} == {ir.DataType.FLOAT}
        assert one.flags == ("fp16", "tf32")
        assert one.layer_precisions == {}
        with Evaluator(runnable(loaded)) as evaluator:
            found = [evaluator.run(feeds) for feeds in given.examples]
        assert not GATES["fp32"].broken(given.expected.difference(found, GATES["fp32"]))
    # What computes more than the reduced graph is no form of it.
    given = dataclasses.replace(given, is_reduced=True)
    plan = written("agx-orin-64gb:jetpack5", given, tmp_path / "reduced", monkeypatch)
    assert "free_source" not in [one.name for one in plan.variants]


def test_plain_keeps_no_norm_and_fewer_casts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = written("orin-nano-8gb", block(), tmp_path / "engine", monkeypatch)
    kept, plain = (ir.load(tmp_path / "engine" / one.model) for one in plan.variants)
    casts = [sum(node.op_type == "Cast" for node in one.graph) for one in (kept, plain)]
    assert casts[1] < casts[0]
    norms = [node for node in plain.graph if node.op_type == "LayerNormalization"]
    assert norms
    assert all(node.outputs[0].dtype == HALF for node in norms)


def test_weights_are_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "agx-orin-64gb:jetpack5"
    plan = written(name, class_token(256), tmp_path / "engine", monkeypatch)
    assert plan.weights == "model.weights"
    weights = (tmp_path / "engine" / "model.weights").stat().st_size
    graphs = [ir.load(path) for path in (tmp_path / "engine").glob("*.onnx")]
    assert len(graphs) == 5
    each = sorted(
        sum(value.const_value.nbytes for value in one.graph.initializers.values()) for one in graphs
    )
    # In fp32 once, in fp16 once, and beside what all share what one edit makes of its own.
    assert weights < 1.1 * each[-1] + 1.6 * each[-2]
    assert sum(path.stat().st_size for path in (tmp_path / "engine").glob("*.onnx")) < weights / 4


def test_there_is_one_way_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = written("orin-nano-8gb", block(), tmp_path / "engine", monkeypatch, "fp32")
    assert plan.variants == ()
    assert plan.weights is None
    assert "variants" in json.loads((tmp_path / "engine" / "plan.json").read_text())


def test_an_attention_that_fp16_overflows_stays_apart_in_every_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = block(logits=300.0)
    plan = written("thor-t5000:jetpack7.2", given, tmp_path / "engine", monkeypatch)
    for one in plan.variants:
        loaded = ir.load(tmp_path / "engine" / one.model)
        assert not [node for node in loaded.graph if node.op_type == "Attention"], one.name
