"""Real inputs are checked in one sentence each, and come first among the samples."""

import numpy as np
import onnx
import pytest

from edgec.core.errors import RequestError
from edgec.core.graph import TensorSpec
from edgec.frontends import load
from edgec.frontends.example_file import MOST, read_example

IDS = TensorSpec("ids", (2, 4), "int64", "tokens")
X = TensorSpec("x", (2, 3), "float32")


def saved(path, **arrays):
    np.savez(path / "e.npz", **arrays)
    return path / "e.npz"


def real(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


@pytest.mark.parametrize(("lead", "samples"), [((2,), 1), ((3, 2), 3), ((6,), 3)])
def test_one_sample_or_several_stacked_or_one_behind_the_other(tmp_path, lead, samples):
    path = saved(tmp_path, ids=real(*lead, 4), x=real(*lead, 3).astype(np.float32), labels=np.zeros(3))
    feeds = read_example(path, [IDS, X])
    assert len(feeds) == samples
    np.testing.assert_array_equal(np.concatenate([feed["ids"] for feed in feeds]), real(2 * samples, 4))


def test_of_many_samples_some_are_taken_from_end_to_end(tmp_path):
    feeds = read_example(saved(tmp_path, ids=real(50, 2, 4)), [IDS])
    assert len(feeds) == MOST
    assert feeds[0]["ids"][0, 0] == 0
    assert feeds[-1]["ids"][-1, -1] == 50 * 8 - 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3), np.float32)}, "has no array 'ids'"),
        ({"idz": real(2, 4)}, "rename 'idz' to it"),
        ({"ids": real(2, 4), "more": real(2)}, "has the array 'more', and the model has no such input"),
        ({"ids": real(2, 4).astype(np.int32)}, "is int32, the model takes int64"),
        ({"ids": real(2, 5)}, "has the shape 2x5, the model takes 2x4"),
        ({"ids": real(3, 4)}, "has the shape 3x4, the model takes 2x4"),
        ({"ids": real(0, 2, 4)}, "holds no samples"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, arrays, message):
    with pytest.raises(RequestError, match=message):
        read_example(saved(tmp_path, **arrays), [IDS])


def test_nan_and_unequal_counts_are_said(tmp_path):
    with pytest.raises(RequestError, match="'x' has NaN values"):
        read_example(saved(tmp_path, x=np.full((2, 3), np.nan, np.float32)), [X])
    with pytest.raises(RequestError, match="different numbers of samples: ids 1, x 2"):
        read_example(saved(tmp_path, ids=real(2, 4), x=np.zeros((4, 3), np.float32)), [IDS, X])


def embedding(path):
    text = """<ir_version: 9, opset_import: ["": 20]>
        g (int64[2, 4] ids, float[2, 4, 3] x) => (float[2, 4, 3] y) {
            e = Gather (table, ids)
            y = Add (e, x)
        }"""
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "table"))
    onnx.save(model, path / "m.onnx")
    return str(path / "m.onnx")


def test_an_onnx_file_runs_on_the_real_inputs_first_and_on_known_ends_behind(tmp_path):
    ids, x = real(2, 4), np.full((2, 4, 3), 7, np.float32)
    graph = load(embedding(tmp_path), example=saved(tmp_path, ids=ids, x=x))
    np.testing.assert_array_equal(graph.examples[0]["ids"], ids)
    assert all((feed["x"] == 7).all() for feed in graph.examples)
    assert max(feed["ids"].max() for feed in graph.examples) == 49
    assert [str(item) for item in graph.drawn] == ["ids from e.npz and 0…49", "x from e.npz"]
    assert len(graph.references) == len(graph.examples) == 3


def test_real_inputs_that_the_file_refuses_are_blamed(tmp_path):
    ids = np.stack([real(2, 4), np.full((2, 4), 50)])
    path = saved(tmp_path, ids=ids, x=np.zeros((2, 2, 4, 3), np.float32))
    with pytest.raises(RequestError, match=r"e\.npz: the model fails on sample 1"):
        load(embedding(tmp_path), example=path)


def test_a_module_is_traced_on_the_real_inputs(tmp_path):
    torch = pytest.importorskip("torch")
    from edgec.compiler import load as load_model

    class Scaled(torch.nn.Module):
        def forward(self, x):
            return x * 2

    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    graph = load_model(Scaled().eval(), example=saved(tmp_path, x=x))
    np.testing.assert_array_equal(graph.examples[0]["x"], x)
    np.testing.assert_array_equal(graph.references[0]["output"], 2 * x)
    assert graph.ranges_from == "e.npz and drawn inputs"
