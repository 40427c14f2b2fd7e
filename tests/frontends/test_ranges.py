"""What an input is comes from the ops that read it, then from its name."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.core.graph import TensorSpec
from edgec.frontends.ranges import ranges_of, understood

INV = np.linspace(1, 1e-4, 16, dtype=np.float32)[None, None]


def drawing(body, *, inputs="float[1, 8] x", name="x", weights=(), semantics="unknown"):
    """How an input of a graph in ONNX text is drawn."""
    text = f'<ir_version: 9, opset_import: ["": 20]> g ({inputs}) => (float y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for key, array in dict(weights).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), key))
    model = ir.from_proto(proto)
    value = next(value for value in model.graph.inputs if value.name == name)
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return ranges_of(model, [TensorSpec(name, shape, value.dtype.numpy().name, semantics)]).get(name)


def table(rows):
    return {"table": np.zeros((rows, 4), np.float32)}


def test_ids_reach_to_the_end_of_the_smallest_table():
    body = "a = Gather (table, x) z = Squeeze (x) b = Gather (small, z) y = Add (a, b)"
    found = drawing(
        body, inputs="int64[1, 8] x", weights={**table(100), "small": np.zeros((30, 4), np.float32)}
    )
    assert (found.kind, found.low, found.high) == ("values", 0, 30)


def test_what_is_added_before_the_table_is_taken_off():
    body = "p = Add (position_ids, two) y = Gather (table, p)"
    weights = {**table(100), "two": np.array(2)}
    found = drawing(body, inputs="int64[1, 8] position_ids", name="position_ids", weights=weights)
    assert (found.kind, found.low, found.high) == ("positions", 0, 98)


ANGLE = "f = Cast <to = 1> (x) u = Unsqueeze (f, last) a = Mul (u, inv) y = Sin (a)"


@pytest.mark.parametrize(
    ("shape", "name", "kind", "high"),
    [
        ("[1, 8]", "x", "positions", 4096),
        ("[2]", "cache_position", "positions", 4096),
        ("[2]", "x", "values", 1000),
        ("[2, 1]", "timestep", "values", 1000),
    ],
)
def test_a_product_with_frequencies_in_a_sine_is_a_position_or_a_timestep(shape, name, kind, high):
    weights = {"last": np.array([-1]), "inv": INV}
    found = drawing(
        ANGLE.replace("(x)", f"({name})"), inputs=f"int64{shape} {name}", name=name, weights=weights
    )
    assert (found.kind, found.high) == (kind, high)


def test_a_timestep_that_the_graph_multiplies_by_a_thousand_is_a_share():
    body = "s = Mul (x, thousand) u = Unsqueeze (s, last) a = Mul (u, inv) y = Cos (a)"
    weights = {"thousand": np.float32(1000), "last": np.array([-1]), "inv": INV}
    found = drawing(body, inputs="float[2] x", weights=weights)
    assert found.uniform
    assert found.high == pytest.approx(0.999)


def test_a_float_of_several_columns_in_a_sine_is_no_timestep():
    assert drawing("a = Mul (x, inv) y = Sin (a)", inputs="float[5, 16] x", weights={"inv": INV[0]}) is None


LOW = {"low": np.float32(-1e9), "zero": np.float32(0), "one": np.float32(1)}


@pytest.mark.parametrize(
    ("body", "inverted"),
    [
        ("f = Cast <to = 1> (x) i = Sub (one, f) y = Mul (i, low)", False),
        ("f = Cast <to = 1> (x) y = Mul (f, low)", True),
        ("c = Cast <to = 9> (x) y = Where (c, zero, low)", False),
        ("c = Cast <to = 9> (x) y = Where (c, low, zero)", True),
        ("c = Cast <to = 9> (x) n = Not (c) y = Where (n, low, zero)", False),
    ],
)
def test_a_mask_is_told_by_what_it_hides_and_which_way(body, inverted):
    found = drawing(body, inputs="int64[1, 8] x", weights=LOW)
    assert (found.kind, found.inverted) == ("mask", inverted)
    [spec] = understood([TensorSpec("x", (1, 8), "int64", "unknown")], {"x": found})
    assert spec.semantics == ("unknown" if inverted else "mask")


def test_ids_that_are_compared_with_padding_are_no_mask():
    body = "e = Gather (table, x) c = Equal (x, pad) y = Where (c, low, zero)"
    found = drawing(body, inputs="int64[1, 8] x", weights={**LOW, **table(50), "pad": np.array(1)})
    assert (found.kind, found.high) == ("values", 50)


def test_features_that_are_compared_are_no_mask():
    body = "c = Greater (x, zero) y = Where (c, x, low)"
    assert drawing(body, weights=LOW) is None


def test_a_float_mask_that_is_added_to_scores_is_a_bias():
    body = "s = Add (scores, mask) y = Softmax (s)"
    found = drawing(body, inputs="float[1, 8] scores, float[1, 8] mask", name="mask")
    assert found.kind == "bias"


def test_lengths_are_told_by_the_comparison_with_a_count():
    body = "u = Unsqueeze (x, last) y = Less (count, u)"
    found = drawing(body, inputs="int64[2] x", weights={"last": np.array([1]), "count": np.arange(40)})
    assert (found.kind, found.low, found.high) == ("lengths", 1, 40)


POWER = "s = MatMul (x, dft) p = Mul (s, s) e = Add (p, eps) y = Log (e)"
DFT = {"dft": np.ones((8, 4), np.float32), "eps": np.float32(1e-2)}


def test_a_power_spectrum_with_its_logarithm_hears_sound_at_full_scale():
    found = drawing(POWER, weights=DFT)
    assert (found.kind, found.high) == ("sound", 32767)


def test_sound_that_the_graph_scales_up_itself_stays_within_one():
    body = "g = Mul (x, gain) " + POWER.replace("MatMul (x", "MatMul (g")
    found = drawing(body, weights={**DFT, "gain": np.float32(32768)})
    assert (found.kind, found.high) == ("sound", 1)


@pytest.mark.parametrize(("first", "high"), [("Div (x, k)", 255), ("Sub (x, m)", 255), ("Sub (x, h)", 1)])
def test_pictures_are_in_the_units_that_the_graph_takes_off(first, high):
    weights = {"k": np.float32(255), "m": np.float32(117), "h": np.float32(0.45), "s": np.float32(0.2)}
    found = drawing(f"a = {first} y = Div (a, s)", inputs="float[1, 3, 8, 8] x", weights=weights)
    assert found.uniform
    assert found.high == high


def test_features_that_are_summed_over_long_axes_have_means_of_their_own():
    body = "m = Mul (x, w) y = ReduceSum (m, axes)"
    inputs = "float[1, 3000, 8] x, float[1, 3000, 1] w"
    found = drawing(body, inputs=inputs, weights={"axes": np.array([1])})
    assert (found.kind, found.axis) == ("offset", -1)
    short = inputs.replace("3000", "30")
    assert drawing(body, inputs=short, weights={"axes": np.array([1])}) is None


def test_a_mean_that_is_taken_off_is_a_normalisation():
    body = "m = ReduceMean (x, axes) y = Sub (x, m)"
    assert drawing(body, inputs="float[1, 3000, 8] x", weights={"axes": np.array([1])}) is None


def test_of_an_input_that_only_weights_read_nothing_is_known():
    assert drawing("y = MatMul (x, w)", weights={"w": np.ones((8, 4), np.float32)}) is None


def test_sizes_of_pictures_reach_over_what_detectors_take():
    body = "f = Cast <to = 1> (orig_target_sizes) u = Unsqueeze (f, one) y = Mul (boxes, u)"
    inputs = "float[1, 9, 2] boxes, int64[1, 2] orig_target_sizes"
    found = drawing(body, inputs=inputs, name="orig_target_sizes", weights={"one": np.array([1])})
    assert (found.kind, found.low, found.high) == ("values", 32, 1334)
    assert drawing(body, inputs=inputs, name="boxes", weights={"one": np.array([1])}) is None


def test_a_whole_number_that_scales_what_is_computed_is_an_amount():
    body = "f = Cast <to = 1> (x) y = Div (a, f)"
    found = drawing(body, inputs="float[2, 8] a, int64[1] x")
    assert (found.kind, found.low, found.high) == ("values", 1, 101)
    # A sequence of them may be a mask.
    assert drawing(body, inputs="float[2, 8] a, int64[2, 8] x") is None


def test_a_range_that_looks_up_a_table_is_as_long_as_that():
    body = "r = Range (zero, x, one) y = Gather (table, r)"
    weights = {**table(50), "zero": np.array(0), "one": np.array(1)}
    found = drawing(body, inputs="int64 x", weights=weights)
    assert (found.kind, found.low, found.high) == ("values", 1, 51)


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("r = Range (zero, x, one) f = Cast <to = 1> (r) y = Add (a, f)", "float[8] a, int64 x"),
        ("u = Unsqueeze (x, first) s = Concat <axis = 0> (u, two) y = Reshape (a, s)", "float[6] a, int64 x"),
        ("u = Mul (x, z) s = Unsqueeze (u, first) y = ConstantOfShape (s)", "int64 z, int64 x"),
    ],
)
def test_what_says_how_large_something_is_to_be_is_a_length(body, inputs):
    weights = {"zero": np.array(0), "one": np.array(1), "first": np.array([0]), "two": np.array([2])}
    found = drawing(body, inputs=inputs, weights=weights)
    assert (found.kind, found.low) == ("lengths", 1)


def test_sizes_in_floats_are_whole_numbers():
    body = "i = Cast <to = 7> (size) s = Concat <axis = 0> (ones, i) y = Resize (a, , , s)"
    inputs = "float[1, 1, 8, 8] a, float[2] size"
    found = drawing(body, inputs=inputs, name="size", weights={"ones": np.array([1, 1])})
    assert (found.low, found.high, found.uniform) == (32, 320, True)
    found = drawing(
        "y = Mul (a, scale_factor)", inputs="float[4, 2] a, float[1, 2] scale_factor", name="scale_factor"
    )
    assert (found.low, found.high, found.uniform) == (0.5, 2.0, True)


def test_boxes_name_pictures_that_there_are():
    body = "y = RoiAlign (x, boxes, batch)"
    inputs = "float[2, 4, 8, 8] x, float[3, 4] boxes, int64[3] batch"
    found = drawing(body, inputs=inputs, name="batch")
    assert (found.kind, found.low, found.high) == ("values", 0, 2)
