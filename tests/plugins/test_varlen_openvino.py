"""Batches without padding as OpenVINO runs them, against the definitions."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from bodies import run_body
from varlen_bodies import exact_attention

from edgec.core.graph import Arrays
from edgec.plugins.bindings.openvino import openvino_library
from edgec.plugins.infra import plugins
from edgec.targets.x86.bf16 import kernels_in_bf16

openvino = pytest.importorskip("openvino")

FLOAT, INT32, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.BOOL


@pytest.fixture(scope="module")
def core():  # type: ignore[no-untyped-def]
    made = openvino.Core()
    made.add_extension(str(openvino_library()))
    return made


def proto_of(op_type: str, inputs: dict, outputs: dict, **attributes: int) -> onnx.ModelProto:
    """A model of one op; `inputs` and `outputs` are element type and rank by name."""
    function = ir.to_proto(plugins()[op_type].function())
    given = [
        onnx.helper.make_tensor_value_info(name, element, [f"{name}{axis}" for axis in range(rank)])
        for name, (element, rank) in inputs.items()
    ]
    made = [onnx.helper.make_tensor_value_info(name, element, None) for name, (element, _) in outputs.items()]
    node = onnx.helper.make_node(op_type, list(inputs), list(outputs), domain="ai.edgec", **attributes)
    graph = onnx.helper.make_graph([node], op_type, given, made)
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.edgec", 1)]
    return onnx.helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=11)


ATTENTION = proto_of(
    "VarlenAttention",
    {"query": (FLOAT, 3), "key": (FLOAT, 3), "value": (FLOAT, 3), "cu_seqlens": (INT32, 1)},
    {"output": (FLOAT, 3)},
)
WINDOW = proto_of(
    "VarlenWindowAttention",
    {
        **dict.fromkeys(("query", "key", "value"), (FLOAT, 3)),
        **dict.fromkeys(("cu_seqlens", "places"), (INT32, 1)),
    },
    {"output": (FLOAT, 3)},
    window=20,
)
PACK = proto_of(
    "PackTokens",
    {"tokens": (FLOAT, 3), "visible": (BOOL, 2)},
    {"packed": (FLOAT, 3), "cu_seqlens": (INT32, 1)},
)
UNPACK = proto_of("UnpackTokens", {"packed": (FLOAT, 3), "visible": (BOOL, 2)}, {"tokens": (FLOAT, 3)})


@pytest.fixture(scope="module")
def compiled(core):  # type: ignore[no-untyped-def]
    """Each op in OpenVINO, shapes open, and its body in ONNX Runtime."""

    def both(proto: onnx.ModelProto):  # type: ignore[no-untyped-def]
        bare = onnx.ModelProto()
        bare.CopyFrom(proto)
        del bare.functions[:]
        ours = core.compile_model(
            core.read_model(bare.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return ours, session

    return {
        "pack": both(PACK),
        "unpack": both(UNPACK),
        "attention": both(ATTENTION),
        "window": both(WINDOW),
    }


def exactly(feeds: Arrays, window: int | None = None) -> tuple[np.ndarray, float]:
    """Attention within sequences in float64, and how far fp32 may be from it; in a window where one is given.

    A logit is a sum of `depth` products: in fp32 it is off by some units of its terms' magnitudes, a weight
    by that times itself, and an output by twice that (numerator, denominator) times the largest value.
    """
    output, _, terms = exact_attention(feeds, feeds["query"].shape[2] ** -0.5, window)
    unit = np.finfo(np.float32).eps
    return output, (4 * terms.max(initial=0.0) + 8) * unit * np.abs(feeds["value"]).max()


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(
        st.one_of(st.integers(0, 9), st.sampled_from([63, 64, 65, 119, 120, 121, 130, 250])),
        min_size=1,
        max_size=4,
    ),
    heads=st.integers(1, 3),
    depth=st.sampled_from([1, 3, 8, 16, 20, 32, 64, 80]),
    spread=st.sampled_from([0.3, 1.0, 20.0]),
    seed=st.integers(0, 999),
)
def test_attention_is_the_definition(compiled, lengths, heads, depth, spread, seed) -> None:  # type: ignore[no-untyped-def]
    feeds = drawn_feeds(lengths, heads, depth, spread, seed)
    if not len(feeds["query"]):
        return
    [found] = compiled["attention"][0](feeds).values()
    expected, allowed = exactly(feeds)
    assert np.abs(found - expected).max() <= allowed
    assert np.abs(run_body("VarlenAttention", feeds)[0] - expected).max() <= allowed


def drawn_feeds(lengths: list[int], heads: int, depth: int, spread: float, seed: int) -> Arrays:
    drawn = np.random.default_rng(seed)
    ends = np.cumsum([0, *lengths]).astype(np.int32)
    feeds = {
        name: (spread * drawn.normal(size=(ends[-1], heads, depth))).astype(np.float32)
        for name in ("query", "key", "value")
    }
    return {**feeds, "cu_seqlens": ends}


def test_long_sequences_are_shared_among_tasks(compiled) -> None:  # type: ignore[no-untyped-def]
    # More panels of queries than one task takes, the last of them not whole, beside a short sequence.
    feeds = drawn_feeds([1100, 5], 2, 32, 1.0, 7)
    [found] = compiled["attention"][0](feeds).values()
    expected, allowed = exactly(feeds)
    assert np.abs(found - expected).max() <= allowed


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 40), st.sampled_from([120, 250, 700])), min_size=1, max_size=3),
    heads=st.integers(1, 2),
    depth=st.sampled_from([1, 3, 16, 32]),
    gaps=st.sampled_from([1, 2, 15]),
    seed=st.integers(0, 999),
)
def test_a_window_is_the_definition(compiled, lengths, heads, depth, gaps, seed) -> None:  # type: ignore[no-untyped-def]
    feeds = drawn_feeds(lengths, heads, depth, 1.0, seed)
    if not len(feeds["query"]):
        return
    # Places rise by one, or by more where something was hidden between; each sequence begins anew.
    steps = np.random.default_rng(seed).integers(1, gaps + 1, len(feeds["query"])).astype(np.int32)
    feeds["places"] = np.concatenate(
        [np.cumsum(steps[begin:end]) for begin, end in itertools.pairwise(feeds["cu_seqlens"])]
    ).astype(np.int32)
    [found] = compiled["window"][0](feeds).values()
    expected, allowed = exactly(feeds, window=20)
    assert np.abs(found - expected).max() <= allowed
    assert np.abs(compiled["window"][1].run(None, feeds)[0] - expected).max() <= allowed


@pytest.fixture(scope="module")
def in_bf16(core):  # type: ignore[no-untyped-def]
    bare = onnx.ModelProto()
    bare.CopyFrom(ATTENTION)
    del bare.functions[:]
    model = core.read_model(bare.SerializeToString())
    kernels_in_bf16(model)
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 9), st.sampled_from([65, 121, 250])), min_size=1, max_size=3),
    heads=st.integers(1, 3),
    depth=st.sampled_from([1, 3, 8, 16, 20, 32, 64, 80]),
    spread=st.sampled_from([0.3, 1.0, 5.0]),
    seed=st.integers(0, 999),
)
def test_attention_in_bf16_is_off_by_its_rounding_only(in_bf16, lengths, heads, depth, spread, seed) -> None:  # type: ignore[no-untyped-def]
    feeds = drawn_feeds(lengths, heads, depth, spread, seed)
    for name in ("query", "key", "value"):
        feeds[name] = feeds[name].astype(ml_dtypes.bfloat16).astype(np.float32)
    [found] = in_bf16(feeds).values()
    expected, allowed = exactly(feeds)
    # Products of bf16 are exact in fp32. A weight is rounded where the processor multiplies bf16, and the
    # output is: each to half a unit of its eight bits.
    unit = float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)
    assert np.abs(found - expected).max() <= allowed + unit * np.abs(feeds["value"]).max()


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4), length=st.integers(1, 9), channels=st.integers(1, 5), seed=st.integers(0, 999)
)
def test_packing_and_unpacking_are_the_definitions(compiled, batch, length, channels, seed) -> None:  # type: ignore[no-untyped-def]
    drawn = np.random.default_rng(seed)
    tokens = drawn.normal(size=(batch, length, channels)).astype(np.float32)
    visible = drawn.random((batch, length)) < drawn.choice([0.2, 0.6, 1.0])
    packed, ends = compiled["pack"][0]({"tokens": tokens, "visible": visible}).values()
    expected = compiled["pack"][1].run(None, {"tokens": tokens, "visible": visible})
    np.testing.assert_array_equal(packed, expected[0])
    np.testing.assert_array_equal(ends, expected[1])
    np.testing.assert_array_equal(packed[0], tokens[visible])
    feeds = {"packed": np.ascontiguousarray(packed), "visible": visible}
    [back] = compiled["unpack"][0](feeds).values()
    np.testing.assert_array_equal(back, compiled["unpack"][1].run(None, feeds)[0])
    np.testing.assert_array_equal(back, np.where(visible[..., None], tokens, 0))
