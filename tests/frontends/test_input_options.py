"""`--input NAME:SHAPE:DTYPE` as users write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.core.errors import RequestError
from edgec.core.graph import TensorSpec
from edgec.frontends.inputs import DTYPES, InputRequest, apply_requests, option, parse_input, parse_inputs


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("pixel_values:1x3x224x224:float32", InputRequest("pixel_values", (1, 3, 224, 224), "float32")),
        ("tokens:1xseq:int64", InputRequest("tokens", (1, "seq"), "int64")),
        ("x:?x?", InputRequest("x", ("?", "?"))),
        ("x:Nx3xHxW", InputRequest("x", ("N", 3, "HxW"), None, ("N", 3, "H", "W"))),
        ("x:batch,max_len,8", InputRequest("x", ("batch", "max_len", 8))),
        ("serving_default_x:0:1x8", InputRequest("serving_default_x:0", (1, 8))),
        ("x:0:4:float32", InputRequest("x:0", (4,), "float32")),
        ("step:scalar:int64", InputRequest("step", (), "int64")),
    ],
)
def test_forms(text, request_):
    assert parse_input(text) == request_


@given(
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
    st.lists(st.integers(1, 4096), min_size=1, max_size=5),
    st.sampled_from(DTYPES),
)
def test_what_option_writes_is_read_back(name, shape, dtype):
    assert parse_input(option(name, shape, dtype)) == InputRequest(name, tuple(shape), dtype)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "write NAME:SHAPE"),
        ("x:", "write NAME:SHAPE"),
        (":1x2", "write NAME:SHAPE"),
        ("x:1x-2", "'-2' is not a size"),
        ("x:1x0", "'0' is not a size"),
        ("x:1x2:flaot32", "did you mean float32"),
        ("x:1x2:complex", "'complex' is not a dtype"),
    ],
)
def test_what_is_no_input_is_said(text, words):
    with pytest.raises(RequestError) as caught:
        parse_input(text)
    assert words in str(caught.value)
    assert f"--input {text}" in str(caught.value)


def test_the_reading_with_the_right_rank_is_taken():
    spec = TensorSpec("x", (1, 3, 8, 8), "float32")
    (found,) = apply_requests([spec], parse_inputs(["x:Nx3xHxW"]), None, fixed=False, where="m")
    assert found.shape == ("N", 3, "H", "W")


def test_open_dimensions_without_a_name_get_different_ones():
    spec = TensorSpec("x", (1, 3), "float32")
    (found,) = apply_requests([spec], parse_inputs(["x:?x?"]), None, fixed=False, where="m")
    assert found.shape == ("x_0", "x_1")


def test_batch_sets_the_first_dimension_of_all_but_scalars():
    specs = [TensorSpec("x", (1, 3), "float32"), TensorSpec("n", (), "int64")]
    found = apply_requests(specs, {}, 4, fixed=False, where="m")
    assert [spec.shape for spec in found] == [(4, 3), ()]


def test_batch_against_input_is_a_contradiction():
    spec = TensorSpec("x", ("N", 3), "float32")
    with pytest.raises(RequestError, match="--batch 4 contradicts it"):
        apply_requests([spec], parse_inputs(["x:2x3"]), 4, fixed=True, where="m")
