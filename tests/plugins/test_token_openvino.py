"""The token ops as OpenVINO runs them, in graphs of both precisions, against their definitions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from token_bodies import model, run_body

from edgec.plugins.bindings.openvino import build as native_build

openvino = pytest.importorskip("openvino")

SHAPES = [(1, 197, 384, 6, 64, 13, 1), (2, 18, 5, 3, 7, 4, 0), (3, 33, 16, 1, 16, 15, 2)]


@pytest.fixture(scope="module")
def core():  # type: ignore[no-untyped-def]
    made = openvino.Core()
    made.add_extension(str(native_build.openvino_library()))
    return made


def infer(core, op_type: str, feeds: dict, attributes: dict, precision: str) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    proto = model(op_type, attributes)
    del proto.functions[:]
    read = core.read_model(proto.SerializeToString())
    read.reshape({name: array.shape for name, array in feeds.items()})
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return [np.array(value) for value in compiled(feeds).values()]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op_type", ["TokenMerge", "TokenMergeEnergy", "TokenPrune"])
def test_openvino_computes_the_definition(core, op_type: str, shape: tuple, precision: str) -> None:  # type: ignore[no-untyped-def]
    batch, length, channels, heads, depth, r, protected = shape
    rng = np.random.default_rng(3)
    feeds = {
        "tokens": rng.normal(size=(batch, length, channels)).astype(np.float32),
        "metric": rng.integers(-2, 3, (batch, heads, length, depth)).astype(np.float32),
        "sizes": rng.integers(1, 4, (batch, length, 1)).astype(np.float32),
    }
    attributes: dict = {"r": r, "protected": protected}
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(0, 9, (batch, length)).astype(np.float32)
        attributes["merge"] = 1
    if op_type == "TokenMergeEnergy":
        attributes["margin"] = 0.25
    actual = infer(core, op_type, feeds, attributes, precision)
    expected = run_body(op_type, feeds, **attributes)
    np.testing.assert_array_equal(actual[2], expected[2])
    np.testing.assert_array_equal(actual[1], expected[1])
    # The op itself computes in float32 in either precision.
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)


POOL = [(0, 0), (0, 2), (1, 0), (1, 1), (2, 3), (5, 1), (8, 0), (13, 1)]
"""r and protected tokens; each is one model, for all shapes."""


@pytest.mark.parametrize("op_type", ["TokenMerge", "TokenMergeEnergy", "TokenPrune", "TokenRestore"])
def test_openvino_equals_the_body_on_drawn_cases(core, op_type: str) -> None:  # type: ignore[no-untyped-def]
    """500 an op: odd lengths, r of 0 and of the maximum, ties, equal tokens, padding, batches."""
    rng = np.random.default_rng(5)
    pool = [None] if op_type == "TokenRestore" else POOL
    for place, pair in enumerate(pool):
        attributes = {} if pair is None else {"r": pair[0], "protected": pair[1]}
        if op_type == "TokenPrune":
            attributes["merge"] = place % 2
        proto = model(op_type, attributes)
        del proto.functions[:]
        compiled = core.compile_model(
            core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_NUM_THREADS": 1}
        )
        for _ in range(-(-500 // len(pool))):
            feeds = _drawn(rng, op_type, pair)
            expected = run_body(op_type, feeds, **attributes)
            actual = [np.array(value) for value in compiled(feeds).values()]
            for one, other in zip(actual[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-5)


def _drawn(rng: np.random.Generator, op_type: str, pair: tuple[int, int] | None) -> dict[str, np.ndarray]:
    batch, channels = rng.integers(1, 4), rng.choice([1, 5, 16, 33])
    if pair is None:
        tokens = rng.normal(size=(batch, rng.integers(1, 12), channels)).astype(np.float32)
        places = rng.integers(0, tokens.shape[1], (batch, rng.integers(1, 30))).astype(np.int32)
        return {"tokens": tokens, "assignment": places}
    r, protected = pair
    least = max(2, r + 1 if op_type == "TokenPrune" else 2 * r)
    length = protected + least + rng.choice([0, 1, 2, 7])
    metric = rng.integers(-2, 3, (batch, rng.integers(1, 4), length, rng.choice([1, 3, 16])))
    if rng.random() < 0.3:
        metric[:] = metric[:, :, :1]
    feeds = {
        "tokens": rng.normal(size=(batch, length, channels)),
        "metric": metric,
        "sizes": rng.integers(int(rng.random() < 0.5), 4, (batch, length, 1)),
    }
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(-3, 4, (batch, length))
    return {name: array.astype(np.float32) for name, array in feeds.items()}


def test_openvino_restores(core) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(4)
    feeds = {
        "tokens": rng.normal(size=(2, 5, 7)).astype(np.float32),
        "assignment": rng.integers(0, 5, (2, 9)).astype(np.int32),
    }
    [actual] = infer(core, "TokenRestore", feeds, {}, "f32")
    [expected] = run_body("TokenRestore", feeds)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(actual[1, 3], feeds["tokens"][1, feeds["assignment"][1, 3]])


def test_a_library_is_compiled_once() -> None:
    first = native_build.openvino_library()
    stamp = first.stat().st_mtime_ns
    assert native_build.openvino_library() == first
    assert first.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", ["cut short", "a byte changed", "empty"])
def test_a_damaged_library_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(
        f'#!/bin/sh\nfor made; do :; done\n[ "$made" = --version ] && exit 0\n'
        f'echo {"library " * 20} > "$made"\necho >> {tmp_path / "calls"}\n',
        encoding="utf-8",
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    kept = native_build.kernel_library()
    whole, calls = kept.read_bytes(), (tmp_path / "calls").stat().st_size
    assert native_build.kernel_library() == kept
    assert (tmp_path / "calls").stat().st_size == calls
    kept.write_bytes({"cut short": whole[:-7], "a byte changed": b"x" + whole[1:], "empty": b""}[damage])
    assert native_build.kernel_library() == kept
    assert kept.read_bytes() == whole
    assert (tmp_path / "calls").stat().st_size == 2 * calls


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgec.core.errors import JobError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(JobError, match="no C\\+\\+ compiler"):
        native_build.kernel_library()
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op_type", ["TokenMerge", "TokenMergeEnergy", "TokenPrune"])
def test_bf16_tokens_are_reduced_as_their_values_in_float32(core, op_type: str, shape: tuple) -> None:  # type: ignore[no-untyped-def]
    from openvino import opset13

    batch, length, channels, heads, depth, r, protected = shape
    rng = np.random.default_rng(4)
    feeds = {
        # Whole numbers to 200 are bf16 numbers, so rounding happens on the way out only.
        "tokens": rng.integers(-200, 200, (batch, length, channels)).astype(np.float32),
        "metric": rng.integers(-2, 3, (batch, heads, length, depth)).astype(np.float32),
        "sizes": rng.integers(1, 4, (batch, length, 1)).astype(np.float32),
    }
    attributes: dict = {"r": r, "protected": protected}
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(0, 9, (batch, length)).astype(np.float32)
        attributes["merge"] = 1
    proto = model(op_type, attributes)
    del proto.functions[:]
    read = core.read_model(proto.SerializeToString())
    read.reshape({name: array.shape for name, array in feeds.items()})
    [node] = [op for op in read.get_ordered_ops() if op.get_type_name() == op_type]
    for index in (0, node.get_input_size() - 2):
        half = opset13.convert(node.input_value(index), "bf16")
        node.input(index).replace_source_output(half.output(0))
    [reader] = node.output(0).get_target_inputs()
    reader.replace_source_output(opset13.convert(node.output(0), "f32").output(0))
    read.validate_nodes_and_infer_types()
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = [np.array(value) for value in compiled(feeds).values()]
    expected = run_body(op_type, feeds, **attributes)
    np.testing.assert_array_equal(actual[2], expected[2])
    np.testing.assert_array_equal(actual[1], expected[1])
    # Half of bf16's last place, which is 2^-8 of the value.
    np.testing.assert_allclose(actual[0], expected[0], rtol=2.0**-8, atol=2.0**-8)


def test_openvino_computes_the_bias_of_sizes(core) -> None:  # type: ignore[no-untyped-def]
    sizes = np.array([[1, 2, 0, 7.5, 1e-30]], np.float32)[..., None].repeat(2, axis=0) * [[[1]], [[3]]]
    feeds = {"sizes": sizes.astype(np.float32)}
    attributes = {"heads": 3, "floor": 1e-20}
    [actual] = infer(core, "SizeBias", feeds, attributes, "f32")
    assert actual.shape == (2, 3, 1, 5)
    np.testing.assert_allclose(actual, run_body("SizeBias", feeds, **attributes)[0], rtol=1e-6)
    np.testing.assert_allclose(actual[1, 2, 0, :2], np.log([3, 6]), rtol=1e-6)
