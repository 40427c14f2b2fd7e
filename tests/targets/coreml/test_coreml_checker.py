"""The checker: weight files, broken packages, and its kernels against coremltools' own arithmetic."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from coreml_graphs import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgec.core.errors import IntegrityError, JobError
from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.blobs import Blobs, unpacked
from edgec.targets.coreml.checker.interpreter import Interpreter
from edgec.targets.coreml.checker.package import read
from edgec.targets.coreml.checker.registry import kernels


@settings(max_examples=25, deadline=None)
@given(bits=st.sampled_from([1, 2, 3, 4, 6]), count=st.integers(1, 200), seed=st.integers(0, 9))
def test_elements_under_a_byte_as_coremltools_writes_them(
    tmp_path_factory, bits: int, count: int, seed: int
) -> None:
    from coremltools.libmilstoragepython import _BlobStorageWriter

    values = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint8)
    path = tmp_path_factory.mktemp("blobs") / "weight.bin"
    writer = _BlobStorageWriter(str(path))
    offset = getattr(writer, f"write_uint{bits}_data")(values)
    del writer
    np.testing.assert_array_equal(Blobs(path).read(offset, (count,)), values)


def test_signed_nibbles() -> None:
    assert unpacked(np.array([0x8F], np.uint8), 2, 4, True).tolist() == [-1, -8]


@pytest.fixture
def package(saved, rng) -> Path:
    model = make_model(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gelu", ["h"], ["y"])],
        {"x": ("float32", (3, 40))},
        {"y": ("float32", (3, 20))},
        {"w": rng.normal(size=(40, 20)).astype(np.float32)},
    )
    return saved(model).path


def weights(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/weights/weight.bin"


def record(package: Path) -> int:
    return bytes(weights(package).read_bytes()).index(struct.pack("<I", 0xDEADBEEF))


def broken_weight_files() -> dict[str, object]:
    def overwrite(at: int, data: bytes):  # type: ignore[no-untyped-def]
        def change(path: Path) -> None:
            content = bytearray(weights(path).read_bytes())
            start = record(path) + at
            content[start : start + len(data)] = data
            weights(path).write_bytes(bytes(content))

        return change

    def truncate(path: Path) -> None:
        weights(path).write_bytes(weights(path).read_bytes()[:200])

    return {
        "no sentinel": overwrite(0, b"\0\0\0\0"),
        "unknown type": overwrite(4, struct.pack("<I", 99)),
        "other type": overwrite(4, struct.pack("<I", 1)),
        "unaligned": overwrite(16, struct.pack("<Q", 131)),
        "beyond the end": overwrite(8, struct.pack("<Q", 1 << 40)),
        "truncated": truncate,
        "missing": lambda path: weights(path).unlink(),
        "empty": lambda path: weights(path).write_bytes(b""),
    }


@pytest.mark.parametrize("how", broken_weight_files())
def test_a_broken_weight_file_is_one_clear_error(package: Path, how: str) -> None:
    broken_weight_files()[how](package)  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=r"weight\.bin.*compile the model again"):
        Interpreter(read(package)).run({"x": np.zeros((3, 40), np.float32)})


def test_broken_packages(package: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"Manifest\.json"):
        read(tmp_path / "nothing.mlpackage")
    model = package / "Data/com.apple.CoreML/model.mlmodel"
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match="no Core ML model"):
        read(package)
    model.write_bytes(b"")
    with pytest.raises(IntegrityError, match="not an ML program"):
        read(package)
    model.unlink()
    with pytest.raises(IntegrityError, match=r"lacks com\.apple\.CoreML/model\.mlmodel"):
        read(package)
    (package / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(IntegrityError, match="rootModelIdentifier"):
        read(package)


def test_a_changed_weight_changes_the_result(package: Path) -> None:
    feeds = {"x": np.ones((3, 40), np.float32)}
    before = Interpreter(read(package)).run(feeds)["y"]
    content = bytearray(weights(package).read_bytes())
    content[-64:] = np.full(16, 3, np.float32).tobytes()
    weights(package).write_bytes(bytes(content))
    assert not np.allclose(Interpreter(read(package)).run(feeds)["y"], before)


def test_an_unknown_op_and_a_missing_input_are_named(package: Path) -> None:
    opened = read(package)
    with pytest.raises(JobError, match="input 'x' is missing"):
        Interpreter(opened).run({})
    block = next(iter(opened.functions["main"].block_specializations.values()))
    next(item for item in block.operations if item.type == "gelu").type = "frobnicate"
    with pytest.raises(JobError, match="frobnicate"):
        Interpreter(opened).run({"x": np.zeros((3, 40), np.float32)})


def test_a_result_of_another_shape_than_declared_is_an_error(package: Path) -> None:
    opened = read(package)
    block = next(iter(opened.functions["main"].block_specializations.values()))
    gelu = next(item for item in block.operations if item.type == "gelu")
    gelu.outputs[0].type.tensorType.dimensions[0].constant.size = 4
    with pytest.raises(JobError, match="declared is"):
        Interpreter(opened).run({"x": np.zeros((3, 40), np.float32)})


X = np.random.default_rng(3).normal(size=(2, 4, 6)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
UNIT = np.clip(X / 4, -0.9, 0.9)
INTEGERS = np.arange(24, dtype=np.int32).reshape(2, 3, 4) - 7

ORACLE: dict[str, list[dict[str, object]]] = {
    **{
        op: [{"x": X}]
        for op in (
            "abs",
            "atan",
            "ceil",
            "cos",
            "cosh",
            "erf",
            "exp",
            "exp2",
            "floor",
            "relu",
            "relu6",
            "round",
            "sigmoid",
            "sign",
            "sin",
            "sinh",
            "softplus",
            "softsign",
            "square",
            "tan",
            "tanh",
        )
    },
    **{op: [{"x": UNIT}] for op in ("acos", "asin", "atanh")},
    "sqrt": [{"x": POSITIVE}],
    "rsqrt": [{"x": POSITIVE, "epsilon": np.float32(0.01)}],
    "inverse": [{"x": POSITIVE, "epsilon": np.float32(0.01)}],
    "log": [{"x": POSITIVE, "epsilon": np.float32(0)}],
    **{
        op: [{"x": X, "y": X[:1] + 1}]
        for op in (
            "add",
            "sub",
            "mul",
            "maximum",
            "minimum",
            "greater",
            "greater_equal",
            "less",
            "less_equal",
            "equal",
            "not_equal",
            "real_div",
        )
    },
    "floor_div": [{"x": X, "y": POSITIVE}, {"x": INTEGERS, "y": np.int32(3)}],
    "mod": [{"x": X, "y": POSITIVE}, {"x": INTEGERS, "y": np.int32(-3)}],
    "pow": [{"x": POSITIVE, "y": X}],
    "clip": [{"x": X, "alpha": np.float32(-0.5), "beta": np.float32(0.7)}],
    "elu": [{"x": X, "alpha": np.float32(0.7)}],
    "leaky_relu": [{"x": X, "alpha": np.float32(0.2)}],
    "sigmoid_hard": [{"x": X, "alpha": np.float32(0.3), "beta": np.float32(0.4)}],
    "linear_activation": [{"x": X, "alpha": np.float32(0.3), "beta": np.float32(0.4)}],
    "scaled_tanh": [{"x": X, "alpha": np.float32(0.3), "beta": np.float32(0.4)}],
    "prelu": [{"x": X.reshape(1, 4, 6, 2), "alpha": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}],
    "thresholded_relu": [{"x": X, "alpha": np.float32(0.2)}],
    "threshold": [{"x": X, "alpha": np.float32(0.2)}],
    "gelu": [{"x": X, "mode": mode} for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")],
    "softmax": [{"x": X, "axis": 1}],
    "select": [{"cond": X > 0, "a": X, "b": -2 * X}],
    "linear": [{"x": X, "weight": X[0].copy(), "bias": X[0, :, 0].copy()}],
    "matmul": [
        {"x": X, "y": X, "transpose_x": False, "transpose_y": True},
        {"x": X, "y": X, "transpose_x": True, "transpose_y": False},
    ],
    "layer_norm": [
        {
            "x": X,
            "axes": np.array([-1]),
            "gamma": X[0, 0].copy(),
            "beta": X[0, 1].copy(),
            "epsilon": np.float32(0.01),
        }
    ],
    "l2_norm": [{"x": X, "epsilon": np.float32(0.01)}],
    **{
        op: [{"x": POSITIVE, "axes": np.array([0, 2]), "keep_dims": keep} for keep in (True, False)]
        for op in (
            "reduce_max",
            "reduce_min",
            "reduce_mean",
            "reduce_prod",
            "reduce_sum",
            "reduce_l1_norm",
            "reduce_l2_norm",
            "reduce_log_sum",
            "reduce_log_sum_exp",
            "reduce_sum_square",
        )
    },
    "reduce_argmax": [{"x": X, "axis": 1, "keep_dims": True}],
    "reduce_argmin": [{"x": X, "axis": 2, "keep_dims": False}],
    "reshape": [{"x": X, "shape": np.array([4, -1])}],
    "transpose": [{"x": X, "perm": np.array([2, 0, 1])}],
    "expand_dims": [{"x": X, "axes": np.array([0, -1])}],
    "squeeze": [{"x": X[:1], "axes": np.array([0])}],
    "reverse": [{"x": X, "axes": np.array([1, 2])}],
    "tile": [{"x": X, "reps": np.array([2, 1, 3])}],
    "pad": [
        {"x": X, "pad": np.array([1, 2, 0, 3]), "mode": mode, "constant_val": np.float32(0.5)}
        for mode in ("constant", "reflect", "replicate")
    ],
    "slice_by_index": [
        {
            "x": X,
            "begin": np.array([0, 3, -2]),
            "end": np.array([1, 0, 9]),
            "stride": np.array([1, -1, 1]),
            "begin_mask": [False, False, False],
            "end_mask": [True, True, True],
            "squeeze_mask": [True, False, False],
        }
    ],
    "slice_by_size": [{"x": X, "begin": np.array([0, 1, 2]), "size": np.array([-1, 2, 3])}],
    "band_part": [{"x": X, "lower": 1, "upper": -1}, {"x": X, "lower": -1, "upper": 0}],
    "gather": [{"x": X, "indices": np.array([[2, 0], [1, 3]]), "axis": 1}],
    "gather_along_axis": [{"x": X, "indices": np.tile(np.array([[0], [3], [1], [2]]), (2, 1, 6)), "axis": 1}],
    "topk": [{"x": X, "k": 3, "axis": 2, "ascending": False}, {"x": X, "k": 2, "axis": 1, "ascending": True}],
    "argsort": [{"x": X, "axis": 1, "ascending": True}],
    "cumsum": [
        {"x": X, "axis": 1, "exclusive": False, "reverse": False},
        {"x": X, "axis": 2, "exclusive": False, "reverse": True},
    ],
    "range_1d": [{"start": np.int32(2), "end": np.int32(9), "step": np.int32(3)}],
    "shape": [{"x": X}],
    "fill": [{"shape": np.array([2, 3]), "value": np.float32(4)}],
    "scaled_dot_product_attention": [
        {"query": X, "key": X[:, :, ::-1].copy(), "value": X * 2, "attn_mask": X[:, :, :4].copy()}
    ],
    "constexpr_affine_dequantize": [
        {
            "quantized_data": np.arange(12, dtype=np.int8).reshape(3, 4),
            "zero_point": np.int8(3),
            "scale": np.array([0.5, 1, 2], np.float32),
            "axis": 0,
        }
    ],
    "constexpr_blockwise_shift_scale": [
        {
            "data": np.arange(16, dtype=np.int8).reshape(2, 8),
            "offset": np.array([[1, 2], [3, 4]], np.int8),
            "scale": np.array([[0.5, 1], [2, 3]], np.float32),
        }
    ],
    "constexpr_lut_to_dense": [
        {
            "indices": np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8).astype(np.uint8),
            "lut": np.array([0.5, 1, 2, 3], np.float32).reshape(1, 1, 4, 1),
        }
    ],
}

PLACES = [(op, index) for op, cases in ORACLE.items() for index in range(len(cases))]


@pytest.mark.parametrize(("op", "number"), PLACES)
def test_kernel_against_coremltools_own_arithmetic(op: str, number: int) -> None:
    """Many of MIL's ops carry Apple's own numpy semantics, `value_inference`: an oracle from outside."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function, types

    given_ = ORACLE[op][number]
    # Some of coremltools' own functions write into what they are given.
    inputs = {
        key: np.array(value) if isinstance(value, np.ndarray) else value for key, value in given_.items()
    }
    if op == "constexpr_lut_to_dense":
        two_bits = types.nptype_from_builtin(types.string_to_builtin("uint2"))
        inputs["indices"] = np.asarray(given_["indices"]).astype(two_bits)
    placeholder = {"unused": mb.placeholder(shape=(1,))}
    with Function(placeholder, opset_version=ct.target.iOS18):
        result = getattr(mb, op)(**inputs)
    results = result if isinstance(result, (list, tuple)) else [result]
    wanted = [
        item.op.materialized_val_inference() if op.startswith("constexpr_") else item.val for item in results
    ]
    assert all(value is not None for value in wanted), "coremltools infers no value for it"
    bindings = {
        key: [value if isinstance(value, str) else np.asarray(value)] for key, value in given_.items()
    }
    before = {key: np.array(value[0]) for key, value in bindings.items()}
    found = kernels()[op](Arguments(op, bindings, "CoreML8"))
    for key, value in before.items():
        np.testing.assert_array_equal(value, bindings[key][0], err_msg=f"the kernel writes into {key}")
    found = found if isinstance(found, (list, tuple)) else [found]
    for want, got in zip(wanted, found, strict=True):
        assert np.shape(got) == np.shape(want)
        np.testing.assert_allclose(np.asarray(got, float), np.asarray(want, float), rtol=1e-5, atol=1e-6)
