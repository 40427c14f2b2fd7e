"""The table of op traits against ONNX's own list of ops, and each numeric trait against the op itself."""

import numpy as np
import onnx
import onnx.reference
import pytest

from edgec.core.op_traits import (
    BROADCASTING,
    KINDS,
    MONOTONE,
    MOVEMENT,
    REDUCTION,
    UNARY,
    UNCLASSED,
    ZERO_PRESERVING,
    kind,
)

OPSETS = (23, 24)


def schemas(opset):
    names = {one.name for one in onnx.defs.get_all_schemas_with_history() if one.domain == ""}
    found = {}
    for name in names:
        try:
            schema = onnx.defs.get_schema(name, opset, "")
        except onnx.defs.SchemaError:
            continue  # it came later
        if not schema.deprecated:
            found[name] = schema
    return found


SCHEMAS = schemas(OPSETS[-1])


@pytest.mark.parametrize("opset", OPSETS)
def test_every_op_is_of_one_kind_or_has_a_reason(opset):
    for name in schemas(opset):
        homes = [one for one, ops in KINDS.items() if name in ops]
        assert len(homes) + (name in UNCLASSED) == 1, (name, homes)
        assert kind(name) == (homes[0] if homes else None)


def test_no_op_is_made_up():
    known = set().union(*KINDS.values(), UNCLASSED)
    assert known == set(SCHEMAS)
    assert all(UNCLASSED.values())
    assert kind("NoSuchOp") is None


def session(name, types, **attributes):
    """One op as a reference evaluator; inputs are named i0, i1, …"""
    inputs = [onnx.helper.make_tensor_value_info(f"i{at}", one, None) for at, one in enumerate(types)]
    node = onnx.helper.make_node(name, [one.name for one in inputs], ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name="y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSETS[-1])])
    return onnx.reference.ReferenceEvaluator(model)


FLOAT, BOOL, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL, onnx.TensorProto.INT64
TYPE_OF = {
    "Not": BOOL,
    "BitwiseNot": INT,
    "And": BOOL,
    "Or": BOOL,
    "Xor": BOOL,
    "BitShift": onnx.TensorProto.UINT8,
}
TYPE_OF |= dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), INT)
ATTRIBUTES = {"Cast": {"to": INT}, "BitShift": {"direction": "LEFT"}, "Mod": {"fmod": 1}}


def drawn(kind_of, shape, seed=0):
    numbers = np.random.default_rng(seed).uniform(0.1, 0.9, shape)
    array = numbers > 0.5 if kind_of == BOOL else numbers * (1 if kind_of == FLOAT else 7)
    return np.asarray(array).astype(onnx.helper.tensor_dtype_to_np_dtype(kind_of))


@pytest.mark.parametrize("name", sorted(UNARY))
def test_a_unary_op_takes_each_element_by_itself(name):
    x = drawn(TYPE_OF.get(name, FLOAT), (3, 4))
    if name == "Acosh":
        x = x + np.float32(1)
    more = [np.float32(0)] if name == "CastLike" else []
    run = session(name, [TYPE_OF.get(name, FLOAT), *[FLOAT] * len(more)], **ATTRIBUTES.get(name, {}))
    feeds = {f"i{at + 1}": array for at, array in enumerate(more)}
    whole = run.run(None, {"i0": x, **feeds})[0]
    assert whole.shape == x.shape
    apart = [run.run(None, {"i0": row, **feeds})[0] for row in x.reshape(-1, 1)]
    np.testing.assert_array_equal(np.concatenate(apart).reshape(x.shape), whole)


@pytest.mark.parametrize("name", sorted(BROADCASTING))
def test_a_broadcasting_op_takes_matching_elements(name):
    one = TYPE_OF.get(name, FLOAT)
    types = [BOOL, FLOAT, FLOAT] if name == "Where" else [one, one]
    arrays = [drawn(each, (3, 4), seed) for seed, each in enumerate(types)]
    arrays[-1] = arrays[-1][:1]
    run = session(name, types, **ATTRIBUTES.get(name, {}))
    whole = run.run(None, {f"i{at}": array for at, array in enumerate(arrays)})[0]
    full = [np.broadcast_to(array, (3, 4)) for array in arrays]
    rows = [
        run.run(None, {f"i{at}": np.ascontiguousarray(array[row : row + 1]) for at, array in enumerate(full)})
        for row in range(3)
    ]
    np.testing.assert_array_equal(np.concatenate([row[0] for row in rows]), whole)


# Each attribute that could move the op's value at 0 or turn its slope, away from its default.
OTHER = {
    "Celu": {"alpha": 0.5},
    "Elu": {"alpha": 2.0},
    "LeakyRelu": {"alpha": -0.5},
    "Selu": {"alpha": 2.0, "gamma": 0.5},
    "Shrink": {"bias": 0.25, "lambd": 0.5},
    "Swish": {"alpha": 2.0},
    "ThresholdedRelu": {"alpha": -0.5},
    "Gelu": {"approximate": "tanh"},
}


@pytest.mark.parametrize("name", sorted(ZERO_PRESERVING))
@pytest.mark.parametrize("default", [True, False])
def test_zero_stays_zero(name, default):
    run = session(name, [FLOAT], **({} if default else OTHER.get(name, {})))
    assert run.run(None, {"i0": np.zeros(2, np.float32)})[0].tolist() == [0, 0]


@pytest.mark.parametrize("name", sorted(MONOTONE))
def test_a_monotone_op_never_falls(name):
    x = np.linspace(-20, 20, 4001, dtype=np.float32)
    y = session(name, [FLOAT]).run(None, {"i0": x})[0]
    assert np.isfinite(y).all()
    assert (np.diff(y) >= 0).all()


def test_ops_that_are_not_monotone_or_move_zero_are_not_listed():
    x = np.linspace(-20, 20, 4001, dtype=np.float32)
    for name in ("Gelu", "Mish", "Swish", "HardSwish", "Sin", "Abs", "Neg"):
        assert (np.diff(session(name, [FLOAT]).run(None, {"i0": x})[0]) < 0).any()
        assert name not in MONOTONE
    for name in ("Exp", "Cos", "Cosh", "Sigmoid", "HardSigmoid", "Softplus", "Acos", "Not"):
        assert name not in ZERO_PRESERVING
    assert ZERO_PRESERVING | MONOTONE <= UNARY


def test_the_table_names_what_it_lists():
    assert {name for name in SCHEMAS if name.startswith("Reduce")} | {"ArgMax", "ArgMin"} == REDUCTION
    assert "Where" not in MOVEMENT  # its first input is the condition, and moves nothing
