"""A picture becomes what the source's own pre-processing makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgec.core.bundle import InputsOutputs
from edgec.core.errors import RequestError
from edgec.core.graph import TensorSpec
from edgec.frontends.torchvision_guard import prepare_torchvision
from edgec.runtime.pictures import label_of, read_feeds, read_picture


def drawn(path: Path, height: int, width: int) -> Path:
    """A smooth picture with noise: resizing shows in both."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    pixels = (ramp + rng.integers(0, 15, (height, width, 3))).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 61), (40, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_it_is_timms_own(tmp_path: Path, mode: str, height: int, width: int, interpolation: str) -> None:
    prepare_torchvision()
    data = pytest.importorskip("timm.data")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transform = data.create_transform(
        (3, 32, 32), interpolation=interpolation, mean=mean, std=std, crop_pct=0.875, crop_mode=mode
    )
    path = drawn(tmp_path / "a.png", height, width)
    declared = {"mean": list(mean), "std": list(std), "crop_pct": 0.875, "crop_mode": mode}
    declared["interpolation"] = interpolation
    spec = TensorSpec("x", (1, 3, 32, 32), "float32")
    found = read_picture(path, [spec], {"x": declared})["x"]
    with Image.open(path) as opened:
        expected = transform(opened.convert("RGB")).numpy()
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)


def test_a_gray_picture_of_raw_bytes_in_a_batch(tmp_path: Path) -> None:
    path = drawn(tmp_path / "a.png", 8, 8)
    spec = TensorSpec("x", ("n", 1, 8, 8), "uint8")
    found = read_picture(path, [spec], {})["x"]
    with Image.open(path) as opened:
        np.testing.assert_array_equal(found, np.asarray(opened.convert("L"))[None, None])
    scaled = read_picture(path, [TensorSpec("x", (2, 1, 8, 8), "float16")], {"x": {"scale": 1.0}})["x"]
    assert (scaled.shape, scaled.dtype) == ((2, 1, 8, 8), np.float16)
    np.testing.assert_array_equal(scaled[1], found[0])


@pytest.mark.parametrize(
    "inputs",
    [
        [TensorSpec("ids", (1, 8), "int64")],
        [TensorSpec("x", (1, 3, "h", "w"), "float32")],
        [TensorSpec("x", (1, 4, 8, 8), "float32")],
        [TensorSpec("x", (1, 3, 8, 8), "float32"), TensorSpec("y", (1,), "float32")],
    ],
)
def test_a_model_that_takes_something_else_is_said(tmp_path: Path, inputs: list[TensorSpec]) -> None:
    with pytest.raises(RequestError, match="not one picture"):
        read_picture(drawn(tmp_path / "a.png", 8, 8), inputs, {})


def test_a_file_that_is_no_picture_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"junk")
    spec = TensorSpec("x", (1, 3, 8, 8), "float32")
    with pytest.raises(RequestError, match="no picture that Pillow reads"):
        read_picture(path, [spec], {})
    whole = drawn(tmp_path / "b.png", 64, 64).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match="no picture that Pillow reads"):
        read_picture(path, [spec], {})


def test_a_file_is_read_by_its_ending(tmp_path: Path) -> None:
    io = InputsOutputs((TensorSpec("x", (1, 3, 8, 8), "float32"),), (), {}, ())
    path = drawn(tmp_path / "a.PNG", 8, 8)
    np.testing.assert_array_equal(read_feeds(path, io)["x"], read_picture(path, io.inputs, {})["x"])
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    np.testing.assert_array_equal(read_feeds(tmp_path / "a.npz", io)["x"], np.arange(3))
    with pytest.raises(RequestError, match="no such file"):
        read_feeds(tmp_path / "none.png", io)


def test_a_label_needs_a_score_for_each() -> None:
    assert label_of(np.asarray([[1.0, 3.0]]), ("cat", "dog")) == "dog"
    assert label_of(np.asarray([[1.0, 3.0]]), ("cat",)) is None
    assert label_of(np.asarray([[1.0, 3.0]]), ()) is None
