"""The checker's kernels against two oracles from outside, on drawn shapes and values.

The first is coremltools: many of MIL's ops carry Apple's own numpy semantics, `value_inference`. The
second is onnx2coreml, a converter by other hands whose lowerings are tested on macOS against Core ML's
runtime: the checker must find in its packages what ONNX Runtime finds in the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_graphs import make_model
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from onnx import helper

from edgec.core.evaluation import Evaluator
from edgec.core.numerics import GATES, compare_arrays
from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.interpreter import Interpreter
from edgec.targets.coreml.checker.package import read
from edgec.targets.coreml.checker.registry import kernels

Generator = np.random.Generator
Inputs = dict[str, Any]
Draw = Callable[[Generator], Inputs]

node = helper.make_node


def shape(rng: Generator, low: int = 1, high: int = 4) -> tuple[int, ...]:
    """A drawn shape, no axis over five."""
    return tuple(int(size) for size in rng.integers(1, 6, rng.integers(low, high + 1)))


def normal(rng: Generator, *sizes: int) -> np.ndarray:
    return rng.normal(size=sizes or shape(rng)).astype(np.float32)


def positive(rng: Generator, *sizes: int) -> np.ndarray:
    return np.abs(normal(rng, *sizes)) + np.float32(0.1)


def whole(rng: Generator, *sizes: int) -> np.ndarray:
    return rng.integers(-9, 10, sizes or shape(rng)).astype(np.int32)


def truth(rng: Generator, *sizes: int) -> np.ndarray:
    return rng.random(sizes or shape(rng)) > 0.5


def axis_of(rng: Generator, x: np.ndarray) -> int:
    return int(rng.integers(-x.ndim, x.ndim))


def axes_of(rng: Generator, x: np.ndarray) -> np.ndarray:
    return np.sort(rng.permutation(x.ndim)[: rng.integers(1, x.ndim + 1)])


def one(draw: Callable[[Generator], np.ndarray], **more: float) -> Draw:
    return lambda rng: {"x": draw(rng), **{key: np.float32(value) for key, value in more.items()}}


def two(left: Callable[..., np.ndarray], right: Callable[..., np.ndarray]) -> Draw:
    """Operands that broadcast: the right one lacks leading axes, and has ones among the others."""

    def draw(rng: Generator) -> Inputs:
        sizes = shape(rng)
        other = [size if rng.random() > 0.4 else 1 for size in sizes[rng.integers(0, len(sizes)) :]]
        return {"x": left(rng, *sizes), "y": right(rng, *other)}

    return draw


def with_axis(draw: Callable[[Generator], np.ndarray], **more: Any) -> Draw:
    def drawn(rng: Generator) -> Inputs:
        x = draw(rng)
        return {"x": x, "axis": axis_of(rng, x), **more}

    return drawn


def reduction(rng: Generator) -> Inputs:
    x = positive(rng)
    return {"x": x, "axes": axes_of(rng, x), "keep_dims": bool(rng.random() > 0.5)}


def arg_reduction(rng: Generator) -> Inputs:
    x = normal(rng)
    return {"x": x, "axis": axis_of(rng, x), "keep_dims": bool(rng.random() > 0.5)}


def layer_norm(rng: Generator) -> Inputs:
    x = normal(rng, *shape(rng, 2))
    first = int(rng.integers(1, x.ndim))
    sizes = x.shape[first:]
    parts = {"gamma": normal(rng, *sizes), "beta": normal(rng, *sizes), "epsilon": np.float32(0.01)}
    return {"x": x, "axes": np.arange(first, x.ndim), **parts}


def matmul(rng: Generator) -> Inputs:
    batch, (m, k, n) = shape(rng, 1, 2), rng.integers(1, 6, 3)
    flip_x, flip_y = (bool(flag) for flag in rng.random(2) > 0.5)
    x, y = normal(rng, *batch, m, k), normal(rng, *batch, k, n)
    return {
        "x": x.swapaxes(-1, -2).copy() if flip_x else x,
        "y": y.swapaxes(-1, -2).copy() if flip_y else y,
        "transpose_x": flip_x,
        "transpose_y": flip_y,
    }


def linear(rng: Generator) -> Inputs:
    inner, outer = (int(size) for size in rng.integers(1, 6, 2))
    x = normal(rng, *shape(rng, 1, 3), inner)
    return {"x": x, "weight": normal(rng, outer, inner), "bias": normal(rng, outer)}


def attention(rng: Generator) -> Inputs:
    b, h, s, t, d = (int(size) for size in rng.integers(1, 6, 5))
    mask = normal(rng, b, 1, s, t) if rng.random() > 0.5 else truth(rng, s, t) | np.eye(s, t, dtype=bool)
    if mask.dtype == np.bool_:
        mask[:, 0] = True
    key = normal(rng, b, h, t, d)
    return {"query": normal(rng, b, h, s, d), "key": key, "value": normal(rng, *key.shape), "attn_mask": mask}


def sliced(rng: Generator) -> Inputs:
    x = normal(rng)
    strides = rng.choice([-2, -1, 1, 2], x.ndim)
    places = [sorted(rng.integers(0, size, 2)) for size in x.shape]
    begin = [high if step < 0 else low for (low, high), step in zip(places, strides, strict=True)]
    end = [low - 1 if step < 0 else high + 1 for (low, high), step in zip(places, strides, strict=True)]
    return {
        "x": x,
        "begin": np.array(begin),
        "end": np.maximum(end, 0),
        "stride": strides,
        "end_mask": [bool(stop < 0 or rng.random() > 0.7) for stop in end],
    }


def padded(mode: str) -> Draw:
    def draw(rng: Generator) -> Inputs:
        # MIL mirrors and repeats the last two axes only.
        x = rng.normal(size=rng.integers(3, 6, 3)).astype(np.float32)
        count = 3 if mode == "constant" else 2
        pads = rng.integers(0, 3, 2 * count)
        return {"x": x, "pad": pads, "mode": mode, "constant_val": np.float32(0.5)}

    return draw


def gathered(rng: Generator) -> Inputs:
    x = normal(rng)
    axis = axis_of(rng, x)
    places = rng.integers(0, x.shape[axis], shape(rng, 1, 2))
    return {"x": x, "axis": axis, "indices": places}


def gathered_along(rng: Generator) -> Inputs:
    x = normal(rng)
    axis = axis_of(rng, x)
    return {"x": x, "axis": axis, "indices": rng.integers(0, x.shape[axis], x.shape)}


def scattered_along(rng: Generator) -> Inputs:
    data = normal(rng, *shape(rng, 2, 3))
    axis = axis_of(rng, data)
    # Each place once along the axis: with two updates of one place the order would count.
    places = np.argsort(rng.random(data.shape), axis)
    return {
        "data": data,
        "indices": places.astype(np.int32),
        "updates": normal(rng, *data.shape),
        "axis": axis,
        "mode": "update",  # coremltools' function knows no other
    }


def top_k(rng: Generator) -> Inputs:
    x = rng.permutation(24).reshape(2, 3, 4).astype(np.float32)
    axis = axis_of(rng, x)
    return {
        "x": x,
        "k": int(rng.integers(1, x.shape[axis] + 1)),
        "axis": axis,
        "ascending": bool(rng.integers(2)),
    }


def sorted_(rng: Generator) -> Inputs:
    x = rng.permutation(24).reshape(2, 3, 4).astype(np.float32)
    return {"x": x, "axis": axis_of(rng, x), "ascending": True}


def joined(rng: Generator) -> Inputs:
    # coremltools' function does not interleave.
    values = [normal(rng, 2, 3, 4), normal(rng, 2, 3, 4)]
    return {"values": values, "axis": int(rng.integers(-3, 3)), "interleave": False}


def stacked(rng: Generator) -> Inputs:
    return {"values": [normal(rng, 2, 3), normal(rng, 2, 3)], "axis": int(rng.integers(0, 3))}


def split(rng: Generator) -> Inputs:
    x, axis = normal(rng, 4, 5, 6), axis_of(rng, np.zeros((4, 5, 6)))
    first = int(rng.integers(1, x.shape[axis]))
    return {"x": x, "split_sizes": np.array([first, x.shape[axis] - first]), "axis": axis}


def updated(rng: Generator) -> Inputs:
    x, at = normal(rng, 4, 5), rng.integers(0, 3, 2)
    size = np.array([2, 2])
    return {"x": x, "update": normal(rng, 2, 2), "begin": at, "end": at + size}


def squeezed(rng: Generator) -> Inputs:
    x = normal(rng, *shape(rng, 1, 3))
    axis = int(rng.integers(0, x.ndim + 1))
    return {"x": np.expand_dims(x, axis), "axes": np.array([axis])}


def quantized(rng: Generator) -> Inputs:
    scale, zero = positive(rng, 3), rng.integers(-5, 5, 3).astype(np.int8)
    return {"scale": scale, "zero_point": zero, "axis": 1}


FLOAT = (
    "abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "identity", "relu", "relu6", "round",
    "sigmoid", "sign", "sin", "sinh", "softplus", "softsign", "square", "tan", "tanh",
)  # fmt: skip
COMPARING = (
    "add", "sub", "mul", "maximum", "minimum", "greater", "greater_equal", "less", "less_equal", "equal",
    "not_equal",
)  # fmt: skip
REDUCING = (
    "max", "min", "mean", "prod", "sum", "l1_norm", "l2_norm", "log_sum", "log_sum_exp", "sum_square",
)  # fmt: skip
DRAWN: dict[str, Draw] = {
    **{name: one(normal) for name in FLOAT},
    **{name: (lambda rng: {"x": np.clip(normal(rng) / 4, -0.9, 0.9)}) for name in ("acos", "asin", "atanh")},
    "sqrt": one(positive),
    "rsqrt": one(positive, epsilon=0.01),
    "inverse": one(positive, epsilon=0.01),
    "log": one(positive, epsilon=0.01),
    **{name: two(normal, normal) for name in COMPARING},
    "real_div": two(normal, positive),
    "floor_div": two(normal, positive),
    "mod": two(whole, lambda rng, *sizes: np.abs(whole(rng, *sizes)) + np.int32(1)),
    "pow": two(positive, normal),
    **{name: two(truth, truth) for name in ("logical_and", "logical_or", "logical_xor")},
    "logical_not": one(truth),
    "clip": one(normal, alpha=-0.5, beta=0.7),
    "elu": one(normal, alpha=0.7),
    "leaky_relu": one(normal, alpha=0.2),
    "sigmoid_hard": one(normal, alpha=0.3, beta=0.4),
    "linear_activation": one(normal, alpha=0.3, beta=0.4),
    "scaled_tanh": one(normal, alpha=0.3, beta=0.4),
    "clamped_relu": one(normal, alpha=0.3, beta=0.4),
    "thresholded_relu": one(normal, alpha=0.2),
    "threshold": one(normal, alpha=0.2),
    "prelu": lambda rng: {"x": normal(rng, 2, 3, 4, 2), "alpha": positive(rng, 3)},
    "softplus_parametric": lambda rng: {
        "x": normal(rng, 2, 3, 4),
        "alpha": positive(rng, 3),
        "beta": positive(rng, 3),
    },
    "gelu": lambda rng: {
        "x": normal(rng),
        "mode": str(rng.choice(["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])),
    },
    "cast": lambda rng: {"x": normal(rng) * 9, "dtype": str(rng.choice(["int32", "fp16", "fp32"]))},
    "softmax": with_axis(normal),
    "select": lambda rng: {"cond": truth(rng, 3, 4), "a": normal(rng, 3, 4), "b": normal(rng, 3, 4)},
    "matmul": matmul,
    "linear": linear,
    "einsum": lambda rng: {
        "values": (normal(rng, 2, 3, 4, 5), normal(rng, 2, 5, 4, 3)),
        "equation": "bchw,bwhu->bchu",
    },
    "scaled_dot_product_attention": attention,
    "layer_norm": layer_norm,
    "l2_norm": lambda rng: {"x": normal(rng, *shape(rng, 3, 4)), "epsilon": np.float32(0.01)},
    **{f"reduce_{name}": reduction for name in REDUCING},
    "reduce_argmax": arg_reduction,
    "reduce_argmin": arg_reduction,
    "reshape": lambda rng: {"x": normal(rng, 2, 6, 4), "shape": np.array([0, -1, 3])},
    "transpose": lambda rng: {"x": normal(rng, 2, 3, 4, 2), "perm": rng.permutation(4)},
    "expand_dims": lambda rng: {"x": normal(rng, 2, 3), "axes": np.array([int(rng.integers(-3, 3))])},
    "squeeze": squeezed,
    "flatten2d": lambda rng: {"x": normal(rng, 2, 3, 4, 5), "axis": int(rng.integers(1, 4))},
    "reverse": lambda rng: {"x": normal(rng, 2, 3, 4), "axes": axes_of(rng, np.zeros((2, 3, 4)))},
    "tile": lambda rng: {"x": normal(rng, 2, 3), "reps": rng.integers(1, 4, 2)},
    "pad": lambda rng: padded(str(rng.choice(["constant", "reflect", "replicate"])))(rng),
    "concat": joined,
    "stack": stacked,
    "split": split,
    "slice_by_index": sliced,
    "slice_by_size": lambda rng: {
        "x": normal(rng, 4, 5),
        "begin": rng.integers(0, 3, 2),
        "size": np.array([2, -1]),
    },
    "slice_update": updated,
    "band_part": lambda rng: {
        "x": normal(rng, 2, 4, 5),
        "lower": int(rng.integers(-1, 4)),
        "upper": int(rng.integers(-1, 4)),
    },
    "gather": gathered,
    "gather_along_axis": gathered_along,
    "scatter_along_axis": scattered_along,
    "topk": top_k,
    "argsort": sorted_,
    "cumsum": lambda rng: {
        "x": normal(rng, 3, 4),
        "axis": int(rng.integers(0, 2)),
        "exclusive": False,
        "reverse": bool(rng.integers(2)),
    },
    "range_1d": lambda rng: {
        "start": np.int32(rng.integers(5)),
        "end": np.int32(20),
        "step": np.int32(rng.integers(1, 4)),
    },
    "shape": one(normal),
    "fill": lambda rng: {"shape": np.array(shape(rng)), "value": np.float32(rng.normal())},
    "fill_like": lambda rng: {"ref_tensor": normal(rng), "value": np.float32(2)},
    "dequantize": lambda rng: {"input": rng.integers(-128, 128, (2, 3, 4)).astype(np.int8), **quantized(rng)},
    "quantize": lambda rng: {"input": normal(rng, 2, 3, 4) * 9, "output_dtype": "int8", **quantized(rng)},
}


@pytest.mark.parametrize("op", DRAWN)
@seed(5)
@settings(max_examples=8, deadline=None, database=None)
@given(number=st.integers(0, 2**31))
def test_kernel_against_value_inference(op: str, number: int) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function

    inputs = DRAWN[op](np.random.default_rng(number))
    # Some of coremltools' own functions write into what they are given.
    copies = {
        key: np.array(value) if isinstance(value, np.ndarray) else value for key, value in inputs.items()
    }
    with Function({"unused": mb.placeholder(shape=(1,))}, opset_version=ct.target.iOS18):
        result = getattr(mb, op)(**copies)
    results = result if isinstance(result, (list, tuple)) else [result]
    wanted = [item.op.materialized_val_inference() if op == "dequantize" else item.val for item in results]
    assert all(value is not None for value in wanted), "coremltools infers no value for it"
    bindings = {
        key: list(value) if isinstance(value, (list, tuple)) and isinstance(value[0], np.ndarray)
        else [value if isinstance(value, str) else np.asarray(value)]
        for key, value in inputs.items()
    }  # fmt: skip
    found = kernels()[op](Arguments(op, bindings, "CoreML8"))
    found = found if isinstance(found, (list, tuple)) else [found]
    for want, got in zip(wanted, found, strict=True):
        assert np.shape(got) == np.shape(want)
        np.testing.assert_allclose(np.asarray(got, float), np.asarray(want, float), rtol=2e-5, atol=2e-6)


WITHOUT_ORACLE = {
    # Apple defines these in its reference only; onnx2coreml's packages and ONNX's node tests cover them.
    "avg_pool", "batch_norm", "classify", "conv", "conv_transpose", "depth_to_space", "gather_nd",
    "instance_norm", "l2_pool", "local_response_norm", "lstm", "max_pool", "one_hot", "pixel_shuffle",
    "pixel_unshuffle", "resize_bilinear", "resize_nearest_neighbor", "scatter", "scatter_nd", "silu",
    "sliding_windows", "reverse_sequence", "space_to_depth", "upsample_bilinear", "upsample_nearest_neighbor",
    "resample",
    # Compressed weights: on fixed values in test_coreml_checker.py.
    "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale", "constexpr_cast",
    "constexpr_lut_to_dense", "constexpr_sparse_to_dense",
}  # fmt: skip


def test_every_kernel_has_an_oracle_or_a_reason() -> None:
    assert set(kernels()) - set(DRAWN) <= WITHOUT_ORACLE


def _uniform(rng: Generator, *sizes: int) -> np.ndarray:
    return rng.uniform(0.5, 1.5, sizes).astype(np.float32)


def _graphs() -> dict[str, tuple[list, tuple, dict[str, Any]]]:
    """Graphs of ops that coremltools has no numpy for, in forms that onnx2coreml takes."""
    rng = np.random.default_rng(4)
    image = (1, 4, 7, 6)
    lstm = {"w": normal(rng, 1, 16, 3), "r": normal(rng, 1, 16, 4), "b": normal(rng, 1, 32)}
    both = {"w": normal(rng, 2, 16, 3), "r": normal(rng, 2, 16, 4), "b": normal(rng, 2, 32)}
    geometry = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}

    def resized(mode: str, transform: str, **more: Any) -> tuple:
        scales = {"s": np.array([1, 1, 2, 2], np.float32)}
        return (
            [
                node(
                    "Resize",
                    ["x", "", "s"],
                    ["y"],
                    mode=mode,
                    coordinate_transformation_mode=transform,
                    **more,
                )
            ],
            image,
            scales,
        )

    return {
        "conv": (
            [
                node(
                    "Conv",
                    ["x", "w", "b"],
                    ["y"],
                    pads=[1, 0, 0, 1],
                    strides=[2, 1],
                    dilations=[1, 2],
                    group=2,
                )
            ],
            image,
            {"w": normal(rng, 6, 2, 3, 2), "b": normal(rng, 6)},
        ),
        "depthwise conv": (
            [node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=4)],
            image,
            {"w": normal(rng, 4, 1, 3, 3)},
        ),
        "conv along one axis": (
            [node("Conv", ["x", "w", "b"], ["y"], pads=[2, 0], strides=[3])],
            (2, 3, 11),
            {"w": normal(rng, 5, 3, 4), "b": normal(rng, 5)},
        ),
        "conv transpose": (
            [node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 0, 0, 1])],
            image,
            {"w": normal(rng, 4, 3, 3, 2), "b": normal(rng, 3)},
        ),
        "average pool": ([node("AveragePool", ["x"], ["y"], **geometry)], image, {}),
        "average pool, padding counted": (
            [node("AveragePool", ["x"], ["y"], count_include_pad=1, **geometry)],
            image,
            {},
        ),
        "max pool": ([node("MaxPool", ["x"], ["y"], **geometry)], image, {}),
        "batch norm": (
            [node("BatchNormalization", ["x", "w", "b", "b", "v"], ["y"], epsilon=1e-3)],
            image,
            {"w": _uniform(rng, 4), "b": _uniform(rng, 4), "v": _uniform(rng, 4)},
        ),
        "instance norm": (
            [node("InstanceNormalization", ["x", "w", "b"], ["y"])],
            image,
            {"w": _uniform(rng, 4), "b": _uniform(rng, 4)},
        ),
        "depth to space": ([node("DepthToSpace", ["x"], ["y"], blocksize=2)], image, {}),
        "pixel shuffle": ([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], image, {}),
        "space to depth": ([node("SpaceToDepth", ["x"], ["y"], blocksize=2)], (1, 2, 4, 6), {}),
        "resize linear": resized("linear", "half_pixel"),
        "resize linear, corners aligned": resized("linear", "align_corners"),
        "resize nearest": resized("nearest", "asymmetric", nearest_mode="floor"),
        "gather nd": ([node("GatherND", ["x", "i"], ["y"])], (3, 4, 5), {"i": np.array([[0, 1], [2, 3]])}),
        "scatter nd": (
            [node("ScatterND", ["x", "i", "u"], ["y"])],
            (3, 4, 5),
            {"i": np.array([[0, 1], [2, 3]]), "u": normal(rng, 2, 5)},
        ),
        "lstm": ([node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=4)], (5, 2, 3), lstm),
        "lstm backwards": (
            [node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=4, direction="reverse")],
            (5, 2, 3),
            lstm,
        ),
        "lstm both ways": (
            [node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], hidden_size=4, direction="bidirectional")],
            (5, 2, 3),
            both,
        ),
        "a small network": (
            [
                node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
                node("Relu", ["a"], ["b"]),
                node("GlobalAveragePool", ["b"], ["c"]),
                node("Flatten", ["c"], ["d"]),
                node("Gemm", ["d", "m", "n"], ["e"]),
                node("Softmax", ["e"], ["y"]),
            ],
            image,
            {"w": normal(rng, 6, 4, 3, 3), "m": normal(rng, 6, 5), "n": normal(rng, 5)},
        ),
    }


GRAPHS = _graphs()


@pytest.mark.parametrize("name", GRAPHS)
def test_checker_on_packages_of_another_converter(tmp_path: Path, rng: Generator, name: str) -> None:
    onnx2coreml = pytest.importorskip("onnx2coreml")
    import onnx_ir as ir

    nodes, sizes, constants = GRAPHS[name]
    outputs = [output for output in nodes[-1].output if output]
    model = make_model(
        nodes, {"x": ("float32", sizes)}, dict.fromkeys(outputs, ("float32", None)), constants, opset=17
    )
    feeds = {"x": normal(rng, *sizes)}
    with Evaluator(model) as evaluator:
        wanted = list(evaluator.run(feeds).values())
    package = onnx2coreml.convert(
        ir.to_proto(model), compute_precision="fp32", minimum_deployment_target="iOS17"
    )
    package.save(str(tmp_path / "model.mlpackage"))
    program = Interpreter(read(tmp_path / "model.mlpackage"))
    found = program.run(feeds)
    for output, want in zip(program.outputs, wanted, strict=True):
        assert GATES["fp32"].accepts(compare_arrays(want, np.asarray(found[output]).reshape(want.shape)))
