"""Ops that some engines lack, in the ops that stand for them, against ONNX Runtime's own kernels."""

import numpy as np
import pytest
from pass_graphs import build, check, ops, reasons

from edgec.passes.decompose import load_passes


@pytest.fixture(autouse=True)
def _registered():
    load_passes()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "axis", "attributes", "made"),
    [
        ("2,12,1", 1, "", "2,12,2"),
        ("2,12,1", 1, "<onesided=1>", "2,7,2"),
        ("2,9,2", 1, "<inverse=1>", "2,9,2"),
        ("3,8,4,2", -2, "", "3,8,4,2"),
        ("3,8,4,2", 1, "", "3,8,4,2"),
        ("2,3,5,1", 0, "", "2,3,5,2"),
    ],
)
def test_a_transform_of_fixed_length_is_a_product(shape, axis, attributes, made):
    model = build(
        f"(float[{shape}] x) => (float[{made}] y) {{ y = DFT {attributes} (x, , axis) }}", axis=np.array(axis)
    )
    check(model, "decompose.spectrum")
    assert "DFT" not in ops(model)


@pytest.mark.parametrize("length", [6, 20])
def test_a_transform_cuts_or_fills_the_signal_to_its_length(length):
    model = build(
        f"(float[2,12,1] x) => (float[2,{length},2] y) {{ y = DFT (x, n, axis) }}",
        n=np.array(length),
        axis=np.array(1),
    )
    check(model, "decompose.spectrum")
    assert "DFT" not in ops(model)


def test_a_long_transform_stays_and_says_why():
    model = build("(float[1,4096,1] x) => (float[1,4096,2] y) { y = DFT(x, , axis) }", axis=np.array(1))
    assert "longer than 2048" in reasons(check(model, "decompose.spectrum")["decompose.spectrum"])


@pytest.mark.parametrize(("onesided", "bins"), [(1, 9), (0, 16)])
def test_frames_of_sound_are_a_convolution(onesided, bins):
    model = build(
        f"(float[2,64,1] x) => (float[2,F,{bins},2] y) {{ y = STFT <onesided={onesided}> (x, hop, window) }}",
        hop=np.array(5),
        window=np.hanning(16).astype(np.float32),
    )
    check(model, "decompose.spectrum")
    assert ops(model)["Conv"] == 1


@pytest.mark.parametrize(
    ("kernel", "attributes", "image", "blocks"),
    [
        ((2, 2), "strides=[2,2]", (8, 6), 12),
        ((3, 2), "strides=[1,1]", (5, 4), 9),
        ((3, 3), "strides=[2,2], pads=[1,1,1,1]", (6, 6), 9),
        ((2, 2), "strides=[2,2], dilations=[2,2]", (6, 7), 6),
    ],
)
def test_blocks_are_put_together_by_a_transposed_convolution(kernel, attributes, image, blocks):
    numbers = 3 * kernel[0] * kernel[1]
    model = build(
        f"(float[2,{numbers},{blocks}] x) => (float[2,3,{image[0]},{image[1]}] y)"
        f"{{ y = Col2Im <{attributes}> (x, image, block) }}",
        image=np.array(image),
        block=np.array(kernel),
    )
    check(model, "decompose.col2im")
    assert ops(model)["ConvTranspose"] == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_elements_that_come_twice_are_added_twice(axis):
    shape = [2, 6, 4]
    indices = np.random.default_rng(1).integers(-shape[axis], shape[axis], shape)
    model = build(
        "(float[2,6,4] x, float[2,6,4] u) => (float[2,6,4] y)"
        f'{{ y = ScatterElements <axis={axis}, reduction="add"> (x, i, u) }}',
        i=indices,
    )
    check(model, "decompose.scatter_add")
    assert "ScatterElements" not in ops(model)


@pytest.mark.parametrize("depth", [1, 2])
def test_rows_that_come_twice_are_added_twice(depth):
    indices = np.array([[1, -1], [0, 2], [1, -1], [3, 0]])[:, :depth]
    rest = "3,5" if depth == 1 else "5"
    model = build(
        f"(float[4,3,5] x, float[4,{rest}] u) => (float[4,3,5] y)"
        '{ y = ScatterND <reduction="add"> (x, i, u) }',
        i=indices,
    )
    check(model, "decompose.scatter_add")
    assert "ScatterND" not in ops(model)


@pytest.mark.parametrize(
    ("attributes", "made"),
    [
        ("kernel_shape=[2,2], strides=[2,2]", "3,4"),
        ("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", "3,4"),
        ("kernel_shape=[2,3], strides=[1,2], dilations=[2,1]", "4,3"),
        ("kernel_shape=[3,3], strides=[2,2], ceil_mode=1", "3,4"),
    ],
)
def test_the_places_of_the_largest_are_found_by_comparing(attributes, made):
    model = build(
        f"(float[2,3,6,8] x) => (float[2,3,{made}] y, int64[2,3,{made}] p)"
        f"{{ y, p = MaxPool <{attributes}> (x) }}"
    )
    check(model, "decompose.pool_indices")
    assert ops(model)["ArgMax"] == 1


def test_what_was_pooled_goes_back_to_its_places():
    model = build(
        "(float[2,3,6,8] x) => (float[2,3,6,8] y) { v, p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x)\n"
        "w = Exp(v)\n y = MaxUnpool <kernel_shape=[2,2], strides=[2,2]> (w, p) }"
    )
    check(model, "canonicalize.shapes", "decompose.pool_indices")
    assert "MaxUnpool" not in ops(model)


BOXES = np.array([[0, 0, 4, 4], [1.3, 2.1, 6.9, 7.7], [-3, -2, 3, 12], [5, 5, 5.1, 5.2]], np.float32)


@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("batch", [1, 2])
def test_boxes_are_sampled_evenly(mode, batch):
    model = build(
        f"(float[{batch},3,8,9] x) => (float[4,3,3,2] y) {{ y = RoiAlign <output_height=3, output_width=2,"
        f'sampling_ratio=2, spatial_scale=0.75, coordinate_transformation_mode="{mode}">'
        "(x, boxes, pictures) }",
        boxes=BOXES,
        pictures=np.arange(4) % batch,
    )
    model.opset_imports[""] = 21  # ONNX Runtime has no kernel of RoiAlign-22, which only allows more types
    check(model, "decompose.sampled")
    assert ops(model)["GridSample"] == 1


def test_boxes_with_samples_of_their_own_stay():
    model = build(
        "(float[1,3,8,8] x) => (float[4,3,2,2] y) { y = RoiAlign <output_height=2, output_width=2>"
        "(x, boxes, pictures) }",
        boxes=BOXES,
        pictures=np.zeros(4, np.int64),
    )
    model.opset_imports[""] = 21
    assert "sampling_ratio" in reasons(check(model, "decompose.sampled")["decompose.sampled"])


@pytest.mark.parametrize(
    ("attributes", "offsets", "weight", "size"),
    [
        ("kernel_shape=[3,3]", 18, (6, 4, 3, 3), "6,7"),
        ("kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]", 18, (6, 4, 3, 3), "4,5"),
        ("kernel_shape=[3,2], offset_group=2, group=2, dilations=[2,1]", 24, (6, 2, 3, 2), "4,8"),
    ],
)
def test_a_convolution_at_moved_places_is_sampled_and_summed(attributes, offsets, weight, size):
    taps = weight[2] * weight[3]
    parted = offsets // (2 * taps)
    model = build(
        f"(float[2,4,8,9] x, float[2,{offsets},{size}] o, float[2,{parted * taps},{size}] m) =>"
        f"(float[2,6,{size}] y) {{ y = DeformConv <{attributes}> (x, w, o, b, m) }}",
        w=normal(*weight),
        b=normal(6, seed=1),
    )
    check(model, "decompose.sampled")
    assert ops(model)["GridSample"] == 1
