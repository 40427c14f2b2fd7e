import numpy as np
import pytest
from pass_graphs import apply, build, check, f32, i64, ops, weight
from test_sink_slice import HEAD, TOKENS, WIDTH, block, weights

from edgec.core.errors import RequestError
from edgec.passes.infra import registered
from edgec.passes.pipeline import default_pipeline


def test_the_default_order_keeps_every_constraint_and_names_known_passes():
    pipeline = default_pipeline()
    known = registered()
    assert len(set(pipeline.names)) == len(pipeline.names)
    for step in pipeline.passes:
        assert step.name.split(".")[0] in ("canonicalize", "fuse")
        for other in (*step.after, *step.before):
            assert other in known, f"{step.name} speaks of {other}, which is no pass"


def test_every_pass_draws_its_graph_before_and_after():
    for step in default_pipeline().passes:
        text = type(step).__doc__ or ""
        assert "──" in text, step.name
        assert "⇒" in text or "After" in text, step.name
        assert type(step).exact


def test_any_one_pass_can_be_left_out():
    pipeline = default_pipeline()
    for name in pipeline.names:
        assert name not in pipeline.edited([f"-{name}"]).names
        assert pipeline.edited([f"-{name}", f"+{name}"]).names.count(name) == 1


def spelled_out():
    """A block as an old exporter writes it: primitives, Constant nodes and shape arithmetic."""
    return """
    k2 = Constant<value_float=2.0>()
    khalf = Constant<value_float=0.5>()
    kone = Constant<value_float=1.0>()
    keps = Constant<value_float=0.00001>()
    kroot = Constant<value_float=1.4142135>()
    m = ReduceMean<keepdims=1>(x, last)
    c = Sub(x, m)
    s = Pow(c, k2)
    v = ReduceMean<keepdims=1>(s, last)
    e = Add(v, keps)
    r = Sqrt(e)
    n = Div(c, r)
    w = Mul(n, g)
    l = Add(w, b)
    sh = Shape(l)
    d0 = Gather(sh, zero)
    d0u = Unsqueeze(d0, first)
    target = Concat<axis=0>(d0u, rest)
    fl = Reshape(l, target)
    h = Gemm<transB=1>(fl, up, upb)
    er = Div(h, kroot)
    ef = Erf(er)
    ea = Add(ef, kone)
    em = Mul(h, ea)
    ge = Mul(em, khalf)
    o = Gemm<transB=1>(ge, down)
    back = Reshape(o, three)
    dr = Dropout(back)
    y = Add(x, dr)
    """


def test_an_old_exporters_block_comes_down_to_its_layers():
    model = build(
        f"(float[1,7,8] x) => (float[1,7,8] y) {{ {spelled_out()} }}",
        last=i64(-1),
        g=weight(8),
        b=weight(8, seed=1),
        zero=np.array(0),
        first=i64(0),
        rest=i64(56),
        three=i64(1, 7, 8),
        up=weight(16, 56),
        upb=weight(16),
        down=weight(56, 16),
    )
    reports = check(model, *default_pipeline().names)
    assert reports["fuse.layer_norm"].matched == 1
    assert reports["fuse.gelu"].matched == 1
    assert ops(model) == {"LayerNormalization": 1, "Reshape": 2, "MatMul": 2, "Add": 2, "Gelu": 1}


def test_running_twice_changes_nothing_more():
    body = block("x", "e", 0) + HEAD.format("e")
    model = build(f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y) {{ {body} }}", **weights())
    check(model, *default_pipeline().names)
    before = [(node.op_type, str(node.outputs[0].shape)) for node in model.graph]
    reports = apply(model, *default_pipeline().names)
    assert [(node.op_type, str(node.outputs[0].shape)) for node in model.graph] == before
    assert reports["canonicalize.sink_slice"].matched == 0


def test_weights_are_not_duplicated():
    body = block("x", "e", 0) + HEAD.format("e")
    model = build(f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y) {{ {body} }}", **weights())
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    check(model, *default_pipeline().names)
    # The shapes and bounds of new Reshapes and Slices are all that is added.
    assert sum(value.const_value.nbytes for value in model.graph.initializers.values()) < size + 400


FUNCTION = (
    '<domain: "local", opset_import: ["" : 23]> Twice (a) => (c) { b = Add(a, a)\n c = Relu(b) }',
    '<domain: "ai.edgec", opset_import: ["" : 23]> Kept (a) => (b) { b = Neg(a) }',
)


def test_functions_are_inlined_but_those_of_edgec():
    model = build(
        "(float[2] x) => (float[2] y) { a = local.Twice(x)\n b = ai.edgec.Kept(a)\n y = local.Twice(b) }",
        functions=FUNCTION,
    )
    report = apply(model, "canonicalize.functions", "canonicalize.dead")["canonicalize.functions"]
    assert report.matched == 2
    assert ops(model) == {"Add": 2, "Relu": 2, "Kept": 1}
    assert [key[1] for key in model.functions] == ["Kept"]
    assert {node.metadata_props["edgec.source"] for node in model.graph if node.op_type == "Relu"} == {
        "layer.n0_Twice",
        "layer.n2_Twice",
    }


def test_a_function_of_another_opset_is_the_users_to_inline():
    other = FUNCTION[0].replace("23", "17")
    model = build("(float[2] x) => (float[2] y) { y = local.Twice(x) }", functions=(other,))
    with pytest.raises(RequestError, match="inline the model's functions"):
        apply(model, "canonicalize.functions")


def test_dead_nodes_outputs_and_weights_go():
    model = build(
        "(float[2,3] x) => (float[2,3] y) { y, mean, deviation = LayerNormalization(x, g)\n"
        "a = Neg(x)\n b = Abs(a) }",
        g=weight(3),
        unused=f32(1.0),
    )
    assert check(model, "canonicalize.dead")["canonicalize.dead"].matched == 2
    assert set(model.graph.initializers) == {"g"}
    (node,) = model.graph
    assert len(node.outputs) == 1
