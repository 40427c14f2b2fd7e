"""fp32 islands: fp16 packages that saw small numbers, checked on large ones against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of, packaged
from onnx import helper

from edgec.core.graph import Arrays

node = helper.make_node
RNG = np.random.default_rng(0)
FREQUENCIES = (1 / 10000 ** (np.arange(0, 32, 2) / 32)).astype(np.float32)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    """Drawn weights."""
    return (np.random.default_rng(5).standard_normal(shape) * scale).astype(np.float32)


def angles() -> ir.Model:
    """Features turned by an angle that grows with the position, as rotary embeddings are."""
    return make_model(
        [
            node("Cast", ["positions"], ["p"], to=1),
            node("Mul", ["p", "frequencies"], ["angle"]),
            node("Cos", ["angle"], ["c"]),
            node("Sin", ["angle"], ["s"]),
            node("Mul", ["x", "c"], ["xc"]),
            node("Mul", ["x", "s"], ["xs"]),
            node("Sub", ["xc", "xs"], ["y"]),
        ],
        {"x": ("float32", [1, 8, 16]), "positions": ("int64", [1, 8, 1])},
        {"y": ("float32", [1, 8, 16])},
        {"frequencies": FREQUENCIES},
    )


def powers() -> ir.Model:
    """A power spectrum, a filter bank and a logarithm."""
    return make_model(
        [
            node("MatMul", ["x", "basis"], ["s"]),
            node("Mul", ["s", "s"], ["p"]),
            node("MatMul", ["p", "bank"], ["m"]),
            node("Add", ["m", "eps"], ["e"]),
            node("Log", ["e"], ["y"]),
        ],
        {"x": ("float32", [1, 20, 64])},
        {"y": ("float32", [1, 20, 8])},
        {"basis": normal(64, 32), "bank": np.abs(normal(32, 8)), "eps": np.float32(1e-2)},
    )


def long_mean() -> ir.Model:
    """A masked mean over many frames, as a sum over a count."""
    return make_model(
        [
            node("Cast", ["mask"], ["m"], to=1),
            node("Mul", ["x", "m"], ["xm"]),
            node("ReduceSum", ["xm", "axis"], ["s"], keepdims=0),
            node("ReduceSum", ["m", "axis"], ["n"], keepdims=0),
            node("Div", ["s", "n"], ["y"]),
        ],
        {"x": ("float32", [1, 3000, 8]), "mask": ("int64", [1, 3000, 1])},
        {"y": ("float32", [1, 8])},
        {"axis": np.array([1])},
    )


def deviation() -> ir.Model:
    """The square root of a variance, in parts."""
    return make_model(
        [
            node("Pow", ["x", "two"], ["p"]),
            node("ReduceMean", ["p", "axis"], ["m"]),
            node("Sqrt", ["m"], ["y"]),
        ],
        {"x": ("float32", [1, 8, 64])},
        {"y": ("float32", [1, 8, 1])},
        {"two": np.float32(2), "axis": np.array([2])},
    )


def length() -> ir.Model:
    """Features over their 2-norm."""
    return make_model(
        [node("ReduceL2", ["x", "axis"], ["n"]), node("Div", ["x", "n"], ["y"])],
        {"x": ("float32", [1, 8, 64])},
        {"y": ("float32", [1, 8, 64])},
        {"axis": np.array([2])},
    )


def running_sum() -> ir.Model:
    """Differences of a running sum."""
    return make_model(
        [
            node("CumSum", ["x", "axis"], ["c"]),
            node("Slice", ["c", "one", "end", "axes"], ["later"]),
            node("Slice", ["c", "zero", "last", "axes"], ["earlier"]),
            node("Sub", ["later", "earlier"], ["y"]),
        ],
        {"x": ("float32", [1, 1000])},
        {"y": ("float32", [1, 999])},
        {
            "axis": np.array(1), "axes": np.array([1]), "zero": np.array([0]), "one": np.array([1]),
            "last": np.array([-1]), "end": np.array([2000]),
        },
    )  # fmt: skip


def counts() -> ir.Model:
    """Places as floats: what a table's row and column follow from."""
    return make_model(
        [
            node("Cast", ["i"], ["f"], to=1),
            node("Div", ["f", "width"], ["r"]),
            node("Floor", ["r"], ["row"]),
            node("Mul", ["row", "width"], ["begin"]),
            node("Sub", ["f", "begin"], ["column"]),
            node("Cast", ["column"], ["y"], to=7),
        ],
        {"i": ("int64", [1, 64])},
        {"y": ("int64", [1, 64])},
        {"width": np.float32(80)},
    )


def nearly_constant() -> ir.Model:
    """A head whose output varies by a thousandth around 1."""
    return make_model(
        [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], ["y"])],
        {"x": ("float32", [1, 16, 64])},
        {"y": ("float32", [1, 16, 1])},
        {"w": normal(64, 1, scale=1e-4), "b": np.ones(1, np.float32)},
    )


def best() -> ir.Model:
    """The best of many classes, by scores that a product makes."""
    return make_model(
        [node("MatMul", ["x", "w"], ["p"]), node("ArgMax", ["p"], ["y"], axis=2)],
        {"x": ("float32", [1, 512, 32])},
        {"y": ("int64", [1, 512, 1])},
        {"w": normal(32, 1) + normal(32, 4000, scale=1e-2)},
    )


def drawn(shape: tuple[int, ...], scale: float = 1.0, mean: float = 0.0) -> np.ndarray:
    """Drawn inputs."""
    return (RNG.standard_normal(shape) * scale + mean).astype(np.float32)


def _audio(scale: float) -> Arrays:
    return {"x": drawn((1, 20, 64), scale)}


def _frames(mean: float) -> Arrays:
    return {"x": drawn((1, 3000, 8), 1.0, mean), "mask": np.ones((1, 3000, 1), np.int64)}


def _places(start: int) -> Arrays:
    return {"x": drawn((1, 8, 16)), "positions": np.arange(start, start + 8).reshape(1, 8, 1)}


def _rows(scale: float) -> Arrays:
    return {"x": drawn((1, 8, 64), scale)}


def _numbers(start: int) -> Arrays:
    return {"i": np.arange(start, start + 64)[None]}


CASES: dict[str, tuple[Callable[[], ir.Model], Arrays, list[Arrays]]] = {
    "angles": (angles, _places(0), [_places(100), _places(1500), _places(30000)]),
    "powers": (powers, _audio(1), [_audio(100), _audio(8000)]),
    "long mean": (long_mean, _frames(0), [_frames(10), _frames(30), _frames(1000)]),
    "deviation": (deviation, _rows(1), [_rows(1e3), _rows(2e4)]),
    "length": (length, _rows(1), [_rows(1e3), _rows(1e4)]),
    "running sum": (running_sum, {"x": drawn((1, 1000))}, [{"x": drawn((1, 1000), 1.0, 100.0)}]),
    "counts": (counts, _numbers(0), [_numbers(5000), _numbers(60001)]),
    "nearly constant": (nearly_constant, {"x": drawn((1, 16, 64))}, [{"x": drawn((1, 16, 64))}]),
    "best": (best, {"x": drawn((1, 512, 32))}, [{"x": drawn((1, 512, 32))}]),
}  # fmt: skip


@pytest.mark.parametrize("release", ["ios16", "ios17", "ios18", "ios26"])
@pytest.mark.parametrize("case", CASES)
def test_fp16_package_is_right_far_from_its_examples(tmp_path, case: str, release: str) -> None:
    build, example, wide = CASES[case]
    package, source = packaged(build(), [example], tmp_path / "engine", release)
    for feeds in wide:
        expected, found = source(feeds)["y"], package.run(feeds)["y"]
        if expected.dtype.kind != "f":
            assert np.array_equal(found, expected)
            continue
        # Features of three times the spread, rounded some ten times.
        assert np.abs(found - expected).max() <= 30 * 2.0**-11 * expected.std()


def test_a_feature_map_s_mean_stays_half(tmp_path) -> None:
    model = make_model(
        [
            node("Relu", ["x"], ["r"]),
            node("ReduceMean", ["r", "axes"], ["m"]),
            node("Sigmoid", ["m"], ["s"]),
            node("Mul", ["r", "s"], ["y"]),
        ],
        {"x": ("float32", [1, 4, 56, 56])},
        {"y": ("float32", [1, 4, 56, 56])},
        {"axes": np.array([2, 3])},
    )
    package, _ = packaged(model, [{"x": drawn((1, 4, 56, 56))}], tmp_path / "engine")
    assert "cast" not in ops_of(package.interpreter)


def test_scores_beyond_the_range_keep_their_softmax(tmp_path) -> None:
    model = make_model(
        [
            node("MatMul", ["q", "k"], ["s"]),
            node("Softmax", ["s"], ["p"], axis=-1),
            node("MatMul", ["p", "v"], ["y"]),
        ],
        {"q": ("float32", [1, 8, 16]), "k": ("float32", [1, 16, 8]), "v": ("float32", [1, 8, 16])},
        {"y": ("float32", [1, 8, 16])},
    )
    feeds = {"q": drawn((1, 8, 16), 300), "k": drawn((1, 16, 8), 300), "v": drawn((1, 8, 16))}
    package, source = packaged(model, [feeds], tmp_path / "engine")
    assert np.abs(package.run(feeds)["y"] - source(feeds)["y"]).max() < 1e-2


WIDE = {
    "topk": (
        [node("TopK", ["x", "k"], ["values", "y"])],
        {"x": ("float32", [1, 70000])},
        {"y": ("int64", [1, 5])},
        {"k": np.array([5])},
    ),
    "gather_nd": (
        [node("GatherND", ["table", "i"], ["y"])],
        {"i": ("int64", [64, 1])},
        {"y": ("float32", [64])},
        {"table": np.arange(70000, dtype=np.float32)},
    ),
    "squeeze": (
        [node("Squeeze", ["i", "axis"], ["j"]), node("Add", ["j", "one"], ["y"])],
        {"i": ("int64", [64, 1])},
        {"y": ("int64", [64])},
        {"axis": np.array([1]), "one": np.array(1)},
    ),
    "mod": (
        [node("Mod", ["i", "number"], ["y"])],
        {"i": ("int64", [64, 1])},
        {"y": ("int64", [64, 1])},
        {"number": np.array(7919)},
    ),
    "pad": (
        [node("Pad", ["i", "pads"], ["y"])],
        {"i": ("int64", [64, 1])},
        {"y": ("int64", [66, 1])},
        {"pads": np.array([1, 0, 1, 0])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WIDE)
def test_integers_beyond_16_bits(tmp_path, case: str) -> None:
    nodes, inputs, outputs, constants = WIDE[case]
    model = make_model(list(nodes), inputs, outputs, constants)
    feeds: Arrays = {"i": RNG.integers(40000, 65000, (64, 1)) // 2 * 2 + 1}
    if "x" in inputs:
        feeds = {
            "x": np.where(np.arange(70000) % 9973 == 9972, drawn((1, 70000), 1, 50), 0).astype(np.float32)
        }
    package, source = packaged(model, [feeds], tmp_path / "engine")
    expected, found = source(feeds)["y"], package.run(feeds)["y"]
    assert (
        np.allclose(found, expected, rtol=2.0**-11, atol=0)
        if found.dtype.kind == "f"
        else (found == expected).all()
    )
