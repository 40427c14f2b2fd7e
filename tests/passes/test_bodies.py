"""Passes work in the bodies of If and Loop as they do outside, and no pattern reaches across their border."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from pass_graphs import build, check, f32

from edgec.core.dialect import SOURCE_KEY
from edgec.passes.bodies import alone
from edgec.passes.editing import Editor
from edgec.passes.fuse.gelu import Gelu
from edgec.passes.infra import MatchLog
from edgec.passes.pipeline import default_pipeline

PASSES = [step.name for step in default_pipeline().passes if step.name != "canonicalize.shapes"]

NORM = """m{0} = ReduceMean<keepdims=1>(t{0}, last)
 c{0} = Sub(t{0}, m{0})
 s{0} = Mul(c{0}, c{0})
 v{0} = ReduceMean<keepdims=1>(s{0}, last)
 e{0} = Add(v{0}, tiny)
 r{0} = Sqrt(e{0})
 n{0} = Div(c{0}, r{0})
 g{0} = Mul(n{0}, gain)
 h{0} = Add(g{0}, shift)
"""
ATTENTION = """k{0} = Transpose<perm=[0, 1, 3, 2]>(h{0})
 l{0} = MatMul(h{0}, k{0})
 w{0} = Mul(l{0}, quarter)
 p{0} = Softmax<axis=-1>(w{0})
 a{0} = MatMul(p{0}, h{0})
"""
GELU = """d{0} = Div(a{0}, root)
 f{0} = Erf(d{0})
 o{0} = Add(f{0}, one)
 b{0} = Mul(a{0}, o{0})
 y{0} = Mul(b{0}, half)
"""
BLOCK = NORM + ATTENTION + GELU
WEIGHTS = {
    "last": np.array([-1], np.int64), "tiny": f32(1e-5), "quarter": f32(0.25),
    "gain": np.linspace(0.5, 1.5, 16, dtype=np.float32), "shift": np.linspace(-1, 1, 16, dtype=np.float32),
    "root": f32(math.sqrt(2)), "one": f32(1.0), "half": f32(0.5),
}  # fmt: skip
WANTED = {"LayerNormalization", "Attention", "Gelu"}
SIZE = "float[2,4,6,16]"


def with_bodies(model: ir.Model, op_type: str, **bodies: str) -> ir.Model:
    """The model with text as bodies of its one node of the type: what they read outside is the model's."""
    proto = ir.to_proto(model)
    (node,) = [node for node in proto.graph.node if node.op_type == op_type]
    for name, text in bodies.items():
        body = onnx.parser.parse_graph(text)
        node.attribute.append(onnx.helper.make_attribute(name, body))
    whole = ir.from_proto(proto)
    for index, inner in enumerate(whole.graph.all_nodes()):
        inner.name = f"n{index}_{inner.op_type}"
        inner.metadata_props[SOURCE_KEY] = f"layer.{inner.name}"
    return whole


def in_branches(weights: dict[str, np.ndarray] = WEIGHTS) -> ir.Model:
    model = build(
        f"({SIZE} x) => ({SIZE} y) {{ z = Relu(x)\n q = ReduceMean<keepdims=0>(x)\n c = Less(q, zero)\n"
        " i = If(c)\n y = Add(i, z) }",
        zero=f32(0.0),
        **weights,
    )
    then = f"yes () => ({SIZE} yA) {{ tA = Mul(z, half)\n {BLOCK.format('A')} }}"
    other = f"no () => ({SIZE} yB) {{ tB = Neg(z)\n {BLOCK.format('B')} }}"
    return with_bodies(model, "If", then_branch=then, else_branch=other)


def in_a_loop() -> ir.Model:
    model = build(
        f"({SIZE} x, int64 turns) => ({SIZE} y) {{ y = Loop(turns, , x) }}",
        **WEIGHTS,
    )
    body = (
        f"turn (int64 number, bool going, {SIZE} t) => (bool on, {SIZE} yC) {{ on = Identity(going)\n "
        f"{BLOCK.replace('t{0}', 't').format('C')} }}"
    )
    return with_bodies(model, "Loop", body=body)


def inner_ops(model: ir.Model) -> set[str]:
    return {node.op_type for body in model.graph.subgraphs() for node in body}


def test_both_branches_are_fused() -> None:
    model = in_branches()
    reports = check(model, *PASSES, seeds=(0, 1, 2, 3))
    assert [reports[name].matched for name in ("fuse.layer_norm", "fuse.attention", "fuse.gelu")] == [2, 2, 2]
    for body in model.graph.subgraphs():
        assert {node.op_type for node in body} >= WANTED
        assert not body.inputs


def test_the_body_of_a_loop_is_fused() -> None:
    model = in_a_loop()
    check(model, *PASSES)
    assert inner_ops(model) >= WANTED
    (body,) = model.graph.subgraphs()
    assert len(body.inputs) == 3


def test_what_is_read_inside_and_outside_stays_outside() -> None:
    model = build(
        "(float[3] x, bool c) => (float[3] y) { d = Div(x, root)\n e = Erf(d)\n a = Add(e, one)\n"
        " b = Mul(x, half)\n y = If(c) }",
        **{name: WEIGHTS[name] for name in ("root", "one", "half")},
    )
    model = with_bodies(
        model,
        "If",
        then_branch="yes () => (float[3] u) { u = Mul(a, b) }",
        else_branch="no () => (float[3] v) { v = Identity(a) }",
    )
    reports = check(model, "canonicalize.constants", "canonicalize.identity", "fuse.gelu")
    assert reports["fuse.gelu"].matched == 0


def test_a_name_of_the_graph_around_is_not_taken_again() -> None:
    model = in_branches()
    default_pipeline().run(model)
    names = [value.name for inner in model.graphs() for node in inner for value in node.outputs if value.name]
    assert len(names) == len(set(names))
    onnx.checker.check_model(ir.to_proto(model))


def test_a_new_value_of_a_body_has_no_name_of_the_graph_around() -> None:
    model = in_branches()
    [outside] = model.graph.outputs
    with alone(next(iter(model.graph.subgraphs())), model) as inner:
        made = Editor(inner, "test", MatchLog()).initializer(np.zeros(1, np.float32), outside.name or "")
        assert made.name != outside.name
        del inner.graph.initializers[made.name or ""]


@pytest.mark.parametrize("make", [in_branches, in_a_loop])
def test_a_body_that_was_alone_is_as_before(make) -> None:  # type: ignore[no-untyped-def]
    model = make()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    for body in list(model.graph.subgraphs()):
        with alone(body, model) as inner:
            assert not [value for value in inner.graph.inputs if value.name in WEIGHTS]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_pass_that_fails_in_a_body_leaves_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_branches()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    body = next(iter(model.graph.subgraphs()))
    with pytest.raises(RuntimeError), alone(body, model):
        raise RuntimeError
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert Gelu.enters
