import numpy as np
from pass_graphs import build, check, f32, ops, run, weight

from edgec.core.dialect import PASS_KEY, SOURCE_KEY
from edgec.passes.editing import Editor, constant, consumers, producer, same_shape, scalar, sole_consumer


def value_named(model, name):
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def test_a_new_node_carries_its_source_its_pass_and_a_free_name():
    model = build("(float[2] x) => (float[2] y) { a = Neg(x)\n y = Relu(a) }")
    node = value_named(model, "a").producer()
    editor = Editor(model, "some.pass")
    made = editor.node("Abs", [model.graph.inputs[0]], like=node, shape=[2])
    assert made.producer().metadata_props[SOURCE_KEY] == node.metadata_props[SOURCE_KEY]
    assert made.producer().metadata_props[PASS_KEY] == "some.pass"
    assert made.dtype == model.graph.inputs[0].dtype
    again = editor.node("Abs", [model.graph.inputs[0]], like=node)
    assert len({made.name, again.name, made.producer().name, again.producer().name}) == 4


def test_names_inside_bodies_are_taken():
    model = build(
        "(bool c, float[2] x) => (float[2] y) {"
        "y = If<then_branch = t () => (float[2] inner) { inner = Neg(x) },"
        "else_branch = e () => (float[2] other) { other = Abs(x) }>(c) }"
    )
    assert Editor(model, "p").fresh_name("inner") == "inner_2"


def test_scalars_stay_scalars():
    model = build("(float[2] x) => (float[2] y) { y = Neg(x) }")
    value = Editor(model, "p").initializer(np.float32(3.0), "three")
    assert value.const_value.numpy().shape == ()
    assert scalar(value) == 3.0


def test_a_replaced_output_keeps_its_name_shape_and_place():
    model = build("(float[2] x) => (float[2] y, float[2] z) { y = Neg(x)\n z = Relu(y) }")
    editor = Editor(model, "p")
    node = value_named(model, "y").producer()
    editor.replace(node.outputs[0], editor.node("Abs", [model.graph.inputs[0]], like=node))
    editor.prune(node)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert model.graph.outputs[0].shape == [2]
    np.testing.assert_array_equal(run(model, {"x": f32(-1, 2)})["z"], f32(1, 2))


def test_an_output_replaced_by_an_input_or_an_initializer_gets_a_node_of_its_own():
    model = build("(float[2] x) => (float[2] y, float[2] z) { y = Relu(x)\n z = Neg(x) }", w=weight(2))
    editor = Editor(model, "p")
    editor.replace(model.graph.outputs[0], model.graph.inputs[0])
    editor.replace(model.graph.outputs[1], model.graph.initializers["w"])
    editor.remove_dead()
    assert ops(model) == {"Identity": 2}
    assert [value.name for value in model.graph.inputs] == ["x"]
    check(model, "canonicalize.dead")


def test_prune_removes_what_only_the_node_kept_alive():
    model = build(
        "(float[2] x) => (float[2] y) { a = Neg(x)\n b = Abs(a)\n c = Relu(a)\n y = Relu(x)\n d = Mul(b, c) }"
    )
    editor = Editor(model, "p")
    assert editor.prune(value_named(model, "d").producer()) == 4
    assert ops(model) == {"Relu": 1}
    assert editor.prune(value_named(model, "y").producer()) == 0


def test_a_default_of_an_input_is_neither_constant_nor_removed():
    model = build("(float[2] x, float[2] w) => (float[2] y) { y = Neg(x) }", w=weight(2))
    assert constant(model.graph.inputs[1]) is None
    Editor(model, "p").remove_dead()
    assert "w" in model.graph.initializers


def test_readers():
    model = build(
        "(bool c, float[2] x) => (float[2] y, float[2] b) { a = Neg(x)\n b = Abs(a)\n d = Mul(b, b)\n"
        "y = If<then_branch = t () => (float[2] p) { p = Neg(d) },"
        "else_branch = e () => (float[2] q) { q = Abs(x) }>(c) }"
    )
    a, b, d = (value_named(model, name) for name in "abd")
    assert sole_consumer(a).op_type == "Abs"
    assert sole_consumer(b) is None  # an output
    assert [node.op_type for node in consumers(b)] == ["Mul"]
    assert sole_consumer(d) is None  # read by a body, who knows how often
    assert producer(a, "Neg") is not None
    assert producer(a, "Abs") is None


def test_shapes_are_one_only_where_that_is_certain():
    model = build("(float[n,2] x, float[n,2] z, float[m,2] w) => (y) { y = Neg(x) }")
    x, z, w = model.graph.inputs
    assert same_shape(x, z)
    assert not same_shape(x, w)
    assert not same_shape(x, model.graph.outputs[0])
