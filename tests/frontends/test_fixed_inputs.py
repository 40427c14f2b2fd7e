"""`--input NAME=VALUE`: the file with that input fixed, against the file fed that value."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgec.core.errors import RequestError
from edgec.frontends import load
from edgec.frontends.fixed_inputs import parted

TEXT = """<ir_version: 9, opset_import: ["": 20]>
g (float[1, 4] x, int64 sr, float[2] gain) => (float[1, N] y) {
  rate = Constant<value = int64 {16000}> ()
  wide = Equal (sr, rate)
  h = If (wide) <then_branch = t () => (float[1, 4] a) { a = Exp (x) },
                 else_branch = e () => (float[1, 2] b) { first = Constant<value_ints = [0]> ()
                    last = Constant<value_ints = [2]> () axes = Constant<value_ints = [1]> ()
                    s = Slice (x, first, last, axes) b = Mul (s, gain) }>
  y = Neg (h)
}"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rates.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    return str(path)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_fixed_input_is_the_files_own_value_and_none_of_the_graphs(file, rate):
    graph = load(file, inputs=[f"sr={rate}", "gain=2,0.5"], samples=2)
    assert [spec.name for spec in graph.inputs] == ["x"]
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    for feed, reference in zip(graph.examples, graph.references, strict=True):
        whole = {**feed, "sr": np.array(rate, np.int64), "gain": np.float32([2, 0.5])}
        np.testing.assert_array_equal(reference["y"], session.run(None, whole)[0])
    exported = ort.InferenceSession(graph.exported, providers=["CPUExecutionProvider"])
    assert [value.name for value in exported.get_inputs()] == ["x"]
    assert any(f"sr = {rate}" in note for note in graph.source.notes)


def test_what_chooses_is_drawn_from_what_it_is_compared_with(tmp_path):
    path = tmp_path / "rates.onnx"
    same = TEXT.replace("float[1, N] y", "float[1, 4] y").replace("value_ints = [2]", "value_ints = [4]")
    onnx.save(onnx.parser.parse_model(same.replace("float[2] gain", "float[4] gain")), path)
    graph = load(str(path), samples=2)
    assert [int(feed["sr"]) for feed in graph.examples[:2]] == [16000, 8000]
    assert next(item.what for item in graph.drawn if item.name == "sr") == "16000 or 8000"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("sr=16000.5", "int64"),
        ("gains=16000", "did you mean gain"),
        ("gain=1,2,3", "3 numbers"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(file, option, words):
    with pytest.raises(RequestError) as refused:
        load(file, inputs=[option])
    assert words in str(refused.value)


def test_sizes_and_bounds_are_no_values():
    assert parted(["x:1x3", "x:n=1..5", "x:n=4|8", "sr=16000", "on=true", "x:0=-1.5e3"]) == (
        {"sr": "16000", "on": "true", "x:0": "-1.5e3"},
        ["x:1x3", "x:n=1..5", "x:n=4|8"],
    )


def test_a_module_says_that_only_files_have_inputs_to_fix(tmp_path):
    (tmp_path / "m.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(4, 4), torch.zeros(1, 4)\n"
    )
    with pytest.raises(RequestError, match="ONNX file"):
        load(f"{tmp_path}/m.py:make", inputs=["sr=16000"])
