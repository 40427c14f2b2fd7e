"""GridSample, AffineGrid and Einsum of many operands against ONNX Runtime, on drawn shapes."""

from __future__ import annotations

import numpy as np
import pytest
from coreml_graphs import make_model, packaged
from onnx import helper

from edgec.core.errors import UnsupportedError
from edgec.targets.coreml.lowering.program import lower
from edgec.targets.coreml.versions import release

node = helper.make_node


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample(tmp_path, rng, mode: str, padding: str, corners: int, precision: str) -> None:
    batch, channels, *sizes = rng.integers(1, 9, 6).tolist()
    height, width, rows, columns = sizes
    model = make_model(
        [node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=corners)],
        {"x": ("float32", [batch, channels, height, width]), "g": ("float32", [batch, rows, columns, 2])},
        {"y": ("float32", [batch, channels, rows, columns])},
    )
    feeds = {
        "x": rng.standard_normal((batch, channels, height, width)).astype(np.float32),
        "g": rng.uniform(-1.4, 1.4, (batch, rows, columns, 2)).astype(np.float32),
    }
    package, source = packaged(model, [feeds], tmp_path / "engine", precision=precision)
    assert np.abs(package.run(feeds)["y"] - source(feeds)["y"]).max() < 1e-5


def test_grid_sample_in_half_precision_keeps_its_places(tmp_path, rng) -> None:
    """On a wide picture fp16 has no place for every pixel."""
    model = make_model(
        [node("Relu", ["x"], ["r"]), node("GridSample", ["r", "g"], ["y"], mode="nearest", align_corners=1)],
        {"x": ("float32", [1, 1, 1, 4001]), "g": ("float32", [1, 1, 4001, 2])},
        {"y": ("float32", [1, 1, 1, 4001])},
    )
    grid = np.stack([np.linspace(-1, 1, 4001), np.zeros(4001)], -1)[None, None].astype(np.float32)
    feeds = {"x": rng.random((1, 1, 1, 4001)).astype(np.float32), "g": grid}
    package, _ = packaged(model, [feeds], tmp_path / "engine")
    assert np.abs(package.run(feeds)["y"] - feeds["x"]).max() < 1e-3


@pytest.mark.parametrize(
    ("attributes", "shape", "reason"),
    [
        ({"mode": "cubic"}, [1, 1, 4, 4], "has no mode 'cubic'"),
        ({"padding_mode": "reflection"}, [1, 1, 4, 4], "padding_mode 'reflection' is not lowered"),
        ({}, [1, 1, 4, 4, 4], "tensors of rank 5"),
    ],
)
def test_grid_sample_that_core_ml_lacks(attributes: dict[str, str], shape: list[int], reason: str) -> None:
    places = [1, *shape[2:], len(shape) - 2]
    model = make_model(
        [node("GridSample", ["x", "g"], ["y"], **attributes)],
        {"x": ("float32", shape), "g": ("float32", places)},
        {"y": ("float32", shape)},
        opset=20,
    )
    with pytest.raises(UnsupportedError, match=reason):
        lower(model, release("ios18"))


@pytest.mark.parametrize(
    ("size", "corners"),
    [([2, 3, 5, 6], 0), ([2, 3, 5, 6], 1), ([1, 1, 1, 4], 0), ([2, 3, 4, 5, 6], 0), ([2, 3, 4, 5, 6], 1)],
)
def test_affine_grid(tmp_path, rng, size: list[int], corners: int) -> None:
    axes = len(size) - 2
    model = make_model(
        [node("AffineGrid", ["t", "size"], ["y"], align_corners=corners)],
        {"t": ("float32", [size[0], axes, axes + 1])},
        {"y": ("float32", [size[0], *size[2:], axes])},
        {"size": np.array(size)},
    )
    feeds = {"t": rng.standard_normal((size[0], axes, axes + 1)).astype(np.float32)}
    package, source = packaged(model, [feeds], tmp_path / "engine", precision="fp32")
    assert np.abs(package.run(feeds)["y"] - source(feeds)["y"]).max() < 1e-5


@pytest.mark.parametrize(
    "equation",
    [
        "btd,btd,bt->bd",
        "ij,jk,kl->il",
        "bi,bj,ijk->bk",
        "ab,cd,e->abcde",
        "bhid,bhjd,bj->bhij",
        "i,j,k,ijk->",
    ],
)
def test_einsum_of_many_operands(tmp_path, rng, equation: str) -> None:
    given, _, made = equation.partition("->")
    sizes = {letter: int(rng.integers(2, 6)) for letter in sorted(set(given) - {","})}
    feeds = {
        f"x{place}": rng.standard_normal([sizes[letter] for letter in term]).astype(np.float32)
        for place, term in enumerate(given.split(","))
    }
    model = make_model(
        [node("Einsum", list(feeds), ["y"], equation=equation)],
        {name: ("float32", list(array.shape)) for name, array in feeds.items()},
        {"y": ("float32", [sizes[letter] for letter in made])},
    )
    package, _ = packaged(model, [feeds], tmp_path / "engine", precision="fp32")
    expected = np.einsum(equation, *(array.astype(np.float64) for array in feeds.values()))
    assert np.abs(package.run(feeds)["y"] - expected).max() < 1e-4
