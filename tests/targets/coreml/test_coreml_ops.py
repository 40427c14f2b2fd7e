"""Ops whose lowering is more than one MIL op, against ONNX Runtime."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgec.core.evaluation import Evaluator
from edgec.targets.coreml.lowering.rank import merged

node = helper.make_node


def expected(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with Evaluator(model) as evaluator:
        return list(evaluator.run(feeds).values())


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_merged_axes_are_the_same_permutation(order: list[int], sizes: list[int]) -> None:
    x = np.arange(math.prod(sizes))
    fewer, permutation = merged(sizes, order)
    np.testing.assert_array_equal(
        x.reshape(fewer).transpose(permutation).ravel(), x.reshape(sizes).transpose(order).ravel()
    )
    assert all(b != a + 1 for a, b in itertools.pairwise(permutation))


@pytest.mark.parametrize(
    ("sizes", "perm", "moves"),
    [
        ((2, 2, 4, 3, 4, 5), (0, 1, 3, 2, 4, 5), 1),
        ((1, 2, 2, 3, 4, 5), (0, 3, 4, 1, 5, 2), 1),
        ((2, 2, 2, 3, 4, 5), (0, 3, 4, 1, 5, 2), 1),
        ((2, 3, 2, 3, 2, 3), (5, 3, 1, 4, 2, 0), 3),
    ],
    ids=["windows", "a size of one", "depth to space", "six that part"],
)
def test_a_permutation_of_rank_six(saved, rng, sizes: tuple, perm: tuple, moves: int) -> None:
    model = make_model(
        [
            node("Reshape", ["x", "cut"], ["a"]),
            node("Transpose", ["a"], ["b"], perm=perm),
            node("Reshape", ["b", "back"], ["y"]),
        ],
        {"x": ("float32", (4, math.prod(sizes) // 4))},
        {"y": ("float32", None)},
        {"cut": np.array(sizes), "back": np.array([-1, sizes[perm[-1]]])},
    )
    feeds = {"x": rng.normal(size=(4, math.prod(sizes) // 4)).astype(np.float32)}
    run = saved(model)
    np.testing.assert_array_equal(run(feeds)[0], expected(model, feeds)[0])
    assert ops_of(run.program).count("transpose") == moves


def _recurrent(op: str, directions: int, hidden: int, width: int, rng) -> dict[str, np.ndarray]:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    shapes = {
        "w": (directions, gates * hidden, width),
        "r": (directions, gates * hidden, hidden),
        "b": (directions, 2 * gates * hidden),
        "h": (directions, 2, hidden),
        "c": (directions, 2, hidden),
        "p": (directions, 3 * hidden),
    }
    return {name: rng.normal(size=shape).astype(np.float32) * 0.5 for name, shape in shapes.items()}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "extra", "attributes"),
    [
        ("LSTM", [], {}),
        ("LSTM", ["lengths"], {}),
        ("LSTM", ["lengths", "p"], {}),
        ("LSTM", [], {"clip": 0.4, "input_forget": 1}),
        ("GRU", [], {"linear_before_reset": 1}),
        ("GRU", ["lengths"], {}),
        ("RNN", [], {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    ],
    ids=["lstm", "lstm lengths", "lstm peepholes", "lstm clip", "gru torch", "gru lengths", "rnn leaky"],
)
def test_recurrent_layers(saved, rng, direction: str, op: str, extra: list, attributes: dict) -> None:
    directions, hidden, width = 2 if direction == "bidirectional" else 1, 3, 4
    constants = _recurrent(op, directions, hidden, width, rng)
    constants["lengths"] = np.array([5, 3], np.int32)
    for name in ("activations", "activation_alpha"):
        if name in attributes:
            attributes = {**attributes, name: attributes[name] * directions}
    inputs = ["x", "w", "r", "b", "lengths" if "lengths" in extra else "", "h"]
    if op == "LSTM":
        inputs += ["c", "p" if "p" in extra else ""]
    outputs = ["y", "last", "cell"][: 3 if op == "LSTM" else 2]
    model = make_model(
        [node(op, inputs, outputs, direction=direction, hidden_size=hidden, **attributes)],
        {"x": ("float32", (5, 2, width))},
        dict.fromkeys(outputs, ("float32", None)),
        {name: value for name, value in constants.items() if name in inputs},
    )
    feeds = {"x": rng.normal(size=(5, 2, width)).astype(np.float32)}
    run = saved(model)
    for found, wanted in zip(run(feeds), expected(model, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)
    assert ("lstm" in ops_of(run.program)) == (
        op == "LSTM" and extra != ["lengths", "p"] and not attributes and not extra
    )


@pytest.mark.parametrize("causal", [0, 1])
def test_rows_that_a_computed_mask_hides_whole_are_zero(saved, rng, causal: int) -> None:
    model = make_model(
        [node("Attention", ["q", "q", "q", "m"], ["y"], q_num_heads=2, kv_num_heads=2, is_causal=causal)],
        {"q": ("float32", (2, 4, 8)), "m": ("bool", (2, 1, 4, 4))},
        {"y": ("float32", None)},
    )
    mask = rng.random((2, 1, 4, 4)) > 0.4
    mask[0, 0, 1] = False
    mask[1, 0, 0] = [False, True, True, True]
    feeds = {"q": rng.normal(size=(2, 4, 8)).astype(np.float32), "m": mask}
    found = saved(model)(feeds)[0]
    assert not found[0, 1].any()
    assert found[1, 0].any() == (not causal)
    seen = (mask & (np.tri(4, dtype=bool) if causal else True)).any(-1)[:, 0]
    wanted = np.where(seen[..., None], expected(model, feeds)[0], 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)


VIEWS = {
    "arithmetic": [
        node("Mul", ["v", "row"], ["a"]),
        node("Less", ["a", "one"], ["c"]),
        node("Where", ["c", "a", "column"], ["w"]),
        node("Transpose", ["w"], ["t"], perm=[0, 3, 1, 4, 2, 5]),
        node("Reshape", ["t", "flat"], ["y"]),
    ],
    "product": [
        node("MatMul", ["v", "square"], ["m"]),
        node("Transpose", ["m"], ["t"], perm=[5, 0, 2, 1, 3, 4]),
        node("Reshape", ["t", "flat"], ["y"]),
    ],
    "expand": [
        node("Unsqueeze", ["v", "axis"], ["u"]),
        node("Expand", ["u", "wide"], ["e"]),
        node("Reshape", ["e", "flat"], ["y"]),
    ],
    "gather": [
        node("Transpose", ["v"], ["t"], perm=[0, 2, 4, 1, 3, 5]),
        node("Gather", ["t", "places"], ["g"], axis=2),
        node("Reshape", ["g", "flat"], ["y"]),
    ],
    "gather to rank 6": [
        node("Reshape", ["v", "five"], ["f"]),
        node("Gather", ["f", "table"], ["g"], axis=1),
        node("Transpose", ["g"], ["t"], perm=[2, 1, 0, 5, 3, 4]),
        node("Reshape", ["t", "flat"], ["y"]),
    ],
    "gather nd to rank 6": [
        node("Reshape", ["v", "four"], ["f"]),
        node("GatherND", ["f", "grid"], ["g"]),
        node("Transpose", ["g"], ["t"], perm=[5, 0, 4, 2, 1, 3]),
        node("Reshape", ["t", "flat"], ["y"]),
    ],
    "mean over two axes": [
        node("Transpose", ["v"], ["t"], perm=[5, 0, 2, 1, 3, 4]),
        node("ReduceMean", ["t", "two"], ["m"], keepdims=0),
        node("Reshape", ["m", "flat"], ["y"]),
    ],
    "largest, its axis kept": [
        node("ReduceMax", ["v", "axis"], ["m"], keepdims=1),
        node("Transpose", ["m"], ["t"], perm=[5, 0, 2, 1, 3, 4]),
        node("Reshape", ["t", "flat"], ["y"]),
    ],
    "softmax over the last axis": [
        node("Softmax", ["v"], ["s"], axis=-1),
        node("Transpose", ["s"], ["t"], perm=[0, 3, 1, 4, 2, 5]),
        node("Reshape", ["t", "flat"], ["y"]),
    ],
    "softmax over an inner axis": [
        node("Transpose", ["v"], ["t"], perm=[5, 0, 2, 1, 3, 4]),
        node("Softmax", ["t"], ["s"], axis=2),
        node("Reshape", ["s", "flat"], ["y"]),
    ],
    "split": [
        node("Split", ["v", "parts"], ["p", "q"], axis=4),
        node("Reshape", ["p", "flat"], ["a"]),
        node("Reshape", ["q", "flat"], ["b"]),
        node("Concat", ["b", "a"], ["y"], axis=1),
    ],
}


@pytest.mark.parametrize("name", VIEWS)
def test_ops_on_a_tensor_of_rank_six(saved, rng, name: str) -> None:
    constants = {
        "cut": np.array([2, 2, 3, 2, 4, 3]),
        "row": rng.normal(size=(4, 3)).astype(np.float32),
        "one": np.float32(1),
        "column": rng.normal(size=(3, 1, 1, 1)).astype(np.float32),
        "square": rng.normal(size=(3, 3)).astype(np.float32),
        "axis": np.array([1]),
        "two": np.array([2, -1]),
        "wide": np.array([2, 5, 2, 3, 2, 4, 3]),
        "places": np.array(2),
        "five": np.array([4, 3, 2, 4, 3]),
        "table": np.array([[0, 2], [1, -1], [2, 0]]),
        "four": np.array([4, 3, 8, 3]),
        "grid": np.array([[3, 1], [0, 2]])[:, None, None, :].repeat(2, 1).repeat(3, 2)[..., None, :],
        "parts": np.array([1, 3]),
        "flat": np.array([6, -1]),
    }
    nodes = [node("Reshape", ["x", "cut"], ["v"]), *VIEWS[name]]
    used = {value for item in nodes for value in item.input}
    model = make_model(
        nodes,
        {"x": ("float32", (12, 24))},
        {"y": ("float32", None)},
        {key: np.asarray(array) for key, array in constants.items() if key in used},
    )
    feeds = {"x": rng.normal(size=(12, 24)).astype(np.float32)}
    np.testing.assert_allclose(saved(model)(feeds)[0], expected(model, feeds)[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("image", "block", "attributes"),
    [
        ((5, 6), (2, 3), {}),
        ((7, 6), (3, 2), {"strides": [2, 2], "pads": [1, 0, 0, 1]}),
        ((6, 5), (2, 2), {"dilations": [2, 1], "strides": [3, 2]}),
    ],
    ids=["plain", "strides and pads", "unreached"],
)
def test_blocks_added_up_to_an_image(saved, rng, image: tuple, block: tuple, attributes: dict) -> None:
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0] * 4)
    blocks = math.prod(
        (image[at] + pads[at] + pads[2 + at] - dilations[at] * (block[at] - 1) - 1) // strides[at] + 1
        for at in range(2)
    )
    model = make_model(
        [node("Col2Im", ["x", "i", "b"], ["y"], **attributes)],
        {"x": ("float32", (2, 3 * math.prod(block), blocks))},
        {"y": ("float32", None)},
        {"i": np.array(image), "b": np.array(block)},
    )
    feeds = {"x": rng.normal(size=(2, 3 * math.prod(block), blocks)).astype(np.float32)}
    np.testing.assert_allclose(saved(model)(feeds)[0], expected(model, feeds)[0], rtol=1e-5, atol=2e-6)
