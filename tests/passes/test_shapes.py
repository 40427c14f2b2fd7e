import onnx_ir as ir
from pass_graphs import build, i64, weight

from edgec.passes.infra import registered
from edgec.passes.pipeline import load_passes
from edgec.plugins.infra import plugins


def infer(model):
    load_passes()
    return registered()["canonicalize.shapes"]()(model).log


def shape_of(model, name):
    value = next(v for node in model.graph.all_nodes() for v in node.outputs if v.name == name)
    return value.shape


def test_shapes_follow_small_constants():
    model = build(
        "(float[2,6] x) => (y) { r = Reshape(x, s)\n y = Transpose<perm=[2,0,1]>(r) }", s=i64(2, 3, -1)
    )
    assert infer(model).matches
    assert shape_of(model, "y") == [2, 2, 3]


def test_open_dimensions_keep_their_name():
    model = build("(float[batch,6] x) => (y) { m = MatMul(x, w)\n y = Relu(m) }", w=weight(6, 4))
    infer(model)
    assert shape_of(model, "y") == ["batch", 4]


def test_a_stale_declaration_gives_way():
    model = build("(float[2,6] x) => (y) { m = MatMul(x, w)\n y = Relu(m) }", w=weight(6, 4))
    next(iter(model.graph)).outputs[0].shape = ir.Shape([9, 9, 9])
    infer(model)
    assert shape_of(model, "m") == [2, 4]


def test_an_unknown_op_stops_nothing_else():
    model = build("(float[2,6] x) => (y, z) { y = other.domain.Op(x)\n z = Relu(x) }")
    infer(model)
    assert shape_of(model, "z") == [2, 6]
    assert shape_of(model, "y") is None


def test_an_op_of_edgec_infers_by_its_plugin(monkeypatch):
    load_passes()
    model = build("(float[2,6] x) => (y) { c = ai.edgec.NotThere(x)\n y = Relu(c) }")
    log = infer(model)
    assert "no plugin defines" in log.misses[0].reason
    import edgec.plugins.infra as infra

    plugin = infra.Plugin(
        "NotThere",
        "turns the shape round",
        inputs=(infra.Port("x", "rows, columns"),),
        outputs=(infra.Port("y", "columns, rows"),),
        body="y = Transpose (x)",
    )
    monkeypatch.setitem(infra._PLUGINS, "NotThere", plugin)
    assert "NotThere" in plugins()
    infer(model)
    assert shape_of(model, "y") == [6, 2]


def test_bodies_and_branches():
    model = build(
        "(bool c, float[2] x) => (y) { s = If<then_branch = t () => (a) { a = Neg(x) },"
        "else_branch = e () => (b) { b = Relu(x) }>(c)\n y = Neg(s) }"
    )
    infer(model)
    assert shape_of(model, "y") == [2]


def test_a_node_that_cannot_be_inferred_is_a_near_miss():
    model = build("(float[2,6] x) => (y) { y = MatMul(x, w) }", w=weight(5, 4))
    assert "cannot be inferred" in infer(model).misses[0].reason
